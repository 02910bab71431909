"""Does a pair cost the same late in a large run as early? `python benchmarks/growth.py [rows]`.

One run with models that cost nothing, watched from outside. Also compares memory with a run of 10,000 rows, and the
time until both folders resume work after their last shard was removed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from measure import HERE

FEW = 10_000
SHARD = 1000
MODELS = "tests.faults.null"
_TICKS = os.sysconf("SC_CLK_TCK")
_LOOK_SECONDS = 0.25


@dataclass(slots=True)
class Watched:
    """A run: pairs on disk and CPU seconds over time, and peak memory in MB."""

    rows: int
    steps: list[tuple[int, float]] = field(default_factory=list)
    memory: float = 0.0
    wall: float = 0.0

    def cpu_at(self, pairs: float) -> float:
        """CPU seconds spent when the run had this many pairs, interpolated."""
        before = (0, 0.0)
        for step in self.steps:
            if step[0] >= pairs:
                return before[1] + (pairs - before[0]) / (step[0] - before[0]) * (step[1] - before[1])
            before = step
        return before[1]

    def per_thousand(self, first: float, last: float) -> float:
        """CPU seconds per 1,000 pairs between two numbers of pairs."""
        return (self.cpu_at(last) - self.cpu_at(first)) / (last - first) * 1000


@dataclass(frozen=True, slots=True)
class Resumed:
    """Seconds until the last shard was claimed again, and until the process had ended."""

    claimed: float
    ended: float


def corpus(path: Path, rows: int) -> None:
    with path.open("w", encoding="utf-8") as lines:
        for n in range(rows):
            text = f"Note {n}: " + " ".join(f"word{n * 31 + each * 7 % 1009}" for each in range(50))
            lines.write(json.dumps({"id": f"r{n}", "text": text}) + "\n")


def start(job: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "synth", "run", str(job), "-o", str(out), "--json"]
    with (job.parent / "said").open("wb") as said:
        return subprocess.Popen(command, cwd=HERE.parent, stdout=said, stderr=said)


def prepare(home: Path, rows: int) -> Path:
    home.mkdir()
    corpus(home / "rows.jsonl", rows)
    job = {
        "corpus": {"path": str(home / "rows.jsonl"), "language": "en"},
        "personas": None,
        "llm": {"use": f"{MODELS}:NullChat"},
        "embed": {"use": f"{MODELS}:NullEncoder"},
        "scores": [{"use": "cosine"}, {"use": "length"}],
        "keep": {"cosine": {"above": -1.0}},
        "limits": {"max_unusable_share": 1},
        "run": {"shard_size": SHARD},
    }
    (home / "job.yaml").write_text(json.dumps(job), "utf-8")
    return home / "job.yaml"


def spent(pid: int) -> float:
    """CPU seconds of a running process."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def watch(job: Path, rows: int) -> Watched:
    """Run a job to its end. Raises RuntimeError when it fails."""
    found = Watched(rows)
    kept = job.parent / "out" / "kept"
    begun = time.perf_counter()
    process = start(job, job.parent / "out")
    while (over := os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is None:
        pairs = len(list(kept.glob("*.parquet"))) * SHARD
        if not found.steps or pairs > found.steps[-1][0]:
            found.steps.append((pairs, spent(process.pid)))
            if pairs % (100 * SHARD) == 0:
                print(f"{pairs:,} pairs, {found.steps[-1][1]:.0f} CPU s", file=sys.stderr, flush=True)
        time.sleep(_LOOK_SECONDS)
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = over.si_status
    found.wall = time.perf_counter() - begun
    found.memory = usage.ru_maxrss / 1024
    if process.returncode:
        raise RuntimeError((job.parent / "said").read_text("utf-8")[-2000:])
    return found


def resume(job: Path, times: int = 3) -> Resumed:
    """Resume a run whose last shard was removed; the best of several tries."""
    out = job.parent / "out"
    claimed, ended = [], []
    for _ in range(times):
        last = max((out / "generated").glob("????????.parquet")).name
        for path in (*out.glob(f"*/{last}"), *out.glob(f"scores/*/{last}")):
            if path.parent.name != "passages":
                path.unlink()
        begun = time.perf_counter()
        process = start(job, out)
        while not any((out / "wip").glob("generated*")) and process.poll() is None:
            time.sleep(0.005)
        claimed.append(time.perf_counter() - begun)
        process.wait()
        ended.append(time.perf_counter() - begun)
    return Resumed(min(claimed), min(ended))


def report(folder: Path, rows: int = 1_000_000) -> list[str]:
    """Lines of the table; needs about 1.5 GB of disk for a million rows."""
    small, large = prepare(folder / "few", FEW), prepare(folder / "many", rows)
    few, many = watch(small, FEW), watch(large, rows)
    again = resume(small), resume(large)
    span = min(100_000, rows // 10)
    early, late = many.per_thousand(span, 2 * span), many.per_thousand(rows - span, rows)
    size = sum(path.stat().st_size for path in (folder / "many" / "out").rglob("*") if path.is_file())
    shutil.rmtree(folder / "many")
    claimed = f"{again[0].claimed:.2f} s with {FEW:,} pairs done, {again[1].claimed:.2f} s with {rows:,}"
    return [
        f"- {rows:,} passages, one process: {many.wall:,.0f} s, {many.cpu_at(rows):,.0f} CPU s",
        f"- on disk, all steps: {size / rows:,.0f} bytes per pair",
        f"- CPU s per 1,000 pairs over the second {span:,}: {early:.3f}, over the last: {late:.3f}",
        f"- last to second: {late / early:.2f} (goal: at most 1.2)",
        f"- peak memory with {FEW:,} passages: {few.memory:.0f} MB, with {rows:,}: {many.memory:.0f} MB",
        f"- large to small: {many.memory / few.memory:.2f} (goal: at most 1.2)",
        f"- resuming without the last shard, until it is claimed: {claimed}",
        f"- the same, until the summary is printed: {again[0].ended:.2f} s and {again[1].ended:.2f} s",
    ]


def main(rows: int = 1_000_000) -> None:
    with tempfile.TemporaryDirectory(prefix="synth-bench-") as folder:
        print("\n".join(report(Path(folder), rows)))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
