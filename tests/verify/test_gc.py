"""`synth gc` removes what no shard and no process can need, and nothing else."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from test_verify import copy_of_run, finished_run, rewrite  # noqa: F401 - the first two are fixtures

from synth.cli import main
from synth.errors import JobError, OutputError
from synth.gc import collect
from synth.verify import verify

OLD = time.time() - 7200
ORPHAN = ".rejects/kept/00000000-0123456789abcdef.parquet"


def age(folder: Path) -> None:
    """As if nobody had written there for two hours."""
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (OLD, OLD), follow_symlinks=False)


def names(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


def litter(out: Path) -> set[str]:
    """What crashes leave, all of it old."""
    shutil.copy(out / "kept/00000000.parquet", out / ORPHAN)
    (out / "tmp/00000001.parquet.0123").write_bytes(b"PAR1")
    (out / "wip/generated-00000001.jnl").write_bytes(b"x" * 7)
    shutil.copytree(out / "kept", out / ".kept-0123abcd-0")
    hidden = {f".kept-0123abcd-0/{path.name}" for path in (out / "kept").iterdir()}
    age(out)
    return {ORPHAN, "tmp/00000001.parquet.0123", "wip/generated-00000001.jnl"} | hidden


@pytest.mark.slow
def test_a_clean_run_has_nothing_to_remove(out: Path) -> None:
    age(out)
    before = names(out)
    assert collect(out, scores=True).removed == []
    assert names(out) == before


def test_leftovers_go_and_all_else_stays(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = names(out)
    left = litter(out)
    assert main(["gc", str(out), "--dry-run"]) == 0
    assert names(out) == before | left
    assert "would remove 4 files and folders" in capsys.readouterr().out
    assert main(["gc", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert names(out) == before
    assert {each["path"] for each in told["removed"]} == {
        ORPHAN,
        "tmp/00000001.parquet.0123",
        "wip/generated-00000001.jnl",
        ".kept-0123abcd-0",
    }
    assert told["bytes"] == sum(each["bytes"] for each in told["removed"]) > 0
    assert verify(out).notes == ()


def test_what_is_young_stays(out: Path) -> None:
    left = litter(out)
    (out / "tmp/00000001.parquet.0123").touch()
    os.utime(out / "tmp")
    result = collect(out)
    assert names(out) >= left - {"wip/generated-00000001.jnl"}
    assert any("something was written to tmp" in line for line in result.left)


def test_an_open_temporary_file_stays(out: Path) -> None:
    litter(out)
    with (out / "tmp/00000001.parquet.0123").open("rb"):
        result = collect(out)
        assert "tmp/00000001.parquet.0123" in names(out)
    assert any("has it open" in line for line in result.left)


def test_a_run_at_work_keeps_all_it_may_need(out: Path) -> None:
    left = litter(out)
    with (out / "wip/generated-00000007.jnl").open("wb") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)
        age(out)
        result = collect(out, scores=True, age=0)
        assert names(out) >= left - {"wip/generated-00000001.jnl", "tmp/00000001.parquet.0123"}
        assert any("a process has locked" in line for line in result.left)
        with pytest.raises(JobError):
            collect(out, view="strict")


def test_a_held_journal_of_a_finished_shard_stays(out: Path) -> None:
    litter(out)
    with (out / "wip/generated-00000001.jnl").open("rb") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)
        collect(out)
        assert "wip/generated-00000001.jnl" in names(out)


def test_an_open_shard_keeps_its_journal_and_rejected_rows(out: Path) -> None:
    for path in [*out.glob("generated/00000002*"), *out.glob("kept/00000002*"), *out.glob("scores/*/00000002*")]:
        path.unlink()
    (out / "wip/generated-00000002.jnl").write_bytes(b"")
    body = next(out.glob(".rejects/kept/00000002-*"), None) or shutil.copy(
        next(out.glob(".rejects/kept/*")), out / ".rejects/kept/00000002-0123456789abcdef.parquet"
    )
    age(out)
    collect(out)
    assert Path(body).exists()
    assert (out / "wip/generated-00000002.jnl").exists()


def test_the_only_copy_of_a_view_stays(out: Path) -> None:
    (out / "kept").rename(out / ".kept-0123abcd-0.old")
    age(out)
    result = collect(out)
    assert (out / ".kept-0123abcd-0.old/00000000.parquet").exists()
    assert any("may be it" in line for line in result.left)


def test_a_damaged_shard_keeps_every_rejected_row(out: Path) -> None:
    litter(out)
    os.truncate(out / "kept/00000001.parquet", 10)
    result = collect(out)
    assert ORPHAN in names(out)
    assert any("cannot be read" in line for line in result.left)


def test_unused_scores_go_only_when_asked(out: Path) -> None:
    used = sorted(path.name for path in (out / "scores").iterdir())
    shutil.copytree(out / "scores" / used[0], out / "scores" / "copying-0123abcd")
    for path in (out / "scores" / "copying-0123abcd").iterdir():
        rewrite(path, lambda table: table, identity="0123abcd")
    age(out)
    collect(out)
    assert (out / "scores/copying-0123abcd").is_dir()
    collect(out, scores=True, age=0)
    assert sorted(path.name for path in (out / "scores").iterdir()) == used


def test_scores_that_a_view_was_made_from_stay(out: Path) -> None:
    """Also when the job, edited since, has other scorers."""
    job = json.loads((out / "job.json").read_text("utf-8"))
    job["job"]["scores"] = [{"use": "cosine"}]
    (out / "job.json").write_text(json.dumps(job), "utf-8")
    age(out)
    before = names(out)
    collect(out, scores=True)
    assert names(out) == before


def test_a_view_goes_when_named(out: Path) -> None:
    before = names(out)
    for folder in ("views", "rejected/views", ".rejects/views"):
        source = "kept" if folder == "views" else f"{folder.split('/')[0]}/kept"
        shutil.copytree(out / source, out / folder / "strict")
    age(out)
    assert verify(out).sound
    with pytest.raises(JobError, match="strict"):
        collect(out, view="lax")
    with pytest.raises(JobError):
        collect(out, view="../kept")
    result = collect(out, view="strict")
    assert {each.path for each in result.removed} == {
        "views/strict",
        "rejected/views/strict",
        ".rejects/views/strict",
    }
    assert names(out) == before
    assert verify(out).notes == ()


def test_a_view_stays_while_somebody_writes(out: Path) -> None:
    shutil.copytree(out / "kept", out / "views/strict")
    with pytest.raises(OutputError, match="written"):
        collect(out, view="strict")


def test_bad_arguments_are_told(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gc", str(out), "--age", "soon"]) == 2
    assert "--age soon" in capsys.readouterr().err
    assert main(["gc", str(tmp_path)]) == 4
