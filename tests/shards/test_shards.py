"""The output folder: commits, claims, journals, and what it refuses."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synth.errors import JobError, OutputError, SynthError, SystemFault
from synth.shards import Origin, OutputFolder

SCHEMA = pa.schema([("id", pa.string()), ("query", pa.large_string()), ("tokens", pa.int32())])


@pytest.fixture
def notices():
    return []


@pytest.fixture
def folder(tmp_path, notices):
    folder = OutputFolder.open(tmp_path / "out", write=True, notify=notices.append)
    folder.put_if_absent("job.json", b"{}")
    return folder


@pytest.fixture
def step(folder):
    return folder.step("generated")


def rows(*ids, tokens=5):
    return pa.table([list(ids), [f"what does {i} say?" for i in ids], [tokens] * len(ids)], schema=SCHEMA)


def origin(rows_in, rows_out, **changes):
    values = {"identity": "ab" * 32, "input": "cd" * 32, "first": 3000, "schema": "1", "models": ("m1", "m2")}
    return Origin(**{**values, "rows_in": rows_in, "rows_out": rows_out, **changes})


def refuse(code):
    def call(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    return call


def snapshot(path):
    return {file: file.stat().st_mtime_ns for file in path.rglob("*")}


# --- opening


def test_a_missing_folder_is_created_by_the_first_write_with_its_parents(tmp_path):
    path = tmp_path / "a" / "b"
    folder = OutputFolder.open(path, write=True)
    assert folder.path == path.resolve()
    assert not (tmp_path / "a").exists()
    assert folder.put_if_absent("job.json", b"{}")
    assert (path / "job.json").read_bytes() == b"{}"


def test_a_folder_that_goes_missing_at_work_is_not_made_again(folder, tmp_path):
    folder.put_if_absent("job.json", b"{}")
    folder.path.rename(tmp_path / "moved")
    with pytest.raises(SystemFault, match="Put the folder back"):
        folder.step("generated").claim(0)
    assert not folder.path.exists()


def test_a_missing_folder_cannot_be_read(tmp_path):
    with pytest.raises(JobError, match="output folder does not exist"):
        OutputFolder.open(tmp_path / "nowhere")


def test_opening_an_existing_run_writes_nothing(folder, step):
    step.commit(0, rows("a"), origin(2, 1), rejects=rows("b"))
    before = snapshot(folder.path)
    again = OutputFolder.open(folder.path, write=True).step("generated")
    assert (again.done(), again.started()) == ({0}, [])
    again.settle()
    assert snapshot(folder.path) == before


def test_a_folder_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("\\title{}")
    with pytest.raises(OutputError, match=r"not an output folder of synth.*thesis\.tex"):
        OutputFolder.open(tmp_path, write=True)


def test_a_run_that_died_before_its_job_file_can_be_opened(tmp_path):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "job.json.0123").write_text("{")
    assert OutputFolder.open(tmp_path, write=True).put_if_absent("job.json", b"{}")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError):
        OutputFolder.open(tmp_path / "out", write=True)


def test_a_folder_without_permission_is_a_system_fault_for_writers_only(folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SystemFault, match="permission"):
        OutputFolder.open(folder.path, write=True)
    assert OutputFolder.open(folder.path).step("generated").done() == set()


def test_a_planted_link_is_refused(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (folder.path / "generated").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="symbolic link"):
        folder.step("generated")


def test_a_link_planted_after_opening_gets_no_shard(folder, step, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (folder.path / "generated").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="symbolic link"):
        step.commit(0, rows("a"), origin(1, 1))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_link_in_place_of_a_journal_or_a_shard_is_refused(folder, step, tmp_path):
    target = tmp_path / "precious"
    target.write_text("do not touch")
    (folder.path / "wip").mkdir()
    (folder.path / "wip" / "generated-00000000.jnl").symlink_to(target)
    with pytest.raises(OutputError, match="symbolic link"):
        step.claim(0)
    step.commit(1, rows("a"), origin(1, 1))
    step.file(2).symlink_to(target)
    with pytest.raises(OutputError, match=r"00000002\.parquet"):
        step.done()
    assert target.read_text() == "do not touch"


@pytest.mark.parametrize("name", ["../x", "/etc", "a/../b", "", ".", "a//b", "a b", "x\n", "~", "ü"])
def test_names_that_are_not_plain_are_refused(folder, name):
    with pytest.raises(JobError):
        folder.step(name)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b", "", "prompts/a b.jinja"])
def test_small_files_cannot_lie_outside(folder, name):
    with pytest.raises(JobError):
        folder.put_if_absent(name, b"")


def test_some_columns_come_in_the_order_asked_for_and_no_other_whatever_they_are_called(step):
    table = pa.table({"id": ["0-0"], "a.b": ["dot"], "a": ["plain"], "query": ["q"]})
    step.commit(0, table, origin(1, 1))
    assert step.read_columns(0, ["query", "a"]).to_pylist() == [{"query": "q", "a": "plain"}]
    assert step.read_columns(0, ["query", "a"]).column_names == ["query", "a"]
    assert step.read_columns(0, ["a.b"]).to_pylist() == [{"a.b": "dot"}]


READ_AND_COUNT_THREADS = """
import os, sys
from pathlib import Path
from synth.shards import OutputFolder
step = OutputFolder.open(Path(sys.argv[1])).step("generated")
before = len(os.listdir("/proc/self/task"))
step.read(0), step.meta(0), step.schema(0)
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted where Linux lists them")
def test_reading_leaves_no_thread_that_could_abort_the_process_when_python_ends(folder, step):
    step.commit(0, rows("0-0", "0-1"), origin(2, 2))
    command = [sys.executable, "-c", READ_AND_COUNT_THREADS, str(folder.path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["0"]


# --- small files


def test_a_small_file_is_put_once(folder):
    assert folder.put_if_absent("prompts/query.jinja", b"one")
    assert not folder.put_if_absent(folder.path / "prompts" / "query.jinja", b"two")
    assert (folder.path / "prompts" / "query.jinja").read_bytes() == b"one"


def test_a_small_file_is_replaced(folder):
    folder.replace_atomically("README.md", b"one")
    folder.replace_atomically("README.md", b"two")
    assert (folder.path / "README.md").read_bytes() == b"two"
    assert list((folder.path / "tmp").iterdir()) == []


# --- commits


def test_a_shard_comes_back_as_it_was_committed(step):
    assert step.commit(42, rows("a", "b"), origin(3, 2), rejects=rows("c"))
    shard = step.read(42)
    assert shard.table.equals(rows("a", "b"))
    assert shard.table.schema.metadata is None
    assert shard.meta == step.meta(42)
    assert (shard.meta.shard, shard.meta.rows_in, shard.meta.rows_out, shard.meta.rejected) == (42, 3, 2, 1)
    assert (shard.meta.first, shard.meta.models, shard.meta.input) == (3000, ("m1", "m2"), "cd" * 32)
    assert shard.meta.writer.startswith("synth ")
    assert step.rejects(42).equals(rows("c"))


def test_rejected_rows_have_a_link_that_a_glob_finds(folder, step):
    step.commit(7, rows("a"), origin(2, 1), rejects=rows("b"))
    assert pq.read_table(folder.path / "rejected" / "generated" / "00000007.parquet")["id"].to_pylist() == ["b"]


def test_the_links_of_rejected_rows_are_made_by_any_later_run(folder, step):
    step.commit(7, rows("a"), origin(2, 1), rejects=rows("b"))
    link = folder.path / "rejected" / "generated" / "00000007.parquet"
    link.unlink()
    step.settle()
    assert link.stat().st_nlink == 2


def test_a_shard_without_rejects_names_none(folder, step):
    step.commit(0, rows("a"), origin(1, 1), rejects=rows())
    assert step.rejects(0) is None
    assert not (folder.path / ".rejects").exists()


def test_a_shard_without_rows_keeps_its_columns(step):
    step.commit(0, rows(), origin(2, 0), rejects=rows("a", "b"))
    assert step.read(0).table.schema == SCHEMA
    assert pq.read_metadata(step.path / "00000000.parquet").num_row_groups == 0, "datasets refuses an empty row group"


def test_the_bytes_do_not_show_how_the_table_was_put_together(folder):
    whole = rows(*(f"p{n}" for n in range(2500)))
    pieces = pa.concat_tables([whole.slice(0, 700), whole.slice(700, 1), whole.slice(701)])
    for name, table in (("views/a", whole), ("views/b", pieces.replace_schema_metadata({"pandas": "{}"}))):
        folder.step(name).commit(0, table, origin(2500, 2500))
    assert folder.step("views/a").checksum(0) == folder.step("views/b").checksum(0)


def test_rows_that_do_not_add_up_are_never_written(step):
    with pytest.raises(SynthError, match="3 rows in, but 1 out and 1 rejected"):
        step.commit(0, rows("a"), origin(3, 1), rejects=rows("b"))
    assert step.done() == set()


def test_a_column_without_a_type_is_never_written(step):
    with pytest.raises(SynthError, match="without a type: note"):
        step.commit(0, pa.table({"id": ["a"], "note": [None]}), origin(1, 1))


def test_only_shards_count_as_done(step):
    step.commit(3, rows("a"), origin(1, 1))
    for name in ("0000004.parquet", "00000005.parquet.crc", "00000006.jsonl", "a0000007.parquet", "٠٠٠٠٠٠٠٨.parquet"):
        (step.path / name).write_bytes(b"")
    assert step.done() == {3}


def test_the_first_writer_wins_and_equal_bytes_are_no_news(folder, step, notices):
    assert step.commit(0, rows("a"), origin(1, 1))
    assert not step.commit(0, rows("a"), origin(1, 1))
    assert notices == []
    assert not step.commit(0, rows("a", tokens=6), origin(1, 1))
    assert len(notices) == 1
    assert "its copy stands" in notices[0]
    assert step.read(0).table["tokens"].to_pylist() == [5]
    assert list((folder.path / "tmp").iterdir()) == []


def test_the_loser_links_the_winners_rejected_rows(folder, step):
    step.commit(0, rows("a"), origin(2, 1), rejects=rows("b", tokens=1))
    link = folder.path / "rejected" / "generated" / "00000000.parquet"
    link.unlink()
    assert not step.commit(0, rows("a", tokens=9), origin(2, 1), rejects=rows("b", tokens=2))
    assert pq.read_table(link)["tokens"].to_pylist() == [1]


def test_of_many_writers_at_once_exactly_one_creates_the_shard(folder):
    barrier, created = threading.Barrier(8), []

    def write(number):
        mine = OutputFolder.open(folder.path, write=True, notify=lambda _line: None).step("generated")
        barrier.wait()
        created.append(mine.commit(0, rows("a", tokens=number), origin(2, 1), rejects=rows("b", tokens=number)))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(created) == [False] * 7 + [True]
    step = folder.step("generated")
    assert step.rejects(0)["tokens"].to_pylist() == step.read(0).table["tokens"].to_pylist()


def test_a_link_that_nfs_reported_as_a_clash_is_ours(step, monkeypatch):
    link = os.link

    def answered_twice(source, target):
        link(source, target)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr(os, "link", answered_twice)
    assert step.commit(0, rows("a"), origin(1, 1))


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.EXDEV])
def test_without_hard_links_a_rename_that_spares_names_commits(folder, step, notices, monkeypatch, code):
    monkeypatch.setattr(os, "link", refuse(code))
    assert step.commit(0, rows("a"), origin(2, 1), rejects=rows("b"))
    assert not step.commit(0, rows("x"), origin(2, 1), rejects=rows("b"))
    assert step.read(0).table["id"].to_pylist() == ["a"]
    assert (folder.path / "rejected" / "generated" / "00000000.parquet").exists()
    assert list((folder.path / "tmp").iterdir()) == []
    assert len(notices) == 1


