"""Passages that answer a query but are mined as its negatives: without rules, with rules, with all checks.

    python benchmarks/false_negatives.py FOLDER

`cranfield`: of each query with two or more relevant documents, half are its positives and the other half, which is held
out, is counted. `covid_faq`, `cmrc2018_zh`: the corpus gets a lightly edited copy of every positive, and the copies are
counted. Mined with all-MiniLM-L6-v2, five negatives per query. FOLDER contains
`<name>/{corpus,queries,qrels}.parquet` in BEIR's columns.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from synth.cli.mine import mine_run as command
from synth.cli.run import run_target as run
from synth.pipeline import resolve
from synth.runners.mining import MineArgs

Row = tuple[str, Sequence[str], Sequence[str]]
"""A query, its positives, and the passages to count."""

NONE = {"max_score": None, "absolute_margin": None, "near": None, "near_cosine": None, "range": "0:5"}
SETTINGS = {
    "no rules": NONE,
    "ranks 20 to 50, score, margin": NONE | {"max_score": 0.8, "absolute_margin": 0.1, "range": "20:50"},
    "and near copies": {},
    "score, margin, ranks from 0": NONE | {"max_score": 0.8, "absolute_margin": 0.1, "range": "0:50"},
    "near copies, ranks from 0": {"max_score": None, "absolute_margin": None, "range": "0:50"},
    "all checks, ranks from 0": {"range": "0:50"},
}
"""The first three are those of docs/negatives.md; the others show each part without the rank window."""


def tables(folder: Path) -> tuple[dict[str, str], dict[str, str], dict[str, list[str]]]:
    """(documents, queries, relevant documents by query)."""
    documents = {row["id"]: row["text"] for row in pq.read_table(folder / "corpus.parquet").to_pylist()}
    queries = {row["id"]: row["text"] for row in pq.read_table(folder / "queries.parquet").to_pylist()}
    relevant: dict[str, list[str]] = {}
    for row in pq.read_table(folder / "qrels.parquet").to_pylist():
        if row["score"] > 0 and documents[row["doc_id"]].strip():
            relevant.setdefault(row["query_id"], []).append(row["doc_id"])
    return documents, queries, relevant


def edited(text: str, draw: random.Random) -> str:
    """A copy with one of four light edits: words changed, words dropped, a line added, or case and punctuation."""
    spaced = len(text.split()) * 15 > len(text)
    words, gap = (text.split(), " ") if spaced else (list(text), "")
    kind = draw.randrange(4)
    if kind < 2:
        for place in draw.sample(range(len(words)), max(1, len(words) // 30)):
            words[place] = draw.choice(words) if kind == 0 else ""
        return gap.join(word for word in words if word)
    return f"{text}{gap}(2021)" if kind == 2 else text.upper().replace(",", "").replace("，", "、")


def held_out(folder: Path) -> Iterator[Row]:
    """Cases with half of each query's relevant documents as positives, the other half counted."""
    documents, queries, relevant = tables(folder)
    draw = random.Random(7)  # noqa: S311 - a seeded sample
    for query, found in relevant.items():
        if len(found) > 1:
            drawn = draw.sample(found, len(found))
            half = len(drawn) // 2
            yield queries[query], [documents[d] for d in drawn[half:]], [documents[d] for d in drawn[:half]]


def copies(folder: Path) -> Iterator[Row]:
    """Cases with edited copies of the positives, which are added to the corpus and counted."""
    documents, queries, relevant = tables(folder)
    draw = random.Random(7)  # noqa: S311 - a seeded sample
    copy = {d: edited(documents[d], draw) for d in dict.fromkeys(d for found in relevant.values() for d in found)}
    for query, found in relevant.items():
        yield queries[query], [documents[d] for d in found], [copy[d] for d in found]


def measure(folder: Path, work: Path) -> None:
    rows = list(held_out(folder) if folder.name == "cranfield" else copies(folder))
    documents, _, _ = tables(folder)
    corpus = dict.fromkeys([*documents.values(), *(text for row in rows for text in row[2])])
    write(work / "corpus.jsonl", ({"text": text} for text in corpus if text.strip()))
    write(work / "pairs.jsonl", ({"query": row[0], "passage": text} for row in rows for text in row[1]))
    job = {
        "data": {"path": str(work / "pairs.jsonl")},
        "embed": {"use": "sentence_transformers", "model": "all-MiniLM-L6-v2"},
        "scores": [{"use": "length"}],
        "keep": {},
        "run": {"shard_size": 500},
    }
    (work / "job.yaml").write_text(yaml.safe_dump(job), encoding="utf-8")
    counted = {row[0]: {text.strip() for text in row[2]} for row in rows}
    what = "held-out relevant documents" if folder.name == "cranfield" else "edited copies"
    total = sum(map(len, counted.values()))
    about = f"{folder.name}: {len(counted):,} queries, {len(corpus):,} passages"
    with redirect_stdout((work / "log").open("w")), redirect_stderr((work / "log2").open("w")):
        run(resolve(work / "job.yaml", work / "out", [], None), as_json=True)
    for name, options in SETTINGS.items():
        (work / "mine.yaml").write_text(yaml.safe_dump({"num_negatives": 5} | options), encoding="utf-8")
        with redirect_stdout((work / "log").open("w")), redirect_stderr((work / "log2").open("w")):
            command(work / "out", MineArgs(file=work / "mine.yaml", corpus=[str(work / "corpus.jsonl")]), as_json=True)
        taken: dict[str, set[str]] = {}
        negatives = 0
        for path in sorted((work / "out" / "mined").glob("*.parquet")):
            for row in pq.read_table(path, columns=["query", "negatives"]).to_pylist():
                negatives += len(row["negatives"])
                taken.setdefault(row["query"], set()).update(each["passage"].strip() for each in row["negatives"])
        false = sum(len(counted[query] & found) for query, found in taken.items())
        share = false / total
        print(f"| {about} | {name} | {false:,} of {total:,} {what} | {share:.2%} | {negatives:,} |", flush=True)


def write(path: Path, rows: Iterator[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with cranfield, covid_faq and cmrc2018_zh")
    parser.add_argument("names", nargs="*", default=["cranfield", "covid_faq", "cmrc2018_zh"])
    options = parser.parse_args()
    print("| data | checks | taken as negatives | share | negatives |\n|-|-|-|-|-|")
    for name in options.names:
        with tempfile.TemporaryDirectory() as work:
            measure(options.data / name, Path(work))


if __name__ == "__main__":
    main()
