"""Hard negatives from precomputed vectors, compared with `mine_hard_negatives` of sentence-transformers.

    python benchmarks/mine.py                                   20,000 queries over 200,000 passages
    python benchmarks/mine.py --queries 2000 --passages 20000
    python benchmarks/mine.py --passages 1000000 --alone    only synth

Both get the same float16 vectors and the same rules (the defaults: ranks 20 to 50, max_score 0.8, absolute_margin 0.1,
five negatives), one process each, one after the other. synth runs the step of `synth mine`, from the index on disk to
durable shards, with the check for near copies; the other returns a Dataset in memory. Vectors are in clusters of a
hundred, so that the rules refuse some. Memory is the peak of private pages above those after the imports; mapped files
belong to the page cache and are shown separately.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pyarrow as pa
from clusters import Ready, Size, directions, text, vectors

from synth.negatives.mined import Mined
from synth.rules import Rules
from synth.search import CorpusText, build
from synth.shards import Origin, OutputFolder
from synth.stage import Services
from synth.steps import mine, neighbours
from synth.tables import PAIRS

SHARD = 1000
GROWN = (5_000, (200_000, 1_000_000))
"""Queries and passages of the two runs that compare memory."""


class Spent:
    """Wall and CPU seconds, and the peak of private and mapped bytes of this process."""

    def __enter__(self) -> Self:
        self._private, self._mapped, self._stop = 0, 0, threading.Event()
        self._before = self._now()[0]
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        self._began, self._busy = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds, self.cpu = time.perf_counter() - self._began, time.process_time() - self._busy
        self._stop.set()
        self._thread.join()

    def found(self, **more: Any) -> dict[str, Any]:
        return {"seconds": self.seconds, "cpu": self.cpu, "private": self._private, "mapped": self._mapped, **more}

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            private, mapped = self._now()
            self._private, self._mapped = max(self._private, private - self._before), max(self._mapped, mapped)

    @staticmethod
    def _now() -> tuple[int, int]:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss")}
        return found["RssAnon"], found["RssFile"]


class Source:
    """The part of a corpus that mining uses."""

    fingerprint = "bench"

    def __init__(self, passages: int) -> None:
        self._passages = passages

    def texts(self) -> Iterator[CorpusText]:
        return (CorpusText(f"p{n}", text("passage", n)) for n in range(self._passages))


def indexed(out: Path, size: Size) -> dict[str, Any]:
    """Write the pairs of a run and the index of its passages; returns the cost of the index."""
    folder = OutputFolder.open(out, write=True)
    for name in ("job.json", "index/pairs.json"):
        folder.put_if_absent(name, b"{}\n")
    for step in ("generated", "kept"):
        for index in range(-(-size.queries // SHARD)):
            rows = range(index * SHARD, min(size.queries, (index + 1) * SHARD))
            folder.step(step).commit(index, pairs(rows, size), origin(rows))
    source, encoder = Source(size.passages), Ready(size)
    directions(size.centres, size.width)
    with Spent() as spent:
        asyncio.run(build(folder.path / "index" / source.fingerprint, source.texts, encoder, lambda _: None))
    return spent.found()


def ours(out: Path, size: Size) -> dict[str, Any]:
    """Mine for the pairs of `indexed`."""
    folder = OutputFolder.open(out, write=True)
    plan = neighbours.Plan(run(folder), "mined", Mined(), "kept", Source(size.passages))  # type: ignore[arg-type] # a corpus
    neighbours.finished = lambda *_: list(range(-(-size.queries // SHARD)))
    counts: dict[str, Any] = {}

    async def work() -> None:
        mining = mine.Mining(plan, Services(encoder=Ready(size)), lambda _: None)
        todo = await mining.prepare()
        async for _ in mining.work(todo):
            pass
        counts.update(negatives=mining.counts.negatives, refused=mining.counts.refused)

    directions(size.centres, size.width)
    with Spent() as spent:
        asyncio.run(work())
    return spent.found(**counts)


def run(folder: OutputFolder) -> Any:
    """The part of a run that mining uses."""
    embed = SimpleNamespace(identity=lambda: {"ready": True})
    job = SimpleNamespace(embed=embed, instruction="", file=SimpleNamespace(seed=7), rules=Rules())
    return SimpleNamespace(folder=folder, job=job)


def pairs(rows: range, size: Size) -> pa.Table:
    own = {
        "id": [f"{n}-0" for n in rows],
        "query": [text("query", n) for n in rows],
        "passage": [text("passage", size.positive(n)) for n in rows],
        "passage_id": [f"p{size.positive(n)}" for n in rows],
    }
    count = len(rows)
    return pa.table([pa.array(own.get(f.name, [None] * count), f.type) for f in PAIRS], schema=PAIRS)


def origin(rows: range) -> Origin:
    return Origin(identity="bench", input="", first=rows.start, rows_in=len(rows), rows_out=len(rows), schema="1")


def theirs(size: Size) -> dict[str, Any]:
    import torch  # noqa: PLC0415 - not in the process that measures ours
    from datasets import Dataset  # noqa: PLC0415 - as above
    from sentence_transformers.util import mine_hard_negatives  # noqa: PLC0415 - as above

    class Model:
        device = "cpu"

        def encode_document(self, texts: list[str], **_: Any) -> Any:
            return corpus[: len(texts)]

        def encode_query(self, texts: list[str], **_: Any) -> Any:
            return asked[: len(texts)]

        def similarity(self, a: Any, b: Any) -> Any:
            return torch.as_tensor(a) @ torch.as_tensor(b).T

        def similarity_pairwise(self, a: Any, b: Any) -> Any:
            return (torch.as_tensor(a) * torch.as_tensor(b)).sum(-1)

    texts = [text("passage", n) for n in range(size.passages)]
    data = Dataset.from_dict(
        {
            "anchor": [text("query", n) for n in range(size.queries)],
            "positive": [texts[size.positive(n)] for n in range(size.queries)],
        }
    )
    directions(size.centres, size.width)
    with Spent() as memory:
        corpus = vectors("passage", 0, size.passages, size).astype(np.float32)  # in memory is how they come there
        asked = vectors("query", 0, size.queries, size).astype(np.float32)
        with Spent() as spent:
            found = mine_hard_negatives(
                data, Model(), corpus=texts, range_min=20, range_max=50, max_score=0.8, absolute_margin=0.1,
                num_negatives=5, verbose=False,
            )  # fmt: skip
    return memory.found(negatives=len(found)) | {"seconds": spent.seconds, "cpu": spent.cpu}


def apart(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """The result of a function, run in its own process so that only its memory is counted."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, work, arguments))
    process.start()
    sender.close()
    try:
        found: dict[str, Any] = receiver.recv()
    except EOFError as exc:
        raise RuntimeError(f"{work.__name__} ended without a result") from exc
    finally:
        process.join()
    return found


