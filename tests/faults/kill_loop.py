"""Several processes on one output folder, killed with -9 again and again while a reader reads: T3, T4 and T5.

Each process talks to a port of its own of one fault server, so it is known when it has had its first answer: from
then on it may be killed. The folder is judged by the auditor against a run that nobody disturbed.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from .auditor import STEPS, Audit, audit
from .server import CONTENT, TRANSPORT, FaultServer, Items, Profile

SEED = 11
ROOT = Path(__file__).parents[2]
TRADES = (
    "glazing",
    "thatching",
    "surveying",
    "baking",
    "dyeing",
    "ploughing",
    "soldering",
    "printing",
    "mapping",
    "weighing",
)
LOCKLESS = "from tests.faults.lockless import main; main()"


@dataclass(frozen=True)
class Plan:
    """What to run and how often to kill it; `in_flight` requests belong to each of the `workers`."""

    rows: int
    kills: int
    workers: int = 2
    in_flight: int = 8
    shard_size: int = 100
    pause: float = 2.0
    """A kill comes 0 to this many seconds after the process's first answer."""
    latency: float = 0.01
    locks: bool = True
    poison: tuple[str, ...] = ("content", "transport")


@dataclass
class Reader(threading.Thread):
    """Reads what a glob finds, new files first, as fast as it can; whatever it cannot read is an error."""

    out: Path
    read: int = 0
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self.done = threading.Event()
        self._seen: set[Path] = set()

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        rng = random.Random(1)  # noqa: S311 - which files to look at again
        while not self.done.wait(0.1):
            found = [path for step in STEPS if step != ".rejects" for path in (self.out / step).rglob("*.parquet")]
            new = [path for path in found if path not in self._seen]
            for path in [*new, *rng.sample(found, min(3, len(found)))]:
                self._look(path)
            self._seen.update(new)

    def _look(self, path: Path) -> None:
        try:
            pq.read_table(path, page_checksum_verification=True)
        except (OSError, pa.ArrowException) as exc:
            self.errors.append(f"{path}: {exc}")
        self.read += 1


@dataclass
class Figures:
    """What came of a plan."""

    plan: Plan
    audit: Audit
    kills: int
    seconds: float
    read: int
    read_errors: list[str]
    codes: list[int]
    """Exit codes of the processes that were not killed."""

    @property
    def most_repeated(self) -> int:
        """The bound of P4: what was in flight in the killed process, kill by kill."""
        return self.plan.in_flight * self.kills

    def __str__(self) -> str:
        return (
            f"{self.audit} (at most {self.most_repeated}); {self.kills} kills, {self.read} files read meanwhile, "
            f"{len(self.read_errors)} errors; {self.seconds:.0f} s"
        )

    def broken(self) -> dict[str, object]:
        """Every promise that was not kept."""
        found: dict[str, object] = dict(self.audit.broken())
        if self.kills < self.plan.kills:
            found["kills"] = f"{self.kills} of {self.plan.kills}: the run was done first"
        if self.plan.locks and self.audit.repeated > self.most_repeated:
            found["repeated"] = self.audit.repeated
        if self.read_errors:
            found["read errors"] = self.read_errors[:3]
        if odd := set(self.codes) - {0, 75}:
            found["exit codes"] = odd
        return found


def write_rows(path: Path, rows: int) -> None:
    """`rows` short texts, every one its own; the last one is blank and will be rejected."""
    lines = [
        {"id": f"r{n}", "text": f"Note {n}: {TRADES[n % 10]} needs {n} tools, a dry room and {n + 3} patient days."}
        for n in range(rows - 1)
    ]
    lines.append({"id": "blank", "text": " "})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def write_job(home: Path, plan: Plan, url: str) -> Path:
    """One query for each passage, cosine and length as scores; a small embedder on the same server."""
    served = {"use": "vllm_server", "model": "faulty", "base_urls": [url]}
    job = {
        "seed": SEED,
        "corpus": {"path": str(home / "rows.jsonl"), "language": "en"},
        "personas": None,
        "llm": served,
        "embed": served,
        "task": {"use": "retrieval", "queries_per_passage": 1, "attempts": 3},
        "scores": [{"use": "cosine"}, {"use": "length"}],
        "keep": {"cosine": {"above": 0.6}},
        "run": {"shard_size": plan.shard_size, "concurrency": plan.in_flight, "request_timeout": 2.0},
    }
    path = home / "job.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False), "utf-8")
    return path


