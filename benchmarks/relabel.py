"""How many second answers `synth relabel` finds, and how many other passages it takes for answers.

    python benchmarks/relabel.py FOLDER [--train FOLDER…] [--work DIR]

FOLDER holds `{corpus,queries,qrels}.parquet` in BEIR's columns, such as Cranfield. Of each query with two relevant
documents or more one, drawn at random, is its pair; the others are the second answers, to be found among all documents.
Judges are a cross-encoder of random weights (the plumbing alone), MiniLM's cosine, and with --train a cross-encoder
that starts as MiniLM and sees people's pairs of these folders once, each beside an irrelevant passage with its words.
"""

# ruff: noqa: PLC0415 - the models' libraries load slowly

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import yaml
from false_negatives import tables

from synth.cli.relabel import relabel_run
from synth.cli.run import run_target as run
from synth.embed.sentence_transformers import SentenceTransformersEmbedder
from synth.pipeline import resolve
from synth.rerank.cross_encoder import CrossEncoderReranker, LocalReranker
from synth.runners.mining import MineArgs
from synth.stage import ClientSettings, RerankStage

POOL, TOKENS, BATCH = 20, 160, 32
CUTS = {"cosine": ((0.7, 0.3), (0.5, 0.3)), "all": ((0.9, 0.1),)}
Pair = tuple[str, str]


class Remembered(RerankStage):
    """Scores that are kept in memory, so that other thresholds cost nothing: `cosine`, `all` (1.0), or a model's."""

    scores: ClassVar[dict[str, dict[Pair, float]]] = {}

    model: str

    def open(self, client: ClientSettings, instruction: str) -> _Remembered:  # noqa: ARG002 - the seam's signature
        inner = LocalReranker(CrossEncoderReranker(model=self.model, max_length=TOKENS, device="cpu"))
        return _Remembered(self.model, inner, self.scores.setdefault(self.model, {}))


class _Remembered:
    batch_size = 64

    def __init__(self, name: str, inner: LocalReranker, known: dict[Pair, float]) -> None:
        self._name, self._inner, self._known = name, inner, known

    async def score(self, pairs: Sequence[Pair]) -> np.ndarray:
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if new:
            found = [1.0] * len(new) if self._name == "all" else (await self._inner.score(new)).tolist()
            self._known.update(zip(new, found, strict=True))
        return np.array([self._known[pair] for pair in pairs])

    async def close(self) -> None:
        await self._inner.close()


