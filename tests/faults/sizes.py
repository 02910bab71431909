"""T11 and T14: what a run costs in memory when there are many rows, and at its start when there are many shards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from loopback import Fault, Loopback, Seen

from synth.shards import Origin, OutputFolder

from .kill_loop import ROOT

MOST_MEMORY = 1.2
MOST_MEGABYTES = 512
MOST_SECONDS = 0.3
STEPS = ("passages", "generated", "kept")


@dataclass(frozen=True)
class Memory:
    """Peak resident memory of a run of `few` rows and of one of `many`, in MB."""

    few: int
    many: int
    peaks: tuple[float, float]
    seconds: float

    def broken(self) -> bool:
        few, many = self.peaks
        return many > MOST_MEMORY * few or many > MOST_MEGABYTES

    def __str__(self) -> str:
        few, many = self.peaks
        return (
            f"{self.few:,} rows {few:.0f} MB, {self.many:,} rows {many:.0f} MB: x {many / few:.2f} "
            f"(at most {MOST_MEMORY}, {MOST_MEGABYTES} MB); {self.seconds:.0f} s"
        )


_RUN = """
import sys
from synth.cli import main
code = main()
print(*(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
sys.exit(code)
"""
"""The command, and then its own peak in kB: what wait4 reports of a child may be the peak of its parent."""


def memory(home: Path, many: int, few: int = 10_000) -> Memory:
    """Run both, with models that cost nothing."""
    begin = time.monotonic()
    peaks = (_peak(home / f"m{few}", few), _peak(home / f"m{many}", many))
    return Memory(few, many, peaks, time.monotonic() - begin)


def _peak(home: Path, rows: int) -> float:
    home.mkdir(parents=True)
    with (home / "rows.jsonl").open("w", encoding="utf-8") as file:
        for n in range(rows):
            text = f"Note {n}: " + " ".join(f"word{n * 31 + each * 7 % 1009}" for each in range(50))
            file.write(json.dumps({"id": f"r{n}", "text": text}) + "\n")
    job = {
        "corpus": {"path": str(home / "rows.jsonl"), "language": "en"},
        "personas": None,
        "llm": {"use": "tests.faults.null:NullChat"},
        "embed": {"use": "tests.faults.null:NullEncoder"},
        "scores": [{"use": "cosine"}, {"use": "length"}],
        "keep": {"cosine": {"above": -1.0}},
        "limits": {"max_unusable_share": 1},
    }
    (home / "job.yaml").write_text(json.dumps(job), "utf-8")
    command = [sys.executable, "-c", _RUN, "run", str(home / "job.yaml"), "-o", str(home / "out"), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(done.stderr[-2000:])
    shutil.rmtree(home)
    return float(done.stdout.split()[-2]) / 1024


@dataclass(frozen=True)
class Start:
    """Seconds from the start of the process to its first request, the best of some, with one shard and with many."""

    shards: int
    one: float
    many: float

    def broken(self) -> bool:
        return self.many - self.one > MOST_SECONDS

    def __str__(self) -> str:
        added = self.many - self.one
        return (
            f"first request after {self.one:.2f} s with one shard, {self.many:.2f} s with {self.shards:,}: "
            f"{added:+.2f} s (at most {MOST_SECONDS})"
        )


def start(home: Path, shards: int, times: int = 5) -> Start:
    """Let runs go on that lack their last shard only, until they send a request."""
    with Loopback() as server:
        folders = [_folder(home / f"s{count}", count, server.url) for count in (1, shards)]
        first = _First(server)
        took: list[list[float]] = [[], []]
        for _ in range(times):
            for folder, seconds in zip(folders, took, strict=True):
                seconds.append(first.after(folder))
    return Start(shards, min(took[0]), min(took[1]))


class _First:
    """When the first chat request came; every one is answered with a redirect, which ends the run at once."""

    def __init__(self, server: Loopback) -> None:
        self._came = threading.Event()
        self._at = 0.0
        server.rule = self._rule

    def _rule(self, seen: Seen) -> Fault | None:
        if "messages" not in (seen.body or {}):
            return None
        if not self._came.is_set():
            self._at = time.monotonic()
            self._came.set()
        return Fault(307, headers={"Location": "http://127.0.0.1:9/"})

    def after(self, out: Path) -> float:
        self._came.clear()
        begin = time.monotonic()
        process = subprocess.run(
            [sys.executable, "-m", "synth", "run", str(out), "--json"], cwd=ROOT, capture_output=True, check=False
        )
        if not self._came.is_set():
            raise AssertionError(process.stderr.decode())
        return self._at - begin


def _folder(home: Path, shards: int, url: str) -> Path:
    """A run of `shards` shards, all copies of one, that lacks the pairs of the last."""
    home.mkdir(parents=True)
    (home / "rows.jsonl").write_text(
        json.dumps({"id": "r", "text": "The mill by the river grinds flour."}) + "\n", "utf-8"
    )
    job = {
        "corpus": {"path": str(home / "rows.jsonl"), "language": "en"},
        "personas": None,
        "llm": {"use": "vllm_server", "model": "tiny", "base_urls": [url]},
        "scores": [{"use": "length"}],
        "keep": {},
        "run": {"shard_size": 1},
    }
    (home / "job.yaml").write_text(json.dumps(job), "utf-8")
    command = [sys.executable, "-m", "synth", "run", str(home / "job.yaml"), "-o", str(home / "out"), "--json"]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    _copy(home / "out", shards)
    return home / "out"


def _copy(out: Path, shards: int) -> None:
    sync, os.fsync = os.fsync, lambda _: None  # nobody cuts the power here
    try:
        folder = OutputFolder.open(out, write=True)
        scores = [f"scores/{each.name}" for each in (out / "scores").iterdir()]
        for name in (*STEPS, *scores):
            step = folder.step(name)
            shard = step.read(0)
            kept = {key: value for key, value in asdict(shard.meta).items() if key in Origin.__dataclass_fields__}
            for index in range(1, shards - (name != "passages")):
                step.commit(index, shard.table, Origin(**{**kept, "first": index}))
            if shards == 1 and name != "passages":
                step.file(0).unlink()
        totals = {"shards": shards, "passages": shards, "rows_in": shards, "rejected": 0}
        path = out / "index" / "passages.json"
        path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | totals), "utf-8")
    finally:
        os.fsync = sync
