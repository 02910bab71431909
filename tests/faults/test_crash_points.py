"""Kill the run, or let the disk refuse, at every single system call; the next run must end as if nothing had been."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synth.errors import SystemFault
from synth.shards import Origin, OutputFolder

from . import Died, Machine, audit, output, run, running_on

pytestmark = pytest.mark.faults

NAMED_POINTS = [
    "mkdir generated",
    "open tmp",
    "write tmp",
    "fsync tmp",
    "link .rejects",
    "fsync .rejects",
    "link generated",
    "fsync generated",
    "unlink tmp",
    "link rejected",
    "write wip",
    "unlink wip",
]


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A run without faults: the labels of its calls in order, and what it leaves."""
    path = tmp_path_factory.mktemp("clean") / "out"
    with running_on(Machine(path)) as machine:
        run(path)
    audit(path)
    return machine.labels, output(path)


def visits(labels, *starts):
    return (
        [number for number, label in enumerate(labels, 1) if label.startswith(starts)]
        if starts
        else [*range(1, len(labels) + 1)]
    )


def run_with_fault(path, number, action):
    """The error that ended the run, None when it finished, and the items it asked for."""
    asked: list[str] = []
    shutil.rmtree(path, ignore_errors=True)
    with running_on(Machine(path, lambda count, _label: count == number, action)):
        try:
            run(path, asked)
        except (Died, SystemFault) as error:
            return error, asked
    return None, asked


def finish(path, asked):
    with running_on(Machine(path)):
        run(path, asked)
    audit(path)
    assert set(asked) == {f"{position}-0" for position in range(8)}


@pytest.mark.parametrize("action", ["die", "die after", "tear"])
def test_a_death_at_any_system_call_loses_and_doubles_nothing(tmp_path, clean, action):
    labels, expected = clean
    path = tmp_path / "out"
    for number in visits(labels, *(["write"] if action == "tear" else [])):
        error, asked = run_with_fault(path, number, action)
        # A death during close() shows only at the next call; the last one of the run has none after it.
        assert isinstance(error, Died) or number == len(labels), labels[number - 1]
        finish(path, asked)
        assert output(path) == expected, labels[number - 1]
        assert sum(Counter(asked).values()) - len(set(asked)) <= 1, "more than the one call in flight was repeated"


def test_two_deaths_in_a_row_lose_and_double_nothing(tmp_path, clean):
    labels, expected = clean
    path = tmp_path / "out"
    for number in visits(labels, "link", "write"):
        _, asked = run_with_fault(path, number, "die after")
        for later in (5, 20, 35):
            with pytest.raises(Died), running_on(Machine(path, lambda n, _, later=later: n == later, "die")):
                run(path, asked)
        finish(path, asked)
        assert output(path) == expected


@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EMFILE"])
def test_a_refusal_at_any_system_call_is_a_clear_fault_and_the_next_run_completes(tmp_path, clean, error):
    labels, expected = clean
    path = tmp_path / "out"
    for number in visits(labels):
        fault, asked = run_with_fault(path, number, f"refuse:{error}")
        if fault is None:
            assert labels[number - 1] == "unlink tmp", "only a left-over copy may be passed over in silence"
        else:
            assert isinstance(fault, SystemFault), labels[number - 1]
            assert str(tmp_path) in fault.message
            assert fault.hint.endswith("then run the same command again.")
            left = list((path / "tmp").glob("*")) if labels[number - 1] != "unlink tmp" else []
            assert left == [], f"{labels[number - 1]}: the unfinished copy stayed"
        finish(path, asked)
        assert output(path) == expected, labels[number - 1]
        assert len(asked) - len(set(asked)) <= 1


def test_a_short_write_is_finished_in_a_copy_and_taken_back_in_a_journal(tmp_path, clean):
    labels, expected = clean
    path = tmp_path / "out"
    for number in visits(labels, "write"):
        fault, asked = run_with_fault(path, number, "short")
        assert isinstance(fault, SystemFault) == (labels[number - 1] == "write wip")
        for journal in (path / "wip").glob("*"):
            assert journal.read_bytes()[-1:] in (b"", b"\n")
        finish(path, asked)
        assert output(path) == expected


@pytest.mark.parametrize("action", ["die", "die after", "refuse:EIO"])
def test_a_fault_anywhere_in_a_swap_leaves_the_old_view_or_the_new(tmp_path, action):
    path = tmp_path / "out"
    for number in itertools.count(1):
        shutil.rmtree(path, ignore_errors=True)
        with running_on(Machine(path)):
            folder = OutputFolder.open(path, write=True)
            for rejected in (1, 2):
                hidden = folder.step("kept", hidden=".kept-new")
                hidden.commit(0, table(3 - rejected), view_of(3, rejected), rejects=table(rejected))
                if rejected == 1:
                    folder.swap_view(".kept-new", "kept")
        fault = None
        with running_on(Machine(path, lambda count, _label, number=number: count == number, action)) as machine:
            try:
                folder.swap_view(".kept-new", "kept")
            except (Died, SystemFault) as error:
                fault = error
        kept = folder.step("kept")
        kept.settle()
        assert kept.read(0).table.num_rows in ((1, 2) if fault else (1,))
        linked = pq.read_table(path / "rejected" / "kept" / "00000000.parquet")
        assert linked.num_rows == kept.meta(0).rejected == 3 - kept.read(0).table.num_rows
        if number > len(machine.labels):
            return


def view_of(rows_in, rejected):
    return Origin(identity="", input="", first=0, rows_in=rows_in, rows_out=rows_in - rejected, schema="1")


def table(count):
    return pa.table({"id": [str(number) for number in range(count)]})


@pytest.mark.parametrize("point", NAMED_POINTS)
def test_a_real_kill_at_a_named_point_is_survived(tmp_path, clean, point):
    _, expected = clean
    path = tmp_path / "out"
    code = (
        "import sys, pathlib, faults; path, point = pathlib.Path(sys.argv[1]), sys.argv[2]\n"
        "visits = iter(range(int(sys.argv[3])))\n"
        "when = lambda _n, label: label == point and next(visits, None) is None\n"
        "with faults.running_on(faults.Machine(path, when, 'kill')): faults.run(path)"
    )
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])}
    visit = "0" if point == "mkdir generated" else "1"
    process = subprocess.run([sys.executable, "-c", code, path, point, visit], env=environment, check=False)
    assert process.returncode == -signal.SIGKILL
    run(path)
    audit(path)
    assert output(path) == expected
