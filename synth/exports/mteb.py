"""MTEB's layout on the Hub: configs `corpus`, `queries` and `default`, the judgements."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import ClassVar

import pyarrow as pa

from synth.exports._export import Export, block, page
from synth.exports._rows import Counts, Document, Facts, Ids, Shape, Source, documents
from synth.exports._writers import Files, front_matter
from synth.languages import language
from synth.tables import TEXT
from synth.validation import Size

__all__ = ["Mteb"]

_CORPUS = pa.schema([("id", pa.string()), ("title", TEXT), ("text", TEXT)])
_QUERIES = pa.schema([("id", pa.string()), ("text", TEXT)])
_JUDGED = pa.schema([("query-id", pa.string()), ("corpus-id", pa.string()), ("score", pa.int32())])
_TOGETHER = 5_000
_FLORES = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")
_OTHERWISE = {"zho": "cmn"}
"""MTEB names Mandarin, FLORES the macro language."""


class Mteb(Export):
    """A retrieval task that MTEB loads from this folder or from the Hub, as `beir` in everything else."""

    title: ClassVar[str] = "MTEB"
    whole: ClassVar[str] = "test"
    hub: ClassVar[bool] = True

    part_size: Size = 256_000_000
    """Bytes after which a new Parquet file begins."""

    def shape(self, found: Counts, asked: int | None) -> Shape:
        """Any number."""
        del found, asked
        return Shape(0, self.negatives, self.on_short)

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        """The corpus, then queries and judgements shard by shard."""
        passages, queries = Ids(), Ids()
        for part in _blocks(documents(source, passages)):
            files.table("corpus/corpus", _table(part, _CORPUS), self.part_size)
        for batch in source.batches(facts.shape):
            further: list[tuple[str, str, str]] = []
            asked: list[tuple[str, str]] = []
            judged: list[tuple[str, str, int]] = []

            def named(text: str, wanted: str | None, into: list[tuple[str, str, str]] = further) -> str:
                name, new = passages.add(text, wanted)
                if new:
                    into.append((name, "", text))
                return name

            for row in batch.rows:
                query, new = queries.add(row.query, row.id)
                asked += [(query, row.query)] if new else []
                judged.append((query, named(row.passage, row.passage_id), row.relevance))
                judged += [(query, named(each.passage, each.passage_id), 1) for each in row.positives]
                for each in row.negatives:
                    named(each.passage, each.passage_id)
            for stem, rows, schema in (
                ("corpus/corpus", further, _CORPUS),
                ("queries/queries", asked, _QUERIES),
                (f"data/{batch.split}", judged, _JUDGED),
            ):
                if rows:
                    files.table(stem, _table(rows, schema), self.part_size)

    def card(self, facts: Facts) -> str:
        """Configurations as MTEB's loader asks for them."""
        configs = {
            "default": {split: f"data/{split}-*.parquet" for split in facts.counts.rows},
            "corpus": {"corpus": "corpus/corpus-*.parquet"},
            "queries": {"queries": "queries/queries-*.parquet"},
        }
        return front_matter(configs, facts.languages, ["mteb"]) + self.train(facts)

    def train(self, facts: Facts) -> str:
        """How to evaluate on it."""
        split = next(name for name in facts.counts.rows if name != "train")
        languages = sorted({_written(code) for code in facts.languages}) or ["eng-Latn"]
        words = re.findall(r"[A-Za-z0-9]+", facts.title)
        name = (
            "".join(["Synth"] * (not words or words[0][0].isdigit()) + [each.title() for each in words]) + "Retrieval"
        )
        lines = [
            "import mteb",
            "from mteb.abstasks.retrieval import AbsTaskRetrieval",
            "",
            "",
            f"class {name}(AbsTaskRetrieval):",
            "    metadata = mteb.TaskMetadata(",
            f'        name="{name}", type="Retrieval", category="t2t", modalities=["text"],',
            f'        dataset={{"path": {json.dumps(facts.address)}, "revision": "main"}},',
            f'        eval_splits=["{split}"], eval_langs={json.dumps(languages)}, main_score="ndcg_at_10",',
            f'        prompt={{"query": {facts.instruction!r}}},',
            f'        description="Made by synth from {facts.title}.",',
            "    )",
            "",
            "",
            f'results = mteb.evaluate(mteb.get_model("Qwen/Qwen3-Embedding-0.6B"), [{name}()])',
        ]
        return page(facts, "A retrieval task for MTEB", block("python", *lines))


def _blocks(found: Iterator[Document]) -> Iterator[list[Document]]:
    while part := list(islice(found, _TOGETHER)):
        yield part


def _table(rows: Sequence[Iterable[object]], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )


def _written(code: str) -> str:
    """Language and script as MTEB writes them, from the FLORES-200 code."""
    found = next((each for each in language(code).aliases if _FLORES.fullmatch(each)), "eng_Latn")
    name, script = found.split("_")
    return f"{_OTHERWISE.get(name, name)}-{script}"