def test_a_file_system_with_neither_is_refused_by_name(folder, step, monkeypatch):
    monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    monkeypatch.setattr("synth.shards.disk.rename_new", refuse(errno.EINVAL))  # no such file system can be had here
    with pytest.raises(SystemFault, match=r"file system \(\S+ on /.*\) offers neither hard links") as caught:
        step.commit(0, rows("a"), origin(1, 1))
    assert "-o" in caught.value.hint
    assert list((folder.path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("code", "cure"), [(errno.ENOSPC, "Free space"), (errno.EMFILE, "ulimit"), (errno.EIO, "Check")]
)
def test_a_disk_error_names_file_and_cure_and_keeps_the_journal(folder, step, monkeypatch, code, cure):
    journal = step.claim(0)
    journal.append("0-0", {"query": "who pays?"})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse(code))
        with pytest.raises(SystemFault, match=cure) as caught:
            step.commit(0, rows("a"), origin(1, 1))
    assert str(folder.path) in caught.value.message
    assert caught.value.hint.endswith("run the same command again.")
    assert list((folder.path / "tmp").iterdir()) == []
    journal.close()
    assert step.claim(0).get("0-0") == {"query": "who pays?"}


def test_a_folder_deleted_during_the_run_is_a_system_fault(folder, step):
    step.commit(0, rows("a"), origin(1, 1))
    folder.path.rename(folder.path.with_name("moved"))
    with pytest.raises(SystemFault, match="run the same command again"):
        step.commit(1, rows("a"), origin(1, 1))


