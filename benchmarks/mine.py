"""Hard negatives from ready vectors, beside sentence-transformers' `mine_hard_negatives` on the same vectors.

    python benchmarks/mine.py --queries 20000 --passages 200000 --width 384
    python benchmarks/mine.py --queries 2000 --passages 1000000 --only ours

Both sides get float16 vectors, the same rules (the defaults: ranks 20 to 50, max_score 0.8, absolute_margin 0.1, five
negatives) and one process, one after the other. Ours is the step as `synth mine` runs it, from the index on disk to
durable shards, near-equality checked; theirs returns a Dataset in memory. Vectors lie in clusters, so that the rules
have something to refuse. Memory is the peak of the process's own pages above what it took after its imports; mapped
files are the page cache's and are shown apart.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pyarrow as pa

from synth.negatives import CorpusText, build
from synth.negatives.mined import Mined
from synth.rules import Rules
from synth.shards import Origin, OutputFolder
from synth.stage import Encoded, Services
from synth.steps import mine, mine_inputs
from synth.tables import PAIRS

SHARD = 1000
CENTRES = 2000
"""Around each lie passages / 2,000, the first of them nearest: it answers the queries that lie there."""


def text(kind: str, number: int) -> str:
    return f"{kind} {number} " + " ".join(f"word{(number * 31 + n * 17) % 5000}" for n in range(40))


def vectors(kind: str, first: int, count: int, width: int) -> Any:
    """Unit vectors around some centres, more or less near to them, in half precision; a row is always the same."""
    centres = np.random.default_rng(1).normal(size=(CENTRES, width)).astype(np.float32)
    out = np.empty((count, width), np.float16)
    for start in range(first - first % 1000, first + count, 1000):
        rng = np.random.default_rng((1 if kind == "query" else 2, start))
        rows = np.arange(start, start + 1000)
        place = rows // CENTRES
        strength = np.where((place == 0) | (kind == "query"), 1.8, 0.2 + 0.012 * (place * 37 % 100))
        made = strength[:, None] * centres[rows % CENTRES] + rng.normal(size=(1000, width))
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        low, high = max(first, start), min(first + count, start + 1000)
        out[low - first : high - first] = made[low - start : high - start]
    return out


class Ready:
    """An Encoder over vectors that are there already."""

    def __init__(self, width: int) -> None:
        self.width = width

    async def encode(self, texts: Sequence[str], role: str) -> Encoded:
        numbers = np.array([int(each.split(" ", 2)[1]) for each in texts])
        kind = "query" if role == "query" else "passage"
        found = vectors(kind, int(numbers.min()), int(numbers.max() - numbers.min()) + 1, self.width)
        return Encoded(found[numbers - numbers.min()].astype(np.float32), np.zeros(len(texts), np.bool_))

    async def close(self) -> None:
        """Nothing is open."""


def positive(query: int, passages: int) -> int:
    """A passage of the query's own centre."""
    return query % min(CENTRES, passages)


class Memory:
    """The greatest private and mapped bytes of this process while it is watched."""

    def __enter__(self) -> Self:
        self.private, self.mapped, self._stop = 0, 0, threading.Event()
        self._begin = self._now()[0]
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            private, mapped = self._now()
            self.private, self.mapped = max(self.private, private - self._begin), max(self.mapped, mapped)

    @staticmethod
    def _now() -> tuple[int, int]:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss")}
        return found["RssAnon"], found["RssFile"]


