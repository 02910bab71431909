"""Search for the nearest personas, shard by shard: `python benchmarks/personas.py [personas] [passages]`.

The vectors of the library are in a mapped file, as in a run; passages come in shards of 1,000.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from synth.personas import nearest

SHARD = 1000
MOST_MEGABYTES = 2000


def unit(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    vectors = rng.standard_normal((count, width), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def report(folder: Path, personas: int = 200_000, passages: int = 100_000, width: int = 384) -> list[str]:
    rng = np.random.default_rng(0)
    np.save(folder / "library.npy", unit(rng, personas, width))
    library = np.load(folder / "library.npy", mmap_mode="r")
    wall = cpu = 0.0
    for start in range(0, passages, SHARD):
        shard = unit(rng, min(SHARD, passages - start), width)
        clock, processor = time.perf_counter(), time.process_time()
        nearest(shard, library, 5)
        wall, cpu = wall + time.perf_counter() - clock, cpu + time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [
        f"- {personas:,} personas x {passages:,} passages, width {width}: {wall:,.0f} s, {cpu:,.0f} CPU s",
        f"- CPU s per 1,000 passages: {cpu / passages * 1000:.2f}",
        f"- peak memory: {peak:,.0f} MB (goal: at most {MOST_MEGABYTES:,})",
    ]


def main(personas: int = 200_000, passages: int = 100_000, width: int = 384) -> None:
    with tempfile.TemporaryDirectory(prefix="synth-bench-") as folder:
        print(*report(Path(folder), personas, passages, width), sep="\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
