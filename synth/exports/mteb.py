"""MTEB's layout on the Hub: configs `corpus`, `queries` and `default`, the judgements."""

from __future__ import annotations

import re
from typing import ClassVar

import pyarrow as pa

from synth.exports._export import PART, Benchmark, Files, front_matter
from synth.exports._rows import Facts
from synth.languages import language
from synth.tables import TEXT
from synth.validation import Size

__all__ = ["Mteb"]

_CORPUS = pa.schema([("id", pa.string()), ("title", TEXT), ("text", TEXT)])
_QUERIES = pa.schema([("id", pa.string()), ("text", TEXT)])
_JUDGEMENTS = pa.schema([("query-id", pa.string()), ("corpus-id", pa.string()), ("score", pa.int32())])
_FLORES = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")
_MTEB_NAMES = {"zho": "cmn"}
"""MTEB names Mandarin, FLORES the macro language."""


class Mteb(Benchmark):
    """A retrieval task that MTEB loads from this folder or from the Hub, as `beir` in everything else."""

    title: ClassVar[str] = "MTEB"
    hub: ClassVar[bool] = True

    part_size: Size = PART
    """Bytes after which a new Parquet file begins."""

    def passage(self, files: Files, name: str, title: str, text: str) -> None:
        files.row("corpus/corpus", (name, title, text), _CORPUS, self.part_size)

    def query(self, files: Files, name: str, text: str) -> None:
        files.row("queries/queries", (name, text), _QUERIES, self.part_size)

    def judgement(self, files: Files, split: str, query: str, passage: str, relevance: int) -> None:
        files.row(f"data/{split}", (query, passage, relevance), _JUDGEMENTS, self.part_size)

    def card(self, facts: Facts) -> str:
        configs = {
            "default": {split: f"data/{split}-*.parquet" for split in facts.counts.rows},
            "corpus": {"corpus": "corpus/corpus-*.parquet"},
            "queries": {"queries": "queries/queries-*.parquet"},
        }
        return front_matter(configs, facts.languages, ["mteb"]) + self.train(facts)

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
        task = "".join(each.title() for each in words) + "Retrieval"
        values = {"split": self.evaluated(facts), "languages": sorted(languages) or ["eng-Latn"], "task": task}
        return self.render("mteb.md.j2", facts, values)