def ours(out: Path, queries: int, passages: int, width: int) -> Iterator[dict[str, Any]]:
    folder = OutputFolder.open(out, write=True)
    for name in ("job.json", "index/pairs.json"):
        folder.put_if_absent(name, b"{}\n")
    for step in ("generated", "kept"):
        for index in range(-(-queries // SHARD)):
            rows = range(index * SHARD, min(queries, (index + 1) * SHARD))
            table = pairs(rows, passages)
            folder.step(step).commit(index, table, origin(rows))
    encoder = Ready(width)
    texts = lambda: (CorpusText(f"p{n}", text("passage", n)) for n in range(passages))  # noqa: E731 - short
    source = Source()
    asyncio.run(build(folder.path / "index" / source.fingerprint, texts, encoder, print))
    plan = mine.Plan(run(folder), "mined", Mined(), "kept", source)
    mine_inputs.finished = mine.finished = lambda *_: list(range(-(-queries // SHARD)))

    async def work() -> None:
        mining = mine.Mining(plan, Services(encoder=encoder), lambda _: None)
        todo = await mining.prepare()
        async for _ in mining.mine(todo):
            pass
        counts.update(negatives=mining.counts.negatives, refused=mining.counts.refused)

    counts: dict[str, Any] = {}
    with Memory() as memory:
        began, busy = time.perf_counter(), time.process_time()
        asyncio.run(work())
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
    yield {"seconds": seconds, "cpu": busy, "private": memory.private, "mapped": memory.mapped, **counts}


class Source:
    """A corpus that is indexed already."""

    fingerprint = "bench"

    def texts(self) -> Iterator[CorpusText]:
        raise AssertionError("the index is ready")


def run(folder: OutputFolder) -> Any:
    """As much of a run as mining looks at."""
    embed = SimpleNamespace(identity=lambda: {"ready": True})
    job = SimpleNamespace(embed=embed, instruction="", file=SimpleNamespace(seed=7), rules=Rules())
    return SimpleNamespace(folder=folder, job=job)


def pairs(rows: range, passages: int) -> pa.Table:
    own = {
        "id": [f"{n}-0" for n in rows],
        "query": [text("query", n) for n in rows],
        "passage": [text("passage", positive(n, passages)) for n in rows],
        "passage_id": [f"p{positive(n, passages)}" for n in rows],
    }
    count = len(rows)
    return pa.table([pa.array(own.get(f.name, [None] * count), f.type) for f in PAIRS], schema=PAIRS)


def origin(rows: range) -> Origin:
    return Origin(identity="bench", input="", first=rows.start, rows_in=len(rows), rows_out=len(rows), schema="1")


def theirs(queries: int, passages: int, width: int) -> Iterator[dict[str, Any]]:
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

    texts = [text("passage", n) for n in range(passages)]
    data = Dataset.from_dict(
        {
            "anchor": [text("query", n) for n in range(queries)],
            "positive": [texts[positive(n, passages)] for n in range(queries)],
        }
    )
    with Memory() as memory:
        corpus = vectors("passage", 0, passages, width).astype(np.float32)  # in memory is how they come there
        asked = vectors("query", 0, queries, width).astype(np.float32)
        began, busy = time.perf_counter(), time.process_time()
        found = mine_hard_negatives(
            data, Model(), corpus=texts, range_min=20, range_max=50, max_score=0.8, absolute_margin=0.1,
            num_negatives=5, verbose=False,
        )  # fmt: skip
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
    used = {"private": memory.private, "mapped": memory.mapped}
    yield {"seconds": seconds, "cpu": busy, "negatives": len(found), **used}


def apart(work: Callable[..., Iterator[dict[str, Any]]], *arguments: Any) -> dict[str, Any]:
    """The result of a generator in a process of its own, so that no memory of another is counted."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, work, arguments))
    process.start()
    sender.close()
    found: dict[str, Any] = receiver.recv()
    process.join()
    return found


def _send(sender: Any, work: Callable[..., Iterator[dict[str, Any]]], arguments: tuple[Any, ...]) -> None:
    sender.send(next(iter(work(*arguments))))


def report(folder: Path, sizes: tuple[int, int, int] = (20_000, 200_000, 384), only: str | None = None) -> list[str]:
    """The table of one comparison; `sizes` are queries, passages and dimensions."""
    rows = {}
    if only != "theirs":
        rows["synth mine"] = apart(ours, folder / "out", *sizes)
    if only != "ours":
        rows["mine_hard_negatives"] = apart(theirs, *sizes)
    lines = [
        f"{sizes[0]:,} queries x {sizes[1]:,} passages x {sizes[2]}",
        "",
        "| | seconds | of CPUs | private MB | mapped MB | negatives |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        memory = f"{row['private'] / 1e6:,.0f} | {row['mapped'] / 1e6:,.0f}"
        lines.append(f"| {name} | {row['seconds']:.1f} | {row['cpu']:.1f} | {memory} | {row['negatives']:,} |")
    if "refused" in rows.get("synth mine", {}):
        lines += ["", f"Refused: {json.dumps(rows['synth mine']['refused'])}"]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--passages", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--only", choices=["ours", "theirs"])
    parser.add_argument("--folder", type=Path, help="Where the index goes; else a temporary folder.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        sizes = (options.queries, options.passages, options.width)
        print("\n".join(report(Path(temporary), sizes, options.only)))


if __name__ == "__main__":
    main()