# --- reading


def cut(data):
    return data[: len(data) // 2]


def zero_a_page(data):
    start = data.index(b"(\xb5/\xfd")  # the first zstd frame
    return data[:start] + bytes(40) + data[start + 40 :]


def flip_a_bit_of_a_page(data):
    start = data.index(b"(\xb5/\xfd") + 20
    return data[:start] + bytes([data[start] ^ 1]) + data[start + 1 :]


@pytest.mark.parametrize("harm", [cut, zero_a_page, flip_a_bit_of_a_page, lambda _: b"", lambda _: b"no Parquet\n" * 9])
def test_a_damaged_shard_is_named(step, harm):
    step.commit(5, rows(*map(str, range(99))), origin(99, 99))
    step.file(5).write_bytes(harm(step.file(5).read_bytes()))
    with pytest.raises(OutputError, match=r"00000005\.parquet: is damaged"):
        step.read(5)


@pytest.mark.parametrize("harm", [cut, lambda _: b"", lambda _: b"no Parquet\n" * 9])
def test_a_footer_that_cannot_be_read_is_named(step, harm):
    step.commit(5, rows("a"), origin(1, 1))
    step.file(5).write_bytes(harm(step.file(5).read_bytes()))
    with pytest.raises(OutputError, match=r"00000005\.parquet: is damaged"):
        step.meta(5)


def test_a_shard_that_is_gone_is_named(step):
    with pytest.raises(OutputError, match=r"00000005\.parquet: does not exist"):
        step.read(5)


def test_a_shard_under_another_number_is_refused(step):
    step.commit(5, rows("a"), origin(1, 1))
    step.file(5).rename(step.file(6))
    with pytest.raises(OutputError, match="holds shard 5"):
        step.meta(6)


def test_a_fifo_in_place_of_a_shard_does_not_hang_the_reader(step):
    step.commit(0, rows("a"), origin(1, 1))
    os.mkfifo(step.file(1))
    with pytest.raises(OutputError, match=r"00000001\.parquet"):
        step.read(1)


def test_parquet_of_another_program_is_refused(step):
    step.commit(0, rows("a"), origin(1, 1))
    pq.write_table(rows("a"), step.file(1))
    with pytest.raises(OutputError, match="not a shard of synth"):
        step.read(1)


def test_a_newer_format_is_refused(step):
    step.commit(0, rows("a"), origin(1, 1))
    keys = {**step.meta(0).to_keys(), "synth.format": "2"}
    pq.write_table(rows("a").replace_schema_metadata(keys), step.file(1))
    with pytest.raises(OutputError, match="newer synth"):
        step.meta(1)


def test_rejected_rows_that_were_exchanged_are_refused(folder, step):
    step.commit(0, rows("a"), origin(2, 1), rejects=rows("b"))
    body = folder.path / ".rejects" / "generated" / step.meta(0).rejects_file
    pq.write_table(rows("x"), body)
    with pytest.raises(OutputError, match="is damaged"):
        step.rejects(0)


def test_a_checksum_is_that_of_the_bytes_and_follows_them(step):
    step.commit(0, rows("a"), origin(1, 1))
    content = step.file(0).read_bytes()
    assert step.checksum(0) == step.checksum(0) == hashlib.sha256(content).hexdigest()
    step.file(0).write_bytes(content + b"x")
    assert step.checksum(0) == hashlib.sha256(content + b"x").hexdigest()


def test_a_shard_made_from_other_bytes_is_stale(folder, step):
    step.commit(0, rows("a"), origin(1, 1))
    scores = folder.step("scores/cosine-1a2b3c4d")
    scores.commit(0, rows("a"), origin(1, 1, input=step.checksum(0)))
    assert not scores.stale(0, step.checksum(0))
    assert scores.stale(0, "ef" * 32)


# --- claims and journals


def test_a_shard_has_one_worker_at_a_time(step):
    journal = step.claim(0)
    assert step.claim(0) is None
    journal.close()
    assert step.claim(0) is not None


def test_a_done_shard_cannot_be_claimed_and_its_left_journal_goes(folder, step):
    step.claim(0).close()
    step.commit(0, rows("a"), origin(1, 1))
    assert step.started() == [0]
    assert step.claim(0) is None
    assert list((folder.path / "wip").iterdir()) == []


def test_a_lock_on_a_journal_that_was_removed_meanwhile_is_worth_nothing(step, monkeypatch):
    flock = fcntl.flock

    def too_late(descriptor, operation):
        step_journal.unlink()
        flock(descriptor, operation)

    step.claim(0).close()
    (step_journal,) = (step.path.parent / "wip").iterdir()
    monkeypatch.setattr(fcntl, "flock", too_late)
    assert step.claim(0) is None


def test_started_shards_are_listed_by_step(folder):
    scores = folder.step("scores/cosine-1a2b3c4d")
    for step, index in ((folder.step("generated"), 3), (folder.step("generated"), 1), (scores, 2)):
        step.claim(index).close()
    assert folder.step("generated").started() == [1, 3]
    assert scores.started() == [2]


def test_writers_without_locks_keep_journals_of_their_own(step):
    one, other = step.claim(0, writer="w1"), step.claim(0, writer="w2")
    one.append("0-0", {"n": 1})
    assert other.get("0-0") is None
    assert step.started() == [0]


def test_a_file_system_without_locks_only_costs_work(step, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOLCK))
    assert step.claim(0) is not None