def kill_loop(home: Path, plan: Plan) -> Figures:
    """Run undisturbed, run again under faults and kills, and compare."""
    home.mkdir(parents=True, exist_ok=True)
    write_rows(home / "rows.jsonl", plan.rows)
    content = Profile(seed=5, content=CONTENT, poisoned=0.001, poison=plan.poison, hang=2.5, latency=plan.latency)
    items = Items(SEED, plan.rows, 1)
    with FaultServer(content, home / "clean.log", items).serving() as url:
        job = write_job(home, replace(plan, in_flight=plan.in_flight * plan.workers), url)
        process = _start(job, home / "clean", url)
        if _end(process) != 0:
            raise AssertionError((home / "clean.stderr").read_text("utf-8"))
    server = FaultServer(replace(content, transport=TRANSPORT), home / "out.log", items)
    with server.serving_at(plan.workers) as urls:
        job = write_job(home, plan, urls[0])
        loop = _Loop(plan, job, home / "out", server, urls)
        reader = Reader(home / "out")
        reader.start()
        begin = time.monotonic()
        try:
            loop.run()
        finally:
            loop.end()
            reader.done.set()
            reader.join()
    seconds = time.monotonic() - begin
    found = audit(home / "out", slots=1, rows=plan.rows, log=home / "out.log", clean=home / "clean")
    return Figures(plan, found, loop.kills, seconds, reader.read, reader.errors, loop.codes)


def _start(job: Path, out: Path, url: str, writer: str = "") -> subprocess.Popen[bytes]:
    start = ["-c", LOCKLESS, writer] if writer else ["-m", "synth"]
    settings = [part for section in ("llm", "embed") for part in ("-s", f"{section}.base_urls.0={url}")]
    command = [sys.executable, *start, "run", str(job), "-o", str(out), "--json", *settings]
    with out.with_suffix(".stderr").open("ab") as errors:
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)


def _end(process: subprocess.Popen[bytes]) -> int:
    return process.wait(timeout=1800)


class _Loop:
    """Keeps `workers` processes running until all kills are done and the run is."""

    def __init__(self, plan: Plan, job: Path, out: Path, server: FaultServer, urls: list[str]) -> None:
        self.plan, self.job, self.out, self.server, self.urls = plan, job, out, server, urls
        self.kills = 0
        self.codes: list[int] = []
        self._rng = random.Random(7)  # noqa: S311 - when to kill
        self._tick = threading.Event()
        self._finished = threading.Event()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    def run(self) -> None:
        threads = [threading.Thread(target=self._keep_killing, args=(n,)) for n in range(self.plan.workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def end(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    def _keep_killing(self, number: int) -> None:
        while not self._finished.is_set():
            writer = "" if self.plan.locks else f"w{number}"
            before = self.server.answered_at(self.urls[number])
            process = self._processes[number] = _start(self.job, self.out, self.urls[number], writer)
            if self._wait_for_answer(number, process, before) and self.kills < self.plan.kills:
                self._tick.wait(self._rng.uniform(0, self.plan.pause))
                with self._lock:
                    if self.kills < self.plan.kills and process.poll() is None:
                        process.kill()
                        self.kills += 1
                if process.wait() < 0:
                    continue
            code = _end(process)
            self.codes.append(code)
            if code != 75:
                self._finished.set()
            self._tick.wait(0.2)

    def _wait_for_answer(self, number: int, process: subprocess.Popen[bytes], before: int) -> bool:
        while process.poll() is None:
            if self.server.answered_at(self.urls[number]) > before:
                return True
            self._tick.wait(0.02)
        return False
