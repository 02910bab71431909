"""T16: a pass over existing data, then `synth keep` swapping the default view, killed with -9 while a reader reads.

The reader of the pass counts what a glob finds, which may never fall. The reader of the swaps opens the folder `kept`
once and reads what is in it: the rows of the old rules or those of the new ones, never a mixture.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .kill_loop import ROOT, TRADES
from .server import MODEL, TRANSPORT, FaultServer, Profile

THRESHOLDS = (0.5, 0.7, 0.9)


@dataclass
class Filtered:
    """What came of it; `wrong` is empty when every promise was kept."""

    rows: int
    kills: int = 0
    pass_kills: int = 0
    reads: int = 0
    swaps: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.rows:,} rows; {self.kills} kills ({self.pass_kills} of the pass), {self.swaps} views swapped in, "
            f"{self.reads} reads of kept; {len(self.wrong)} wrong; {self.seconds:.0f} s"
        )


def filter_loop(home: Path, rows: int, kills: int) -> Filtered:
    """Half of the kills hit `synth filter`, half `synth keep`."""
    home.mkdir(parents=True, exist_ok=True)
    _write_pairs(home / "pairs.jsonl", rows)
    found = Filtered(rows)
    begin = time.monotonic()
    with FaultServer(Profile(seed=5, latency=0.01), home / "clean.log").serving() as url:
        _finish(_filter(home, home / "clean", url))
    server = FaultServer(Profile(seed=5, transport=TRANSPORT, hang=2.5, latency=0.01), home / "out.log")
    with server.serving() as url:
        _Loop(home, url, server, found, kills).run()
    out = home / "out"
    _finish(_synth("keep", str(out), "--above", f"cosine={THRESHOLDS[0]}"))
    _judge(out, home / "clean", found)
    found.seconds = time.monotonic() - begin
    return found


class _Loop:
    def __init__(self, home: Path, url: str, server: FaultServer, found: Filtered, kills: int) -> None:
        self.home, self.url, self.server, self.found, self.kills = home, url, server, found, kills
        self.out = home / "out"
        self._rng = random.Random(3)  # noqa: S311 - when to kill
        self._tick = threading.Event()
        self._allowed: set[int] = set()

    def run(self) -> None:
        with _Reading(self.count_grows):
            while self.found.kills < self.kills // 2 and self._kill_pass():
                pass
            self.found.pass_kills = self.found.kills
            _finish(_filter(self.home, self.out, self.url))
        counts = {threshold: _expected(self.out, threshold) for threshold in THRESHOLDS}
        self._allowed = {counts[THRESHOLDS[0]]}
        took = self._swap(THRESHOLDS[1], counts)
        with _Reading(self.count_is_of_one_view):
            turn = 0
            while self.found.kills < self.kills and turn < 6 * self.kills:
                turn += 1
                self._swap(THRESHOLDS[turn % 3], counts, self._rng.uniform(0.4, 1.05) * took)

    def _kill_pass(self) -> bool:
        before = self.server.answered_at(self.url)
        process = _filter(self.home, self.out, self.url)
        while process.poll() is None and self.server.answered_at(self.url) == before:
            self._tick.wait(0.01)
        self._tick.wait(self._rng.uniform(0, 0.5))
        return self._killed(process)

    def _swap(self, threshold: float, counts: dict[float, int], kill_after: float | None = None) -> float:
        begin = time.monotonic()
        self._allowed = self._allowed | {counts[threshold]}
        process = _synth("keep", str(self.out), "--above", f"cosine={threshold}")
        if kill_after is not None:
            self._tick.wait(kill_after)
            if self._killed(process):
                return 0.0
        _finish(process)
        self.found.swaps += 1
        self._allowed = {counts[threshold]}
        return time.monotonic() - begin

    def _killed(self, process: subprocess.Popen[bytes]) -> bool:
        alive = process.poll() is None
        process.kill()
        process.communicate()
        self.found.kills += alive
        return alive

    def count_grows(self, last: int) -> int:
        """Rows of all files that a glob finds, which were whole and not fewer than before."""
        try:
            now = sum(pq.read_table(path).num_rows for path in sorted((self.out / "kept").glob("*.parquet")))
        except (OSError, pa.ArrowException) as exc:
            self.found.wrong.append(f"during the pass: {exc}")
            return last
        self.found.reads += 1
        if now < last:
            self.found.wrong.append(f"during the pass: {last} rows, then {now}")
        return now

    def count_is_of_one_view(self, _last: int) -> int:
        before = set(self._allowed)
        opened = os.open(self.out / "kept", os.O_RDONLY | os.O_DIRECTORY)
        try:
            listed = os.listdir(opened)  # noqa: PTH208 - the folder that was opened, whatever its name is now
            names = [name for name in listed if name.endswith(".parquet")]
            now = sum(pq.read_metadata(f"/proc/self/fd/{opened}/{name}").num_rows for name in names)
        except (OSError, pa.ArrowException) as exc:
            self.found.wrong.append(f"during a swap: {exc}")
            return 0
        finally:
            os.close(opened)
        self.found.reads += 1
        if now not in before | self._allowed:
            self.found.wrong.append(f"during a swap: {now} rows, neither of {sorted(before | self._allowed)}")
        return now


class _Reading(threading.Thread):
    """Calls `look` with what it gave last, again and again, while open."""

    def __init__(self, look: Callable[[int], int]) -> None:
        super().__init__(daemon=True)
        self._look = look
        self._done = threading.Event()

    def run(self) -> None:
        last = 0
        while not self._done.wait(0.02):
            last = self._look(last)

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self.join()


def _write_pairs(path: Path, rows: int) -> None:
    """Queries that share from none to all of their words with their passage."""
    lines = []
    for n in range(rows):
        words = f"Note {n}: {TRADES[n % 10]} needs {n} tools, a dry room and {n + 3} patient days".split()
        query = [*words[: n % len(words)], *(f"other{n * each}" for each in range(len(words) - n % len(words)))]
        lines.append({"query": " ".join(query), "passage": " ".join(words)})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def _filter(home: Path, out: Path, url: str) -> subprocess.Popen[bytes]:
    settings = ["run.shard_size=100", "run.request_timeout=2", "scores=[{use: cosine}, {use: length}]"]
    given = ["--embed-url", url, "--embed-model", MODEL, "--above", f"cosine={THRESHOLDS[0]}", "--json"]
    given += [part for setting in settings for part in ("-s", setting)]
    return _synth("filter", str(home / "pairs.jsonl"), "-o", str(out), *given)


def _synth(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "synth", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _finish(process: subprocess.Popen[bytes]) -> None:
    _, said = process.communicate(timeout=1800)
    if process.returncode:
        raise AssertionError(said.decode()[-2000:])


def _expected(out: Path, threshold: float) -> int:
    """How many pairs lie above, by the stored scores."""
    return len(_above(out, threshold))


def _above(out: Path, threshold: float) -> set[str]:
    (folder,) = (out / "scores").glob("cosine-*")
    tables = [pq.read_table(path, columns=["id", "cosine"]) for path in sorted(folder.glob("*.parquet"))]
    return {
        row["id"]
        for table in tables
        for row in table.to_pylist()
        if row["cosine"] is not None and row["cosine"] > threshold
    }


def _judge(out: Path, clean: Path, found: Filtered) -> None:
    """Kept + rejected = all, the right ones, and every shard as in a pass that nobody disturbed."""
    ids = {name: _ids(out / name) for name in ("generated", "kept", "rejected/kept")}
    if sorted(ids["kept"] + ids["rejected/kept"]) != sorted(ids["generated"]) or len(ids["generated"]) != found.rows:
        found.wrong.append(f"{len(ids['kept'])} kept + {len(ids['rejected/kept'])} rejected of {found.rows}")
    if set(ids["kept"]) != _above(out, THRESHOLDS[0]):
        found.wrong.append("other rows are kept than the rules say")
    for path in sorted(clean.rglob("*.parquet")):
        name = path.relative_to(clean)
        if name.parts[0].startswith("."):
            continue
        if not (out / name).exists() or (out / name).read_bytes() != path.read_bytes():
            found.wrong.append(f"{name} is unlike that of the clean pass")
    checked = subprocess.run(
        [sys.executable, "-m", "synth", "verify", str(out), "--deep"], cwd=ROOT, capture_output=True, check=False
    )
    if checked.returncode:
        found.wrong.append(checked.stdout.decode()[-500:])


def _ids(folder: Path) -> list[str]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path)["id"].to_pylist()]
