"""T11 at a tenth: what a run keeps in memory follows one shard and what is in flight, not the corpus."""

from pathlib import Path

import pytest

from .sizes import MOST_MEGABYTES, memory

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_hundred_thousand_rows_pass_in_512_mb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = memory(tmp_path, 100_000)
    assert max(found.peaks) <= MOST_MEGABYTES
    assert not found.broken(), str(found)
