"""`synth verify` on a real run: sound as it is, and every way to damage it is found and named."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from loopback import Loopback, say

from synth.cli import main
from synth.verify import Report, verify

KEPT, PAIRS, PASSAGES = "kept/00000001.parquet", "generated/00000001.parquet", "passages/00000001.parquet"
TOPICS = ["tides", "lanterns", "bridges", "orchards", "glaciers", "weaving", "kilns", "sails"]


@pytest.fixture(scope="module", name="made")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 21 usable rows in three shards; some rows, items and pairs are rejected."""
    home = tmp_path_factory.mktemp("verify")
    with pytest.MonkeyPatch.context() as patch, Loopback() as server:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        server.chat = _answer
        run(home, server.url, home / "out")
    return home


def run(home: Path, url: str, out: Path, *, shard_size: int = 8) -> None:
    rows = [{"id": f"p{n}", "text": _text(n)} for n in range(21)] + [{"id": "short", "text": "Too short."}]
    rows.insert(4, {"id": "none", "text": ""})
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    job = {
        "corpus": {"path": str(home / "rows.jsonl"), "language": "en"},
        "personas": None,
        "llm": {"use": "vllm_server", "model": "tiny", "base_urls": [url]},
        "embed": {"use": "vllm_server", "model": "tiny", "base_urls": [url]},
        "task": {"use": "retrieval", "queries_per_passage": 2, "attempts": 1},
        "keep": {"cosine": {"above": 0.3}},
        "run": {"shard_size": shard_size},
    }
    (home / "job.yaml").write_text(yaml.safe_dump(job), "utf-8")
    assert main(["run", str(home / "job.yaml"), "-o", str(out), "--json"]) == 0


def _text(n: int) -> str:
    return f"Entry {n} is about {TOPICS[n % 8]}, which people of valley {n} have looked after for {n + 20} years."


def _answer(body: dict[str, Any]) -> dict[str, Any]:
    """Queries of the passage's own words for most, of none of them for some, and no JSON for a few."""
    prompt = body["messages"][-1]["content"]
    number = int(prompt.split("Entry ")[1].split(" ")[0])
    schema = body["response_format"]["json_schema"]["schema"]
    if "Query" not in schema["properties"]:
        again = prompt.split("Already used")[-1] if "Already used" in prompt else ""
        kinds = [kind for kind in schema["properties"]["Question_Type"]["enum"] if kind not in again]
        values = {name: part["enum"][0] for name, part in schema["properties"].items()}
        return say(json.dumps(values | {"Question_Type": kinds[0]}))
    second = "Already written" in prompt
    if number % 9 == 5 and second:
        return say("no JSON at all")
    if number % 7 == 3:
        return say(json.dumps({"Query": f"zzz qqq xxx {'vvv' if second else 'www'} jjj"}))
    return say(
        json.dumps({"Query": f"{TOPICS[number % 8]} of valley {number} {'years looked' if second else 'people'}"})
    )


@pytest.fixture(name="out")
def copy_of_run(made: Path, tmp_path: Path) -> Path:
    """A copy of the run that may be damaged, hard links and all."""
    copy = tmp_path / "out"
    shutil.copytree(made / "out", copy)
    for link in (copy / "rejected").rglob("*.parquet"):
        body = next((copy / ".rejects" / link.relative_to(copy / "rejected").parent).glob(f"{link.stem}-*"))
        link.unlink()
        link.hardlink_to(body)
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_run_is_sound(out: Path, *, deep: bool) -> None:
    report = verify(out, deep=deep)
    assert (report.damage, report.notes) == ((), ())
    assert report.complete
    steps = {step.step: (step.shards, step.rows_in, step.rows_out, step.rejected) for step in report.steps}
    assert steps["passages"] == (3, 23, 21, 2)
    assert steps["generated"] == (3, 42, 40, 2)
    assert steps["kept"][1] == 40
    assert steps["kept"][3] > 0
    assert {steps[name][:2] for name in steps if name.startswith("scores/")} == {(3, 40)}


def _chunk(path: Path, column: str) -> tuple[int, int]:
    """Where the data of a column begin in the file, and how long they are."""
    group = pq.read_metadata(path).row_group(0)
    chunk = next(group.column(n) for n in range(group.num_columns) if group.column(n).path_in_schema == column)
    return chunk.dictionary_page_offset or chunk.data_page_offset, chunk.total_compressed_size


