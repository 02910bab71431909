"""MTEB's layouts on the Hub: `corpus`, `queries` and judgements for retrieval, one table for the other tasks."""

from __future__ import annotations

import re
from typing import ClassVar

import pyarrow as pa

from synth.errors import JobError
from synth.exports._export import PART, Benchmark, Export, Files, front_matter
from synth.exports._rows import Facts, Row, Source
from synth.languages import language
from synth.tables import TEXT
from synth.types import Layout
from synth.validation import Size

__all__ = ["Mteb"]

_CORPUS = pa.schema([("id", pa.string()), ("title", TEXT), ("text", TEXT)])
_QUERIES = pa.schema([("id", pa.string()), ("text", TEXT)])
_JUDGEMENTS = pa.schema([("query-id", pa.string()), ("corpus-id", pa.string()), ("score", pa.int32())])
_PAIR = {"sentence1": TEXT, "sentence2": TEXT}
_TABLES = {
    "sts": pa.schema(_PAIR | {"score": pa.float64()}),
    "bitext": pa.schema(_PAIR),
    "classification": pa.schema({"text": TEXT, "label": pa.string()}),
}
_TASKS = {"retrieval": "Retrieval", "sts": "STS", "bitext": "BitextMining", "classification": "Classification"}
"""MTEB's type of task by the kind of layout."""
_FLORES = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")
_MTEB_NAMES = {"zho": "cmn"}
"""MTEB names Mandarin, FLORES the macro language."""


class Mteb(Benchmark):
    """A task that MTEB loads from this folder or from the Hub: of retrieval, STS, bitext mining or classification.

    Retrieval is as `beir` in everything else. The other tasks are one table: STS has every pair with its score, bitext
    mining the pairs, classification texts and labels with a split to train on and one to test, so it needs `--split`.
    """

    title: ClassVar[str] = "MTEB"
    hub: ClassVar[bool] = True
    kinds: ClassVar[frozenset[str]] = Export.kinds

    part_size: Size = PART
    """Bytes after which a new Parquet file begins."""

    def graded(self, layout: Layout) -> bool:
        return layout.score is not None

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        """The table of the task, or what `Benchmark` writes. Raises JobError for a classification in one split."""
        kind, splits = facts.layout.kind, [*facts.counts.rows]
        if kind == "retrieval":
            super().write(source, facts, files)
            return
        if kind == "classification" and "train" not in splits:
            what = "mteb: a classification needs rows to train on and rows to test."
            raise JobError(what, "Split them: --split test=0.5")
        for batch in source.batches(facts.shape):
            for row in batch.rows:
                files.row(f"data/{batch.split}", _values(row, kind), _TABLES[kind], self.part_size)

    def passage(self, files: Files, name: str, title: str, text: str) -> None:
        files.row("corpus/corpus", (name, title, text), _CORPUS, self.part_size)

    def query(self, files: Files, name: str, text: str) -> None:
        files.row("queries/queries", (name, text), _QUERIES, self.part_size)

    def judgement(self, files: Files, split: str, query: str, passage: str, relevance: int) -> None:
        files.row(f"data/{split}", (query, passage, relevance), _JUDGEMENTS, self.part_size)

    def card(self, facts: Facts) -> str:
        """Front matter with the configurations of the layout."""
        configs = {"default": {split: f"data/{split}-*.parquet" for split in facts.counts.rows}}
        if facts.layout.kind == "retrieval":
            configs |= {
                "corpus": {"corpus": "corpus/corpus-*.parquet"},
                "queries": {"queries": "queries/queries-*.parquet"},
            }
        return front_matter(configs, facts, ["mteb"]) + self.train(facts)

    def train(self, facts: Facts) -> str:
        """How to evaluate on it."""
        languages = set()
        for code in facts.languages:
            found = next((each for each in language(code).aliases if _FLORES.fullmatch(each)), "eng_Latn")
            name, script = found.split("_")
            languages.add(f"{_MTEB_NAMES.get(name, name)}-{script}")
        words = re.findall(r"[A-Za-z0-9]+", facts.title)
        if not words or words[0][0].isdigit():
            words = ["Synth", *words]
        kind = _TASKS[facts.layout.kind]
        task = "".join(each.title() for each in words) + kind
        values = {"split": self.evaluated(facts), "languages": sorted(languages) or ["eng-Latn"], "task": task}
        return self.render("mteb.md.j2", facts, values | {"kind": kind})


def _values(row: Row, kind: str) -> tuple[object, ...]:
    return (row.query, row.passage, row.score) if kind == "sts" else (row.query, row.passage)
