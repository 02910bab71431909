"""T7: in a whole run of 40 rows each system call that touches the output fails once; the next run completes it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from synth.cli.run import run_target as command
from synth.errors import SystemFault
from synth.pipeline import resolve

from . import Machine, Trigger, output, running_on

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

ROWS = 40
LINE = "write wip"
ERRORS = ("ENOSPC", "EIO", "EMFILE")
MOST_MISSED = 16
"""Calls that were not made again: two shards may or may not race to make the same folder."""
WRITING = ("write", "fsync", "link", "open", "mkdir", "rename", "replace", "unlink", "ftruncate")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("job")
    rows = [
        {"id": f"r{n}", "text": f"Note {n}: the mill by the river grinds flour for {n} bakers."} for n in range(ROWS)
    ]
    rows[7]["text"] = " "
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    settings: dict[str, Any] = {
        "corpus": {"path": str(home / "rows.jsonl"), "language": "en"},
        "personas": None,
        "llm": {"use": "extractive"},
        "scores": [{"use": "length"}],
        "keep": {"length_error": {"max": 0.0}},
        "limits": {"max_unusable_share": 1},
        "run": {"shard_size": 20, "concurrency": 2},
    }
    path = home / "job.json"
    path.write_text(json.dumps(settings), "utf-8")
    return path


@pytest.fixture(scope="module")
def clean(job: Path) -> tuple[list[str], dict[str, bytes]]:
    """A run without faults: the labels of its calls in order, and what it leaves."""
    with running_on(Machine(job.parent / "clean")) as machine:
        go(job, job.parent / "clean")
    return machine.labels, shards(job.parent / "clean")


def go(job: Path, out: Path) -> None:
    command(resolve(job, out, (), None), as_json=True)


def shards(out: Path) -> dict[str, bytes]:
    return {name: content for name, content in output(out).items() if name.endswith(".parquet")}


def nth(label: str, occurrence: int) -> Trigger:
    """The call of that label that comes as the first, second, third..."""
    counted = itertools.count(1)
    return lambda _number, each: each == label and next(counted) == occurrence


def failures(labels: list[str], errors: tuple[str, ...]) -> list[tuple[str, int, str]]:
    """Every call that writes, with the error that it gets: the errors take turns, and lines of journals do, too."""
    calls = Counter(label for label in labels if label.startswith(WRITING))
    lines = calls.pop(LINE)
    tried = [(label, occurrence) for label, count in calls.items() for occurrence in range(1, count + 1)]
    tried += [(LINE, occurrence) for occurrence in range(1, lines + 1, 2 * len(errors) - 1)]
    return [(*call, errors[n % len(errors)]) for n, call in enumerate(tried)]


def fail_each(
    errors: tuple[str, ...], job: Path, clean: tuple[list[str], dict[str, bytes]], half: int | None = None
) -> None:
    """One run for each failure, or for every second one, and one that goes on after it."""
    labels, expected = clean
    out = job.parent / "out"
    tried = failures(labels, errors)[half :: 1 if half is None else 2]
    missed = 0
    for label, occurrence, error in tried:
        shutil.rmtree(out, ignore_errors=True)
        fault = None
        with running_on(Machine(out, nth(label, occurrence), f"refuse:{error}")) as machine:
            try:
                go(job, out)
            except SystemFault as exc:
                fault = exc
        where = f"{error} at call {occurrence} of {label}: {fault}"
        if fault is not None:
            assert fault.exit_code == 7
            assert "then run the same command again" in fault.hint, where
        elif machine.labels.count(label) < occurrence:
            missed += 1
        else:
            assert label.startswith("unlink"), f"a failure was passed over in silence: {where}"
        with running_on(Machine(out)):
            go(job, out)
        assert shards(out) == expected, where
    assert missed <= MOST_MISSED
    reached = len(tried) - missed
    told = f"T7 {', '.join(errors)}: {reached} of {len(labels)} calls failed once, each run resumed complete"
    print(told)  # noqa: T201 - the figures are what the test is for


@pytest.mark.parametrize("half", [0, 1])
def test_every_write_that_fails_once_is_told_and_the_next_run_completes(
    half: int, job: Path, clean: tuple[list[str], dict[str, bytes]]
) -> None:
    fail_each(ERRORS, job, clean, half)


@pytest.mark.skipif(not os.environ.get("SYNTH_FULL"), reason="takes minutes: python -m tests.faults --full")
@pytest.mark.parametrize("error", ERRORS)
def test_every_write_with_every_error(error: str, job: Path, clean: tuple[list[str], dict[str, bytes]]) -> None:
    fail_each((error,), job, clean)