def _flip(path: Path, column: str = "id") -> None:
    """Change one byte of a page, as a bad disk does, without touching name, size or footer."""
    start, length = _chunk(path, column)
    content = bytearray(path.read_bytes())
    content[start + length - 2] ^= 0x40
    _overwrite(path, bytes(content))


def _flip_footer(path: Path) -> None:
    """Change one letter of the writer's name in the metadata, which Parquet does not protect."""
    _overwrite(path, path.read_bytes().replace(b"synth.schema", b"synth.schemb", 1))


def _overwrite(path: Path, content: bytes) -> None:
    """New content under a name without writing through a hard link."""
    path.unlink()
    path.write_bytes(content)


def _zero_page(path: Path, column: str) -> None:
    """Fill the data of one column with zeroes; the footer stays whole."""
    start, length = _chunk(path, column)
    content = bytearray(path.read_bytes())
    content[start + length // 2 : start + length] = bytes(length - length // 2)
    _overwrite(path, bytes(content))


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table], **keys: str) -> None:
    """Another valid file with the same metadata: what no page checksum can find."""
    table = pq.read_table(path)
    meta = table.schema.metadata | {f"synth.{key}".encode(): value.encode() for key, value in keys.items()}
    path.unlink()
    pq.write_table(change(table).replace_schema_metadata(meta), path, compression="zstd", write_page_checksum=True)


def _swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text("utf-8"))
    change(data)
    path.write_text(json.dumps(data), "utf-8")


def _scores(out: Path, name: str) -> Path:
    return next((out / "scores").glob(f"{name}-*")) / "00000001.parquet"


def _body(out: Path, step: str) -> Path:
    return min((out / ".rejects" / step).iterdir())


def _other_query(table: pa.Table) -> pa.Table:
    words = pa.array(["another query", *table["query"].to_pylist()[1:]], table.schema.field("query").type)
    return table.set_column(table.column_names.index("query"), table.schema.field("query"), words)


def _twice(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table.slice(0, 1), table.slice(0, 1), table.slice(2)])


DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "flipped byte in passages": (lambda out: _flip(out / PASSAGES), PASSAGES, ""),
    "flipped byte in pairs": (lambda out: _flip(out / PAIRS), PAIRS, ""),
    "flipped byte in scores": (lambda out: _flip(_scores(out, "length"), "length_error"), "scores/length", ""),
    "flipped byte in metadata": (lambda out: _flip_footer(out / KEPT), KEPT, "lack synth.schema"),
    "flipped byte in a text": (lambda out: _flip(out / PASSAGES, "text"), PASSAGES, ""),
    "zeroed page": (lambda out: _zero_page(out / PAIRS, "query"), PAIRS, ""),
    "truncated shard": (lambda out: os.truncate(out / PAIRS, 900), PAIRS, ""),
    "empty shard": (lambda out: os.truncate(out / KEPT, 0), KEPT, ""),
    "deleted passages": (lambda out: (out / PASSAGES).unlink(), PASSAGES, "missing"),
    "deleted last passages": (
        lambda out: [next(out.glob(f"{step}/00000002.parquet")).unlink() for step in ("passages", "generated", "kept")],
        "passages/00000002.parquet",
        "missing",
    ),
    "deleted pairs": (lambda out: (out / PAIRS).unlink(), PAIRS, "missing"),
    "deleted scores": (lambda out: _scores(out, "copying").unlink(), "scores/copying", "missing"),
    "deleted kept with rejected rows": (
        lambda out: (out / "kept/00000000.parquet").unlink(),
        "kept/00000000",
        "missing",
    ),
    "swapped shards": (
        lambda out: _swap(out / PAIRS, out / "generated/00000000.parquet"),
        PAIRS,
        "holds shard 00000000",
    ),
    "swapped scores": (lambda out: _swap(_scores(out, "length"), _scores(out, "copying")), "scores/", ""),
    "copied shard": (
        lambda out: shutil.copy(out / PAIRS, out / "generated/00000003.parquet"),
        "generated/00000003",
        "holds",
    ),
    "doubled pair": (lambda out: rewrite(out / PAIRS, _twice), PAIRS, "more than once|neither"),
    "lost pair": (lambda out: rewrite(out / PAIRS, lambda t: t.slice(1)), PAIRS, "rows"),
    "lost pair, counts adjusted": (
        lambda out: rewrite(out / PAIRS, lambda t: t.slice(1), **{"in": "15", "out": "14"}),
        PAIRS,
        "says 15 items",
    ),
    "doubled kept row": (lambda out: rewrite(out / KEPT, _twice), KEPT, "more than once|neither"),
    "changed query": (lambda out: rewrite(out / PAIRS, _other_query), PAIRS, "bytes"),
    "reordered pairs": (lambda out: rewrite(out / PAIRS, lambda t: t.take([1, 0, *range(2, len(t))])), PAIRS, "order"),
    "passages out of order": (
        lambda out: rewrite(out / PASSAGES, lambda t: t.take([1, 0, *range(2, len(t))])),
        PASSAGES,
        "positions",
    ),
    "other counts in the metadata": (lambda out: rewrite(out / KEPT, lambda t: t, out="3"), KEPT, "out"),
    "other run's shard": (
        lambda out: rewrite(out / PASSAGES, lambda t: t, identity="ab" * 32),
        PASSAGES,
        "another run",
    ),
    "no metadata": (lambda out: pq.write_table(pa.table({"id": ["8-0"]}), out / KEPT), KEPT, "lack"),
    "dropped body": (lambda out: _body(out, "generated").unlink(), ".rejects/generated", ""),
    "flipped byte in a body": (lambda out: _flip(_body(out, "kept")), ".rejects/kept", "sha256"),
    "link to something else": (
        lambda out: _overwrite(out / "rejected/kept/00000000.parquet", (out / KEPT).read_bytes()),
        "rejected/kept/00000000.parquet",
        "not the file",
    ),
    "link of no shard": (
        lambda out: shutil.copy(out / KEPT, out / "rejected/kept/00000009.parquet"),
        "kept/00000009.parquet",
        "missing",
    ),
    "foreign parquet among shards": (
        lambda out: shutil.copy(out / KEPT, out / "kept/more.parquet"),
        "kept/more.parquet",
        "not a shard",
    ),
    "a link in place of a shard": (
        lambda out: [(out / KEPT).rename(out / "elsewhere"), (out / KEPT).symlink_to(out / "elsewhere")],
        KEPT,
        "not a shard",
    ),
    "edited identity": (
        lambda out: _edit(out / "job.json", lambda job: job["identity"].update(seed=8)),
        "job.json",
        "hash",
    ),
    "edited job": (lambda out: _edit(out / "job.json", lambda job: job["job"].update(seed=8)), "job.json", "seed"),
    "edited input list": (
        lambda out: _edit(out / "job.json", lambda job: job["inputs"][0].update(sha256="0")),
        "job.json",
        "inputs",
    ),
    "torn job.json": (lambda out: os.truncate(out / "job.json", 99), "job.json", "read"),
    "edited totals": (
        lambda out: _edit(out / "index/passages.json", lambda t: t.update(rows_in=99)),
        "index/passages.json",
        "99",
    ),
    "changed prompt": (
        lambda out: (out / "prompts/system.j2").write_text("Be brief."),
        "prompts/system.j2",
        "template",
    ),
    "missing prompt": (lambda out: (out / "prompts/query.j2").unlink(), "prompts/query.j2", ""),
    "edited rules": (
        lambda out: [_edit(path, lambda rules: rules.update(scores=[])) for path in (out / "index").glob("rules-*")],
        "index/rules-",
        "rules",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_named(out: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    damage, file, words = DAMAGES[name]
    damage(out)
    report = verify(out)
    named = [each for each in report.damage if each.file.startswith(file)]
    assert named, report.damage
    assert any(word in each.what for word in words.split("|") for each in named), named
    assert main(["verify", str(out)]) == 4
    assert file in capsys.readouterr().out


def _forge(out: Path) -> None:
    """Pairs with the passage of others, under a consistent chain as a wrong writer would leave it."""

    def shifted(table: pa.Table) -> pa.Table:
        rolled = table["passage"].take([*range(2, len(table)), 0, 1])
        return table.set_column(table.column_names.index("passage"), table.schema.field("passage"), rolled)

    rewrite(out / PAIRS, shifted)
    for step in [*(out / "scores").iterdir(), out / "kept"]:
        (step / "00000001.parquet").unlink()


DEEP_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped byte in kept": (lambda out: _flip(out / KEPT, "query"), KEPT),
    "zeroed page in kept": (lambda out: _zero_page(out / KEPT, "query"), KEPT),
    "changed query in kept": (lambda out: rewrite(out / KEPT, _other_query), KEPT),
    "another passage, all checksums made anew": (_forge, PAIRS),
}


@pytest.mark.parametrize("name", DEEP_DAMAGES)
def test_deep_mode_finds_what_no_checksum_tells(out: Path, name: str) -> None:
    damage, file = DEEP_DAMAGES[name]
    damage(out)
    assert file in {each.file for each in verify(out, deep=True).damage}


def test_an_input_that_changed_is_damage_and_one_that_is_gone_is_not(out: Path, made: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes((made / "rows.jsonl").read_bytes())
    _edit(out / "job.json", lambda job: job["inputs"][0].update(path=str(rows)))
    assert verify(out).sound
    rows.write_bytes(rows.read_bytes().replace(b"Entry 3", b"Entry 4"))
    assert [each.file for each in verify(out).damage] == [str(rows)]
    rows.unlink()
    report = verify(out)
    assert report.sound
    assert str(rows) in {each.file for each in report.notes}


def test_same_size_and_time_is_enough_unless_deep(out: Path, made: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes((made / "rows.jsonl").read_bytes().replace(b"Entry 3", b"Entry 4"))
    known = json.loads((out / "job.json").read_text("utf-8"))["inputs"][0]
    os.utime(rows, ns=(known["mtime_ns"], known["mtime_ns"]))
    _edit(out / "job.json", lambda job: job["inputs"][0].update(path=str(rows)))
    assert verify(out).sound
    assert not verify(out, deep=True).sound


def _noted(report: Report) -> dict[str, str]:
    assert report.sound, report.damage
    return {each.file: each.what for each in report.notes}


LEFTOVERS: dict[str, Callable[[Path], object]] = {
    "rejected/kept/00000000.parquet": lambda out: (out / "rejected/kept/00000000.parquet").unlink(),
    ".rejects/kept/00000000-0123456789abcdef.parquet": lambda out: shutil.copy(
        out / KEPT, out / ".rejects/kept/00000000-0123456789abcdef.parquet"
    ),
    "tmp/00000001.parquet.0123": lambda out: (out / "tmp/00000001.parquet.0123").write_bytes(b"PAR1"),
    "wip/generated-00000001.jnl": lambda out: (out / "wip/generated-00000001.jnl").write_bytes(b""),
    "notes.txt": lambda out: (out / "notes.txt").write_text("mine"),
    "kept/notes.txt": lambda out: (out / "kept/notes.txt").write_text("mine"),
    "prompts/mine.j2": lambda out: (out / "prompts/mine.j2").write_text("mine"),
    ".kept-0123abcd-0": lambda out: shutil.copytree(out / "kept", out / ".kept-0123abcd-0"),
}


@pytest.mark.parametrize("file", LEFTOVERS)
def test_leftovers_are_named_and_are_no_damage(out: Path, file: str) -> None:
    LEFTOVERS[file](out)
    assert set(_noted(verify(out))) == {file}


def test_an_unfinished_run_is_sound_and_says_what_is_left(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in [*out.glob("*/00000002.parquet"), *out.glob("scores/*/00000002.parquet")]:
        if path.parent.name != "passages":
            path.unlink()
    for name in ("generated", "kept"):
        (out / "rejected" / name / "00000002.parquet").unlink(missing_ok=True)
    (out / "wip/generated-00000002.jnl").write_bytes(b"")
    report = verify(out)
    notes = _noted(report)
    assert not report.complete
    assert "shard 00000002" in notes["generated"]
    assert "unfinished shard" in notes["wip/generated-00000002.jnl"]
    assert {step.step: step.open for step in report.steps}["generated"] == 10
    assert main(["verify", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())  # a row may wrap
    assert "10 to do" in said
    assert f"resume with: synth run {out}" in said


def test_a_run_that_is_still_reading_is_sound(out: Path) -> None:
    (out / "index/passages.json").unlink()
    for path in [*out.rglob("00000002*.parquet")]:
        path.unlink()
    report = verify(out)
    assert report.sound, report.damage
    assert {step.step: step.of for step in report.steps}["passages"] is None


@pytest.mark.slow
def test_a_run_at_work_is_sound_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done, out = threading.Event(), tmp_path / "out"
    reports: list[Report] = []

    def watch() -> None:
        while not done.is_set():
            if (out / "job.json").exists():
                reports.append(verify(out))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with Loopback() as server:
        server.chat = _answer
        try:
            run(tmp_path, server.url, out, shard_size=1)
        finally:
            done.set()
            watcher.join()
    assert [report.damage for report in reports if report.damage] == []
    assert any(not report.complete for report in reports)
    assert verify(out).complete


@pytest.fixture(name="filtered")
def pass_over_existing_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`synth filter` over nine rows, one of them unusable, three pairs to a shard."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = [{"query": f"about {TOPICS[n]}", "passage": _text(n)} for n in range(8)]
    rows.insert(5, {"query": "", "passage": "Nobody asks for this."})
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    job = {
        "data": {"path": str(tmp_path / "pairs.jsonl")},
        "scores": [{"use": "copying"}],
        "keep": {"copied_share": {"below": 0.5}},
        "run": {"shard_size": 3},
    }
    (tmp_path / "filter.yaml").write_text(yaml.safe_dump(job), "utf-8")
    assert main(["filter", "-c", str(tmp_path / "filter.yaml"), "-o", str(tmp_path / "filtered"), "--json"]) == 0
    return tmp_path / "filtered"


def test_a_pass_over_existing_pairs_is_proved_in_the_same_way(filtered: Path) -> None:
    report = verify(filtered, deep=True)
    assert (report.damage, report.notes) == ((), ())
    assert report.complete
    steps = {step.step: (step.shards, step.rows_in, step.rows_out, step.rejected) for step in report.steps}
    assert steps["generated"] == (3, 9, 8, 1)
    assert steps["kept"][1] == 8
    assert "passages" not in steps


FILTER_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "deleted pairs": (lambda out: (out / PAIRS).unlink(), PAIRS),
    "flipped byte": (lambda out: _flip(out / PAIRS, "passage"), PAIRS),
    "doubled pair": (lambda out: rewrite(out / PAIRS, _twice), PAIRS),
    "edited totals": (lambda out: _edit(out / "index/pairs.json", lambda t: t.update(rows_in=8)), "index/pairs.json"),
    "dropped body": (lambda out: _body(out, "generated").unlink(), ".rejects/generated"),
}


@pytest.mark.parametrize("name", FILTER_DAMAGES)
def test_damage_of_such_a_pass_is_found_and_named(filtered: Path, name: str) -> None:
    damage, file = FILTER_DAMAGES[name]
    damage(filtered)
    report = verify(filtered)
    assert any(each.file.startswith(file) for each in report.damage), report.damage


def test_json_tells_the_same(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _flip(out / PAIRS)
    assert main(["verify", str(out), "--json"]) == 4
    told = capsys.readouterr()
    report = json.loads(told.out)
    assert (report["sound"], report["deep"]) == (False, False)
    assert PAIRS in {each["file"] for each in report["damage"]}
    assert told.err.startswith(f"error: {out / PAIRS}: ")


def test_folders_that_are_no_runs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "nowhere")]) == 2
    assert main(["verify", str(tmp_path)]) == 4
    assert "job.json" in capsys.readouterr().err


def test_verification_writes_nothing(out: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in [out, *out.rglob("*")]}
    verify(out, deep=True)
    assert {path: path.stat().st_mtime_ns for path in [out, *out.rglob("*")]} == before


def test_the_auditor_shares_no_code_with_the_writer() -> None:
    package = Path(__file__).parents[2] / "synth" / "verify"
    for path in package.glob("*.py"):
        source = path.read_text("utf-8")
        for writer in ("shards", "steps", "tables", "run_folder", "identity"):
            assert f"import {writer}" not in source, path
            assert f"synth.{writer} import" not in source, path
