"""A new view over many scored rows, compared with a bare pyarrow loop in the same run.

    python benchmarks/keep.py --rows 100000 1000000

Both sides read every column of `generated/` and `scores/`, filter by cosine and write zstd Parquet, with the same
number of CPUs (two processes in the loop, threads in synth, start included), one after the other, warm page cache.
`bare` writes the rows that pass, `bare both` also the rejected rows, as a view does. Memory is the peak of the largest
process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from synth.shards import Origin, OutputFolder
from synth.tables import PAIRS

SHARD = 10_000
SCORES = "scores/cosine-00000000"
TYPES, LEVELS = ("keywords", "acquire_knowledge", "summary", "yes_no"), ("high_school", "university", "phd")
THRESHOLD = 0.6

Cost = tuple[float, float, int]
"""Wall seconds, CPU seconds, peak bytes of the largest process."""


def make(out: Path, rows: int) -> None:
    """Scored pairs as a run writes them: passages of 400 characters, two queries each."""
    folder = OutputFolder.open(out, write=True)
    folder.put_if_absent("job.json", b"{}\n")
    rng = np.random.default_rng(7)
    words = np.array(["".join(rng.choice(list("etaoinshrdlu"), rng.integers(2, 10))) for _ in range(20_000)])
    for index in range(-(-rows // SHARD)):
        count = min(SHARD, rows - index * SHARD)
        first = index * SHARD
        passages = [" ".join(words[rng.integers(0, len(words), 75)])[:400] for _ in range(-(-count // 2))]
        queries = [" ".join(words[rng.integers(0, len(words), 9)]) for _ in range(count)]
        columns = {
            "id": [f"{(first + n) // 2}-{n % 2}" for n in range(count)],
            "task": ["retrieval"] * count,
            "query": queries,
            "passage": [passages[n // 2] for n in range(count)],
            "passage_id": [f"doc-{(first + n) // 2}" for n in range(count)],
            "source": ["bench"] * count,
            "query_language": [("en", "de", "fr")[n % 3] for n in range(count)],
            "passage_language": ["en"] * count,
            "character": [" ".join(words[n % 500 : n % 500 + 12]) for n in range(count)],
            "question_type": [TYPES[n % 4] for n in range(count)],
            "difficulty": [LEVELS[n % 3] for n in range(count)],
            "length_min": [3] * count,
            "length_max": [24] * count,
            "length_unit": ["words"] * count,
            "model": ["bench-model"] * count,
            "template": ["retrieval@00000000"] * count,
            "revision": [1] * count,
            "attempts": [1] * count,
            "repaired": [False] * count,
            "prompt_tokens": rng.integers(900, 1200, count),
            "completion_tokens": rng.integers(20, 60, count),
            "retry_of": [None] * count,
        }
        origin = Origin(identity="bench", input="", first=first, rows_in=count, rows_out=count, schema="1")
        folder.step("generated").commit(index, pa.table(columns, schema=PAIRS), origin)
        cosine = np.clip(rng.normal(0.6, 0.15, count), -1, 1)
        scores = {
            "id": columns["id"],
            "cosine": cosine,
            "passage_truncated": np.zeros(count, bool),
            "cosine_shuffled": np.clip(cosine - 0.4, -1, 1),
        }
        folder.step(SCORES).commit(index, pa.table(scores), origin)


def bare(out: str, target: str, index: int, *, both: bool) -> None:
    """Read, filter and write one shard by hand."""
    name = f"{index:08d}.parquet"
    table = pq.read_table(Path(out, "generated", name))
    scores = pq.read_table(Path(out, SCORES, name))
    for field in scores.schema:
        if field.name != "id":
            table = table.append_column(field, scores[field.name])
    passed = pc.greater(table["cosine"], THRESHOLD)
    pq.write_table(table.filter(passed), Path(target, name), compression="zstd")
    if both:
        pq.write_table(table.filter(pc.invert(passed)), Path(target, f"rejected-{name}"), compression="zstd")


def bare_loop(out: str, target: str, shards: Sequence[int], workers: int, *, both: bool) -> None:
    """The bare loop over all shards."""
    Path(target).mkdir()
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(partial(bare, out, target, both=both), shards))


def synth_keep(out: str, target: str, shards: Sequence[int], workers: int) -> None:
    """The same with the code of `synth keep --as`."""
    from synth.rules import Rules  # noqa: PLC0415 - only where it is used, so that the bare loops do not pay for it
    from synth.steps.keep import View, carry_out  # noqa: PLC0415 - as above

    rules, _ = Rules.parse({"cosine": {"above": THRESHOLD}}, None)
    assert rules is not None
    carry_out(OutputFolder.open(Path(out)), View(f"views/{Path(target).name}", rules, (SCORES,)), shards, workers)


def measured(work: Callable[[], None], results: multiprocessing.Queue[Cost]) -> None:
    """Run in its own process: wall seconds, CPU seconds, peak bytes of the largest process."""
    start = time.perf_counter()
    work()
    wall = time.perf_counter() - start
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(each.ru_utime + each.ru_stime for each in used)
    results.put((wall, cpu, max(each.ru_maxrss for each in used) * 1024))


def compared(out: Path, scratch: str, rows: int, options: argparse.Namespace) -> Iterator[tuple[str, Cost, Cost]]:
    """(name, cost, cost of `bare` just before) of each loop over `rows`, in turn, `rounds` times."""
    context = multiprocessing.get_context("spawn")
    loops = {
        "bare": partial(bare_loop, both=False),
        "bare both": partial(bare_loop, both=True),
        "synth keep": synth_keep,
    }
    for _ in range(options.rounds):
        first: Cost | None = None
        for name, loop in loops.items():
            target = str(Path(scratch) / f"view{time.time_ns()}")
            results: multiprocessing.Queue[Cost] = context.Queue()
            work = partial(loop, str(out), target, range(-(-rows // SHARD)), options.workers)
            process = context.Process(target=measured, args=(work, results))
            process.start()
            cost = results.get()
            process.join()
            first = first or cost
            yield name, cost, first


def report(options: argparse.Namespace, scratch: str) -> Iterator[str]:
    """A table of all rounds; then the last size: its cost relative to the bare loop, its memory to the first size."""
    yield "| rows | | wall s | of bare | CPU s | of bare | peak MB |"
    yield "|-|-|-|-|-|-|-|"
    peaks: dict[int, int] = {}
    ratios: list[tuple[float, float]] = []
    for rows in options.rows:
        out = (options.folder or Path(scratch)) / f"rows-{rows}"
        if not out.exists():
            make(out, rows)
        ratios = []
        for name, (wall, cpu, peak), bare_cost in compared(out, scratch, rows, options):
            against = (wall / bare_cost[0], cpu / bare_cost[1])
            yield (
                f"| {rows:,} | {name} | {wall:.2f} | {against[0]:.2f} | {cpu:.2f} | {against[1]:.2f} | "
                f"{peak / 1e6:,.0f} |"
            )
            if name == "synth keep":
                ratios.append(against)
                peaks[rows] = max(peak, peaks.get(rows, 0))
    wall, cpu = (statistics.median(column) for column in zip(*ratios, strict=True))
    first, last = options.rows[0], options.rows[-1]
    yield ""
    yield f"- {last:,} rows, `bare` = 1: {wall:.2f} of the wall time, {cpu:.2f} of the CPU, median (goal: at most 1.5)"
    yield f"- peak memory: {peaks[last] / 1e6:,.0f} MB (goal: under 1,500)"
    yield f"- {peaks[last] / peaks[first]:.2f} x that of {first:,} rows (goal: at most 1.2)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep the data here and reuse it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for line in report(options, scratch):
            print(line, flush=True)


if __name__ == "__main__":
    main()
