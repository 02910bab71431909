"""The full harness: what takes too long for every change, as one table.

    python -m tests.faults --full                       T4, T5, T7, T10, T11, T14, T16
    python -m tests.faults --full --only T4,T16 --memory-rows 100000
    python -m tests.faults                              the same at a tenth of the size

T15 needs a vLLM: `python -m pytest -m vllm tests/vllm/test_restart.py`. The other tests run with every change:
`python -m pytest -m "faults and not slow"`. Exits 1 when anything is broken.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' own modules, as pytest has them

from .filter_loop import filter_loop
from .kill_loop import ROOT, Plan, kill_loop
from .sizes import memory, start


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    name: str
    told: str
    broken: object = None
    seconds: float = 0.0

    def __str__(self) -> str:
        verdict = f"BROKEN {self.broken}" if self.broken else "kept"
        return f"{self.name:<4} {verdict:<6} {self.seconds:6.0f} s  {self.told}"


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    rows: int
    kills: int
    memory_rows: int
    shards: int
    replies: int


def t4(home: Path, sizes: Sizes) -> Iterable[Result]:
    """Kills: two processes, 16 requests in flight over both."""
    figures = kill_loop(home / "t4", Plan(rows=sizes.rows, kills=sizes.kills))
    yield Result("T4", str(figures), figures.broken())


def t5(home: Path, sizes: Sizes) -> Iterable[Result]:
    """Locks off: two and four processes make every shard."""
    for workers in (2, 4):
        plan = Plan(rows=sizes.rows // 2, kills=sizes.kills // 2, workers=workers, in_flight=4, locks=False)
        figures = kill_loop(home / f"t5-{workers}", plan)
        yield Result("T5", f"{workers} processes, locks off: {figures}", figures.broken())


def t7(_home: Path, _sizes: Sizes) -> Iterable[Result]:
    """Every call that writes, with every error."""
    os.environ["SYNTH_FULL"] = "1"
    yield _pytest("T7", "tests/faults/test_every_write.py", "-m", "faults", "-k", "every_error")


def t10(_home: Path, sizes: Sizes) -> Iterable[Result]:
    """Made-up replies."""
    os.environ["SYNTH_FUZZ"] = str(sizes.replies)
    yield _pytest("T10", "tests/replies/test_fuzz.py", "-m", "faults", "--timeout", "7200")


def t11(home: Path, sizes: Sizes) -> Iterable[Result]:
    """Memory by rows."""
    found = memory(home / "t11", sizes.memory_rows)
    yield Result("T11", str(found), found.broken())


def t14(home: Path, sizes: Sizes) -> Iterable[Result]:
    """Start by shards."""
    found = start(home / "t14", sizes.shards)
    yield Result("T14", str(found), found.broken())


def t16(home: Path, sizes: Sizes) -> Iterable[Result]:
    """A pass over existing data and its views."""
    found = filter_loop(home / "t16", sizes.rows, sizes.kills)
    yield Result("T16", str(found), found.wrong[:3])


TESTS: dict[str, Callable[[Path, Sizes], Iterable[Result]]] = {
    "T4": t4,
    "T5": t5,
    "T7": t7,
    "T10": t10,
    "T11": t11,
    "T14": t14,
    "T16": t16,
}


def _pytest(name: str, *arguments: str) -> Result:
    command = [sys.executable, "-m", "pytest", "-q", "-rA", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(f"{name} ")] or done.stdout.splitlines()[-1:]
    return Result(name, " · ".join(lines), done.stdout[-1500:] if done.returncode else None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the sizes that are promised")
    parser.add_argument("--only", default=",".join(TESTS), help="some tests, by comma")
    parser.add_argument("--memory-rows", type=int, help="rows of the large run of T11")
    parser.add_argument("--home", type=Path, help="where to work; emptied afterwards")
    given = parser.parse_args()
    small = Sizes(rows=1_000, kills=6, memory_rows=100_000, shards=1_500, replies=20_000)
    sizes = Sizes(rows=10_000, kills=50, memory_rows=1_000_000, shards=15_000, replies=200_000) if given.full else small
    if given.memory_rows:
        sizes = Sizes(**{**vars(sizes), "memory_rows": given.memory_rows})
    home = Path(tempfile.mkdtemp(prefix="synth-faults-", dir=given.home))
    os.environ["XDG_CACHE_HOME"] = str(home / "cache")
    broken = False
    for name in given.only.split(","):
        begin = time.monotonic()
        for result in TESTS[name](home, sizes):
            timed = Result(result.name, result.told, result.broken, time.monotonic() - begin)
            print(timed, flush=True)  # noqa: T201 - the table
            broken = broken or bool(result.broken)
    shutil.rmtree(home)
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