def test_a_journal_gives_back_what_was_appended(step):
    journal = step.claim(0)
    value = {"reply": 'a "quoted"\nline \x00 \u2028 漢字 \ud800', "tokens": [1, 2], "ok": None}
    journal.append("0-0/query/1", {"old": True})
    journal.append("0-0/query/1", value)
    journal.close()
    again = step.claim(0)
    assert again.get("0-0/query/1") == value
    assert again.get("0-1/query/1") is None
    assert len([*again.items()]) == 1
    again.drop()
    assert step.started() == []


@pytest.mark.parametrize(
    "harm", [b"", b"0", b"00000000 ", b'deadbeef ["k",{}]\n', bytes(4096), b"\n", b"\xff" * 30 + b"\n"]
)
def test_a_torn_tail_is_cut_and_appending_goes_on(step, harm):
    journal = step.claim(0)
    journal.append("a", {"n": 1})
    journal.close()
    with journal.path.open("ab") as file:
        file.write(harm)
    journal = step.claim(0)
    journal.append("b", {"n": 2})
    journal.close()
    journal = step.claim(0)
    assert [*journal.items()] == [("a", {"n": 1}), ("b", {"n": 2})]


def test_a_journal_whose_disk_filled_up_takes_the_torn_line_back(step, monkeypatch):
    write = os.write
    journal = step.claim(0)
    journal.append("a", {"n": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
        with pytest.raises(SystemFault, match="Free space"):
            journal.append("b", {"n": 2})
        patch.setattr(os, "ftruncate", refuse(errno.EIO))
        for _ in range(2):
            with pytest.raises(SystemFault):
                journal.append("b", {"n": 2})
    journal.append("c", {"n": 3})
    journal.close()
    journal = step.claim(0)
    assert [journal.get(key) for key in "abc"] == [{"n": 1}, None, {"n": 3}]


# --- views


def fill(folder, *ids, rejected=()):
    hidden = folder.step("kept", hidden=".kept-new")
    hidden.commit(0, rows(*ids), origin(len(ids) + len(rejected), len(ids)), rejects=rows(*rejected))


def links(folder):
    return sorted(path.name for path in (folder.path / "rejected" / "kept").glob("*"))


@pytest.mark.parametrize("code", [0, errno.EINVAL])
def test_a_view_is_exchanged_with_its_rejected_rows(folder, monkeypatch, code):
    if code:
        monkeypatch.setattr("synth.shards.disk.exchange", refuse(code))  # a file system without RENAME_EXCHANGE
    fill(folder, "a", rejected=["b", "c"])
    folder.swap_view(".kept-new", "kept")
    assert not (folder.path / ".kept-new").exists()
    assert links(folder) == ["00000000.parquet"]
    fill(folder, "a", "b", "c")
    assert folder.step("kept").read(0).table.num_rows == 1
    folder.swap_view(".kept-new", "kept")
    kept = folder.step("kept")
    assert kept.read(0).table.num_rows == 3
    assert kept.rejects(0) is None
    assert links(folder) == []
    assert pq.read_table(folder.path / ".kept-new" / "00000000.parquet").num_rows == 1
    assert not (folder.path / ".kept-new.old").exists()


def test_a_reader_that_opened_the_old_view_keeps_it(folder):
    fill(folder, "a")
    folder.swap_view(".kept-new", "kept")
    reader = os.open(folder.path / "kept", os.O_RDONLY)
    try:
        fill(folder, "a", "b")
        folder.swap_view(".kept-new", "kept")
        shard = os.open("00000000.parquet", os.O_RDONLY, dir_fd=reader)
        with os.fdopen(shard, "rb") as file:
            assert pq.read_metadata(file).num_rows == 1
    finally:
        os.close(reader)
