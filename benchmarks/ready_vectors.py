"""Cosine of precomputed vectors (1,024 floats each), compared with a bare pyarrow and numpy loop in the same run.

    python benchmarks/ready_vectors.py --rows 100000 --folder /tmp/bench

Three contenders read the same `generated/` shards and write one file of scores per shard: the bare loop, the scorer
alone, and the step of a run (two shards at once), which also hashes each shard, checks its pages and commits the scores
durably. Prints rows per second, ratios to the bare loop, and peak memory, which must not grow with the rows.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import resource
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synth import process
from synth.document import Document
from synth.job import build_job
from synth.runners.local import AT_ONCE
from synth.runs.run import OpenRun
from synth.scores import PairBatch
from synth.stage import Services
from synth.steps import ingest, score

WIDTH = 1024
TURNS = 3
"""The best counts, because other work on the machine slows all of a turn."""


class Measured(NamedTuple):
    """Wall and CPU seconds, and peak memory in MB."""

    wall: float
    cpu: float
    process: float


def measured(started: float, spent: float) -> Measured:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Measured(time.perf_counter() - started, time.process_time() - spent, most)


def data(path: Path, rows: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = None
    for first in range(0, rows, 5000):
        count = min(5000, rows - first)
        rng = np.random.default_rng(first)
        sides = [rng.standard_normal((count, WIDTH), dtype=np.float32) for _ in range(2)]
        lists = [pa.FixedSizeListArray.from_arrays(pa.array(side.reshape(-1)), WIDTH) for side in sides]
        texts = [[f"{what} {n} " + "words of a text " * 5 for n in range(first, first + count)] for what in "qp"]
        table = pa.table({"query": texts[0], "passage": texts[1], "query_vec": lists[0], "passage_vec": lists[1]})
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    assert writer is not None
    writer.close()


def opened(folder: Path, shard_size: int) -> OpenRun:
    ready = {"use": "cosine", "query_vector": "query_vec", "passage_vector": "passage_vec"}
    languages = {"query_language": "en", "passage_language": "en"}
    job = {
        "data": {"path": "pairs.parquet", **languages},
        "scores": [ready],
        "keep": {},
        "run": {"shard_size": shard_size},
    }
    found = build_job(Document("bench", job, {}, ()), (), base=folder)
    return OpenRun.open(found, folder / "out", sample=None, notify=lambda _: None)


def as_the_command_line() -> None:
    """The memory settings of `synth filter`."""
    process.economise()
    process.for_tables()


def ours(folder: Path, shard_size: int, results: multiprocessing.Queue[Measured]) -> None:
    as_the_command_line()
    run = opened(folder, shard_size)
    step = score.steps(run.job, run.job.instruction)[0]
    shutil.rmtree(folder / "out" / step.name, ignore_errors=True)
    shards = sorted(run.folder.step("generated").done())
    room = asyncio.Semaphore(AT_ONCE)

    async def one(index: int) -> None:
        async with room:
            shard = await asyncio.to_thread(score.open_shard, run, index, [step], whole=False)
            await score.score(run, step, shard, Services())

    async def rest() -> None:
        await asyncio.gather(*map(one, shards[1:]))

    asyncio.run(one(shards[0]))  # the first shard brings the imports
    started, spent = time.perf_counter(), time.process_time()
    asyncio.run(rest())
    results.put(measured(started, spent))


def scorer(folder: Path, shard_size: int, results: multiprocessing.Queue[Measured]) -> None:
    as_the_command_line()
    run = opened(folder, shard_size)
    step, source = score.steps(run.job, run.job.instruction)[0], run.folder.step("generated")
    target = folder / "scorer"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    started = spent = 0.0
    for n, index in enumerate(sorted(source.done())):
        if n == 1:
            started, spent = time.perf_counter(), time.process_time()
        pairs = source.read_columns(index, ["id", *(step.scorer.reads or ())])
        scores = asyncio.run(step.scorer.score(PairBatch(pairs, ()), Services()))
        table = scores.append_column("id", pairs["id"])
        pq.write_table(table, target / f"{index}.parquet", compression="zstd")
    results.put(measured(started, spent))


def bare(folder: Path, results: multiprocessing.Queue[Measured]) -> None:
    target = folder / "bare"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    started = spent = 0.0
    for n, path in enumerate(sorted((folder / "out" / "generated").glob("*.parquet"))):
        if n == 1:
            started, spent = time.perf_counter(), time.process_time()
        parts = []
        for batch in pq.ParquetFile(path).iter_batches(1000, columns=["id", "query_vec", "passage_vec"]):
            a, b = (batch.column(n).flatten().to_numpy().reshape(-1, WIDTH) for n in (1, 2))
            norms = np.sqrt(np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b))
            parts.append(pa.table({"id": batch.column(0), "cosine": np.einsum("ij,ij->i", a, b) / norms}))
        pq.write_table(pa.concat_tables(parts), target / path.name, compression="zstd")
    results.put(measured(started, spent))


def in_its_own_process(work: object, *args: object) -> Measured:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=work, args=(*args, results))  # type: ignore[arg-type] # a function
    process.start()
    found = results.get()
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--shard-size", type=int, default=1000)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    data(options.folder / "pairs.parquet", options.rows)
    ingest.make(opened(options.folder, options.shard_size), lambda _read, _rejected: None)
    times = []
    for _ in range(TURNS):
        works = {
            "bare loop": (bare, ()),
            "scorer": (scorer, (options.shard_size,)),
            "step": (ours, (options.shard_size,)),
        }
        times.append({name: in_its_own_process(do, options.folder, *more) for name, (do, more) in works.items()})
    rows = options.rows - options.shard_size
    base = {of: min(getattr(turn["bare loop"], of) for turn in times) for of in ("wall", "cpu")}
    print("| | rows a second | of the bare loop | rows a CPU second | of the bare loop | peak MB |")
    print("|-|-|-|-|-|-|")
    for name in times[0]:
        wall, cpu = (min(getattr(turn[name], of) for turn in times) for of in ("wall", "cpu"))
        memory = max(turn[name].memory for turn in times)
        clock = f"{rows / wall:,.0f} | {base['wall'] / wall:.2f}"
        print(f"| {name} | {clock} | {rows / cpu:,.0f} | {base['cpu'] / cpu:.2f} | {memory:,.0f} |")
    wall = min(turn["step"].wall for turn in times)
    step = base["wall"] / min(turn["step"].wall for turn in times)
    print(f"\n- {options.rows:,} rows: the step runs at {step:.2f} of the bare loop's rate (goal: at least 0.7)")


if __name__ == "__main__":
    main()
