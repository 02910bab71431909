"""Prompt tokens per pair that remain to be computed with a perfect prefix cache, counted from the request bodies.

Compares the shipped templates with the report's order of fields. A prompt is computed from the end of its longest
common prefix with any earlier prompt. SYNTH_QWEN3_TOKENIZER names a tokenizer.json beside its tokenizer_config.json,
SYNTH_RETRIEVAL_DATA a folder with cranfield/corpus.parquet.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from measure import HERE
from tokenizers import Tokenizer

from synth.check.costs import PrefixCache
from synth.llm._tokens import local_tokenizer
from synth.personas import load_library
from synth.prompts import Prompts
from synth.stage import ChatReply, ChatRequest, Tokenize
from synth.tasks import TaskSettings, Writer
from synth.tasks.retrieval import Retrieval
from synth.types import Candidates, Passage

PASSAGES = 800
LAYOUTS = {
    "the report's order": HERE / "report_prompts" / "retrieval",
    "shipped": HERE.parent / "prompts" / "retrieval",
}
PERSONAS = HERE.parent / "personas" / "general.jsonl"


class Recorder:
    """Answers with choices drawn from the schema, and keeps every request."""

    slots = 1

    def __init__(self) -> None:
        self.requests: list[ChatRequest] = []
        self.replies: list[str] = []

    async def complete(self, request: ChatRequest) -> ChatReply:
        rng = random.Random(request.seed)  # noqa: S311 - sampling, not secrets
        self.requests.append(request)
        parts = request.schema["properties"]
        found = {key: rng.choice(part["enum"]) for key, part in parts.items() if "enum" in part}
        if "Query" in parts:
            words = request.inputs.candidates.passage.text.split()  # type: ignore[union-attr] # a query has them
            found["Query"] = " ".join(rng.sample(words, min(9, len(words))))
        text = json.dumps(found, ensure_ascii=False)
        if request.key.stage == "config":
            self.replies.append(text)
        return ChatReply(text, "stop", "recorder")

    async def close(self) -> None:
        pass


def passages(data: Path) -> list[Candidates]:
    rows = pl.read_parquet(data / "cranfield" / "corpus.parquet").filter(pl.col("text").str.len_chars() > 20)
    people = load_library(PERSONAS).sentences
    found = []
    for n, row in enumerate(rows.head(PASSAGES).iter_rows(named=True)):
        chosen = random.Random(n).sample(people, 5)  # noqa: S311 - as above
        found.append(Candidates(Passage(n, row["id"], row["text"], "en", "cranfield"), tuple(chosen), (0.5,) * 5))
    return found


def record(folder: Path, queries: int, given: Sequence[Candidates]) -> Recorder:
    task = Retrieval(queries_per_passage=queries)
    writer = Writer(task, Prompts.load(folder), TaskSettings(seed=7, max_tokens=512, repair=True, top_k=5))
    recorder = Recorder()

    async def everything() -> None:
        for each in given:
            await writer.write(each, recorder)

    asyncio.run(everything())
    return recorder


def counted(recorder: Recorder, tokenize: Tokenize) -> tuple[int, int]:
    """Prompt tokens sent, and those beyond the longest common prefix with an earlier prompt."""
    cache = PrefixCache()
    prompts = [tokenize(request.messages) for request in recorder.requests]
    return sum(map(len, prompts)), sum(map(cache.computed, prompts))


def report(_: Path) -> list[str]:
    path = Path(os.environ["SYNTH_QWEN3_TOKENIZER"])
    tokenizer, tokenize = Tokenizer.from_file(str(path)), local_tokenizer(str(path.parent))
    assert tokenize is not None, f"{path.parent} has no chat template"
    given = passages(Path(os.environ["SYNTH_RETRIEVAL_DATA"]))
    lines = [
        f"{len(given)} Cranfield passages, Qwen3's tokenizer.",
        "",
        "| layout | queries a passage | sent a pair | computed | to the report | stage one's reply | its schemas |",
        "|-|-|-|-|-|-|-|",
    ]
    for queries in (1, 3):
        base = 0.0
        for name, folder in LAYOUTS.items():
            recorder = record(folder, queries, given)
            pairs = queries * len(given)
            sent, computed = counted(recorder, tokenize)
            base = base or computed / pairs
            longest = max(len(tokenizer.encode(text).ids) for text in recorder.replies)
            schemas = {json.dumps(r.schema) for r in recorder.requests if r.key.stage == "config"}
            lines.append(
                f"| {name} | {queries} | {sent / pairs:,.0f} | {computed / pairs:,.0f} | {computed / pairs / base:.2f} "
                f"| {longest} tokens at most | {len(schemas)} |"
            )
    return lines


if __name__ == "__main__":
    print("\n".join(report(Path())))