def _send(sender: Any, work: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    sender.send(work(*arguments))


def mined(folder: Path, size: Size) -> dict[str, Any]:
    """The cost of mining, and under `index` that of the index; leaves nothing in the folder."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        index = apart(indexed, Path(place) / "out", size)
        return apart(ours, Path(place) / "out", size) | {"index": index}


def table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["| | seconds | of CPUs | private MB | mapped MB | negatives |", "|-|-|-|-|-|-|"]
    for name, row in rows.items():
        memory = f"{row['private'] / 1e6:,.0f} | {row['mapped'] / 1e6:,.0f}"
        lines.append(f"| {name} | {row['seconds']:.1f} | {row['cpu']:.1f} | {memory} | {row.get('negatives', 0):,} |")
    return lines


def beside(folder: Path, size: Size) -> list[str]:
    """Both at one size."""
    rows = {"synth mine": mined(folder, size), "mine_hard_negatives": apart(theirs, size)}
    mine_, theirs_ = rows.values()
    refused = ", ".join(f"{name} {count:,}" for name, count in sorted(mine_["refused"].items()))
    return [
        f"{size}; both from precomputed vectors",
        "",
        *table(rows),
        "",
        f"- seconds: {mine_['seconds'] / theirs_['seconds']:.2f} of theirs (goal: at most 1)",
        f"- private memory: {mine_['private'] / theirs_['private']:.2f} of theirs (goal: at most 0.5)",
        f"- refused on the way: {refused}",
    ]


def grown(folder: Path) -> list[str]:
    """synth over two corpora, to compare memory."""
    queries, sizes = GROWN
    rows = {f"{passages:,} passages": mined(folder, Size(queries, passages)) for passages in sizes}
    small, large = rows.values()
    return [
        f"{queries:,} queries over two corpora",
        "",
        *table(rows | {f"index of {name}": row["index"] for name, row in rows.items()}),
        "",
        (
            f"- private memory at {sizes[1]:,} passages over that at {sizes[0]:,}: "
            f"{large['private'] / small['private']:.2f} (goal: flat, at most 1.2)"
        ),
        f"- the same while the index is built: {large['index']['private'] / small['index']['private']:.2f}",
    ]


def report(folder: Path) -> list[str]:
    """The comparison at full size, then memory over a growing corpus."""
    return [*beside(folder, Size(20_000, 200_000)), "", *grown(folder)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--passages", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--alone", action="store_true", help="run synth only")
    parser.add_argument("--folder", type=Path, help="folder of the index; default: temporary")
    options = parser.parse_args()
    size = Size(options.queries, options.passages, options.width)
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        if options.alone:
            row = mined(Path(temporary), size)
            lines = [f"{size}", "", *table({"synth mine": row, "index": row["index"]})]
        else:
            lines = beside(Path(temporary), size)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
