"""T3: 3,000 rows, 20 kills -9, two processes on one folder, one request in five failing, and a reader all the while."""

from __future__ import annotations

from pathlib import Path

import pytest

from .kill_loop import Plan, kill_loop

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


def test_twenty_kills_of_two_processes_under_mixed_faults(tmp_path: Path) -> None:
    figures = kill_loop(tmp_path, Plan(rows=3000, kills=20, pause=1.0))
    print(f"\nT3 {figures}")  # noqa: T201 - the figures are what the test is for
    assert figures.broken() == {}


def test_two_processes_without_locks_make_the_same_shards(tmp_path: Path) -> None:
    figures = kill_loop(tmp_path, Plan(rows=600, kills=4, shard_size=50, pause=0.5, locks=False))
    print(f"\nT5 small {figures}")  # noqa: T201 - as above
    assert figures.broken() == {}