def untrained(folder: Path, *, tiny: bool) -> Path:
    """MiniLM with a new head for one score, or a BERT of random weights with its tokenizer."""
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        BertConfig,
        BertForSequenceClassification,
    )
    from transformers.utils import logging

    torch.manual_seed(3)
    logging.set_verbosity_error()
    source = SentenceTransformersEmbedder().folder()
    tokenizer = AutoTokenizer.from_pretrained(source)
    if tiny:
        size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), num_labels=1, **size))
    else:
        model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def examples(folders: Sequence[Path], count: int) -> list[tuple[str, str, float]]:
    """Queries with a relevant document, and with the other one that shares most words; as many of each folder."""
    draw = random.Random(7)  # noqa: S311 - a seeded sample
    found: list[tuple[str, str, float]] = []
    for folder in folders:
        documents, queries, relevant = tables(folder)
        words = {name: set(text.casefold().split()) for name, text in documents.items()}
        for query in draw.sample(sorted(relevant), min(len(relevant), count // (2 * len(folders)))):
            asked = set(queries[query].casefold().split())
            others = (name for name in documents if name not in relevant[query])
            near = max(
                others, key=lambda name: len(asked & words[name]) / len(words[name]) ** 0.5 if words[name] else 0
            )
            found.append((queries[query], documents[draw.choice(relevant[query])], 1.0))
            found.append((queries[query], documents[near], 0.0))
    draw.shuffle(found)
    return found


def trained(folder: Path, pairs: Sequence[tuple[str, str, float]]) -> None:
    """One pass with binary cross-entropy; the learning rate falls from 1e-4."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(3)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    optimizer, loss = torch.optim.AdamW(model.parameters(), lr=1e-4), torch.nn.BCEWithLogitsLoss()
    steps = len(pairs) // BATCH
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min((n + 1) / 4, 1 - n / (steps + 1)))
    model.train()
    for n in range(steps):
        queries, documents, labels = zip(*pairs[BATCH * n : BATCH * (n + 1)], strict=True)
        cut = {"truncation": True, "max_length": TOKENS, "padding": True, "return_tensors": "pt"}
        value = loss(model(**tokenizer(list(queries), list(documents), **cut)).logits[:, 0], torch.tensor(labels))
        value.backward()
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)


def judged(work: Path, model: str, cuts: tuple[float, float]) -> list[dict[str, Any]]:
    """The rows that relabelling leaves, and those that it rejects."""
    options = {"reranker": f"{{use: 'relabel:Remembered', model: '{model}'}}", "pool": str(POOL)}
    options |= {"positive_above": str(cuts[0]), "negative_below": str(cuts[1])}
    with Path(os.devnull).open("w") as null, redirect_stdout(null), redirect_stderr(null):
        relabel_run(work / "out", MineArgs(corpus=[str(work / "corpus.jsonl")], options=options), as_json=True)
    steps = [path for step in ("relabelled", "rejected/relabelled") for path in (work / "out" / step).glob("*.parquet")]
    return [row for path in sorted(steps) for row in pq.read_table(path).to_pylist()]


def counted(rows: Sequence[Mapping[str, Any]], seconds: set[Pair], own: set[Pair], pool: set[Pair]) -> list[str]:
    """The cells of one line: pairs are of a query and a passage."""
    found: dict[str, set[Pair]] = {"positives": set(), "ambiguous": set()}
    moved = set()
    for row in rows:
        for which, pairs in found.items():
            pairs |= {(row["query"], each["passage"]) for each in row["relabelled"][which]}
        if row["relabelled"]["replaced"] is not None:
            moved.add((row["query"], row["passage"]))
    positives, ambiguous = (found["positives"] | moved) - own, found["ambiguous"] - own
    cells = [(positives & seconds, pool & seconds), (ambiguous & seconds, pool & seconds)]
    cells += [(positives - seconds, pool - seconds), (ambiguous - seconds, pool - seconds)]
    shares = [f"{len(some) / max(len(of), 1):.1%} of {len(of)}" for some, of in cells]
    dropped = sum("reason" in row for row in rows)
    return [*shares, f"{len(moved & seconds)} of {len(moved)}", f"{dropped} of {len(rows)}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=Path, nargs="+", default=[])
    parser.add_argument("--examples", type=int, default=640)
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="relabel-"))
    work.mkdir(parents=True, exist_ok=True)
    sys.modules["relabel"] = sys.modules["__main__"]  # the job's reranker is the one that is filled below
    documents, queries, relevant = tables(given.folder)
    draw = random.Random(7)  # noqa: S311 - a seeded sample
    chosen = {query: draw.choice(found) for query, found in sorted(relevant.items()) if len(found) > 1}
    lines = [{"query": queries[q], "passage": documents[d], "passage_id": d} for q, d in chosen.items()]
    (work / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts = [{"id": name, "text": text} for name, text in documents.items() if text.strip()]
    (work / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in texts))
    job = {"data": {"path": str(work / "pairs.jsonl")}, "embed": {"use": "sentence_transformers"}}
    job |= {"scores": [{"use": "cosine"}], "keep": {"cosine": {"above": -1}}}
    (work / "job.yaml").write_text(yaml.safe_dump(job))
    with Path(os.devnull).open("w") as null, redirect_stdout(null), redirect_stderr(null):
        run(resolve(work / "job.yaml", work / "out", (), None), as_json=True)

    seconds = {(queries[q], documents[d]) for q in chosen for d in relevant[q] if d != chosen[q]}
    own = {(line["query"], line["passage"]) for line in lines}
    near = [row for row in judged(work, "all", (0.9, 0.1)) if row["relabelled"]]
    cosines = {
        (row["query"], each["passage"]): each["score"] for row in near for each in row["relabelled"]["positives"]
    }
    pool = set(cosines) - own
    cosines |= {(row["query"], row["passage"]): row["cosine"] for row in near}
    Remembered.scores["cosine"] = cosines
    what = f"{len(chosen)} queries, {len(seconds)} second answers; the {POOL} nearest of {len(texts)} passages judged:"
    print(f"{what} {len(pool & seconds)} second answers and {len(pool - seconds)} others", flush=True)
    models = {"random cross-encoder": str(untrained(work / "tiny", tiny=True)), "cosine": "cosine"}
    if given.train:
        folder = untrained(work / "trained", tiny=False)
        pairs, began = examples(given.train, given.examples), time.process_time()
        trained(folder, pairs)
        print(f"trained on {len(pairs)} examples, {time.process_time() - began:.0f} CPU seconds", flush=True)
        models["trained cross-encoder"] = str(folder)
    head = ("judge", "above, below", "second answers: positive", "ambiguous", "others: positive", "ambiguous")
    for line in (head, ["-"] * 8):
        print(f"| {' | '.join([*line, *(('replaced by a second answer', 'pairs dropped') if line is head else ())])} |")
    for label, model in models.items():
        for cuts in CUTS.get(model, ((0.9, 0.1), (0.5, 0.1), (0.5, 0.3))):
            cells = counted(judged(work, model, cuts), seconds, own, pool)
            print(f"| {label} | {cuts[0]}, {cuts[1]} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
