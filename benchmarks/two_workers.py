"""`synth run --workers 2` compared with two bare loops that send the same calls to a similar server.

Once with a server that is faster than the clients, so that CPUs are the limit, and once with one that takes 250 calls a
second, more than eight GPUs do.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import client_cost
import measure
import texts
from measure import HERE

SLOTS = 256
SHARD = 250
SPEEDS = {"processor-bound (100 ms, 512 slots)": (0.1, 512), "server-bound (1 s, 256 slots)": (1.0, 256)}


def ours(url: str, folder: Path, corpus: Path) -> float:
    """Calls per second of one run with two processes."""
    measure.ask(url, "/reset")
    client_cost.synth(url, folder, corpus, SLOTS, workers=2, shard_size=SHARD)
    return measure.rate(measure.ask(url, "/trace"))


def bare(url: str, folder: Path) -> float:
    """Calls per second of two bare loops, each with half of the bodies that synth sent."""
    bodies = measure.ask(url, "/dump")
    halves = [folder / f"half{n}.bodies" for n in range(2)]
    for n, half in enumerate(halves):
        half.write_text(json.dumps(bodies[n::2]), encoding="utf-8")
    measure.ask(url, "/reset")
    command = [sys.executable, str(HERE / "bare_loop.py"), url]
    loops = [subprocess.Popen([*command, str(half), str(SLOTS)]) for half in halves]
    codes = [loop.wait() for loop in loops]
    if any(codes):
        raise RuntimeError("a bare loop failed")
    return measure.rate(measure.ask(url, "/trace"))


def report(folder: Path, passages: int = 4000) -> list[str]:
    lines = ["| server | synth, two workers: calls/s | two bare loops: calls/s | ratio | goal |", "|-|-|-|-|-|"]
    for name, (latency, slots) in SPEEDS.items():
        home = folder / str(slots)
        home.mkdir()
        corpus, warm = home / "all.jsonl", home / "warm.jsonl"
        texts.corpus(corpus, passages)
        texts.corpus(warm, 2)
        with measure.server(latency=latency, slots=slots, record=True) as url:
            client_cost.synth(url, home, warm, SLOTS)  # fills the cache of persona vectors
            mine = ours(url, home, corpus)
            theirs = bare(url, home)
        lines.append(f"| {name} | {mine:,.0f} | {theirs:,.0f} | {mine / theirs:.2f} | 0.9 |")
    return lines
