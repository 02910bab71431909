"""What every export is: options, the shape of rows that its trainer accepts, files, and a page on how to train.

Every file is synced before it is closed; the folder gets its final name when all of them are.
"""

from __future__ import annotations

import json
import math
import os
import shlex
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import IO, Annotated, Any, ClassVar, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import Field, field_validator

from synth.errors import SynthError
from synth.exports._rows import Corpus, Counts, Facts, Ids, Shape, Source
from synth.shards.disk import disk_errors
from synth.stage import Stage
from synth.types import Layout

TEMPERATURE = 0.01
"""Of InfoNCE, as Qwen3-Embedding's training page sets it; sentence-transformers' `scale` is one over it."""
PART = 256_000_000
"""Bytes after which a new Parquet file begins."""
_ROW_GROUP = 5_000


class Files:
    """The files of an export: closed and synced together at the end, whatever happens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lines: dict[str, IO[bytes]] = {}
        self._parts: dict[str, _Parts] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        closers: list[Callable[[], None]] = [each.close for each in self._parts.values()]
        closers += [partial(_close, file) for file in self._lines.values()]
        for close in closers:
            # After an error the folder goes, and that error matters more than one of these.
            with suppress(OSError, SynthError) if kind else nullcontext():
                close()

    def line(self, name: str, value: Mapping[str, Any]) -> None:
        """Append a JSON object to a file of JSON lines; values unknown to JSON become text, NaN becomes null."""
        self.text(name, f"{as_json(value)}\n")

    def text(self, name: str, text: str) -> None:
        if name not in self._lines:
            path = self._place(name)
            with disk_errors(path):
                self._lines[name] = path.open("wb")
        self._lines[name].write(text.encode())

    def row(self, stem: str, values: tuple[object, ...], schema: pa.Schema, size: int) -> None:
        """Append one row to the Parquet files of `stem`; rows are written many at a time."""
        self._part(stem, size).add(values, schema)

    def table(self, stem: str, table: pa.Table, size: int) -> None:
        """Append rows to `stem-00000-of-000NN.parquet`; a new part begins when one has `size` bytes."""
        self._part(stem, size).write(table)

    def _part(self, stem: str, size: int) -> _Parts:
        if stem not in self._parts:
            self._parts[stem] = _Parts(self._place(stem), size)
        return self._parts[stem]

    def _place(self, name: str) -> Path:
        path = self.folder / name
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path


class _Parts:
    """Parquet files of one split; their number is known, and their names are final, when it is closed."""

    def __init__(self, stem: Path, size: int) -> None:
        self._stem, self._size = stem, size
        self._rows: list[tuple[object, ...]] = []
        self._count = 0
        self._file: IO[bytes] | None = None
        self._writer: Any = None
        self._schema: Any = None

    def add(self, values: tuple[object, ...], schema: pa.Schema) -> None:
        self._schema = schema
        self._rows.append(values)
        if len(self._rows) >= _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        columns, self._rows = zip(*self._rows, strict=True), []
        self.write(pa.table([pa.array(c, f.type) for c, f in zip(columns, self._schema, strict=True)], self._schema))

    def write(self, table: pa.Table) -> None:
        with disk_errors(self._stem):
            if self._file is not None and self._file.tell() >= self._size:
                self._finish()
            if self._file is None:
                self._schema = self._schema or table.schema
                self._file = self._path(self._count).open("wb")
                self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd", write_page_checksum=True)
                self._count += 1
            # The columns are those of the first shard; later revisions of a job may have added some.
            there = {*table.column_names}
            if strange := sorted(there - {*self._schema.names}):
                raise SynthError(f"{self._stem}: a later shard has the further column {strange[0]}.")
            if table.num_rows:  # `datasets` cannot read a row group without rows
                columns = [
                    table[each.name].cast(each.type) if each.name in there else pa.nulls(table.num_rows, each.type)
                    for each in self._schema
                ]
                self._writer.write_table(pa.table(columns, self._schema), row_group_size=_ROW_GROUP)

    def close(self) -> None:
        if self._rows:
            self._flush()
        with disk_errors(self._stem):
            self._finish()
            for number in range(self._count):
                name = f"{self._stem.name}-{number:05d}-of-{self._count:05d}.parquet"
                self._path(number).rename(self._stem.with_name(name))

    def _path(self, number: int) -> Path:
        return self._stem.with_name(f".{self._stem.name}-{number:05d}")

    def _finish(self) -> None:
        if self._file is not None:
            self._writer.close()
            _close(self._file)
            self._file = None


def as_json(value: Any) -> str:
    """A value as JSON; those unknown to JSON become text, NaN becomes null."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _close(file: IO[bytes]) -> None:
    with disk_errors(Path(file.name)), file:
        file.flush()
        os.fsync(file.fileno())


def front_matter(configs: Mapping[str, Mapping[str, str]], facts: Facts, tags: Sequence[str] = ()) -> str:
    """The head of a card in the Hub's format: configurations by name, the first is the default, with files by split."""
    front = {
        "language": sorted({code.split("-")[0] for code in facts.languages if code != "und"}),
        "task_categories": [facts.layout.category],
        "tags": ["synth", *tags],
        "configs": [
            {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in files.items()]}
            | ({"default": True} if n == 0 else {})
            for n, (name, files) in enumerate(configs.items())
        ],
    }
    return "---\n" + yaml.safe_dump(front, sort_keys=False, allow_unicode=True) + "---\n"


class Export(Stage):
    """Base of all formats."""

    title: ClassVar[str]
    """The trainer's name."""
    hub: ClassVar[bool] = False
    """Whether `datasets.load_dataset(folder)` reads it, so that it can be pushed."""
    whole: ClassVar[str] = "train"
    """The split of all rows where none is held out."""
    any_number: ClassVar[bool] = False
    """Whether rows may have any number of negatives; else each needs one as soon as any row has one."""
    kinds: ClassVar[frozenset[str]] = frozenset({"retrieval", "sts", "bitext", "classification"})
    """The kinds of layout that it has rows for."""

    negatives: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Negatives of a row, the hardest ones; null: as many as were mined; 0: pairs alone."""
    on_short: Literal["drop", "fill"] = "drop"
    """A row with too few negatives for its trainer: drop it, or fill it with random passages of other pairs."""
    query_template: str = "Instruct: {instruction}\nQuery:{query}"
    """Text around a query for the trained model; the default is Qwen3-Embedding's, `{query}` for none."""

    @field_validator("query_template")
    @classmethod
    def _ends_with_query(cls, value: str) -> str:
        if not value.endswith("{query}") or value.count("{query}") != 1:
            raise ValueError("the template must end with {query}: trainers put a prompt before the query")
        return value

    def layout(self, layout: Layout) -> Layout:
        """The layout of the rows, where an option changes the task's."""
        return layout

    def graded(self, layout: Layout) -> bool:  # noqa: ARG002 - for those that have such rows
        """Whether its rows are pairs with their score, in place of positives with negatives."""
        return False

    def shape(self, found: Counts, mined: int | None) -> Shape:  # noqa: ARG002 - `mined` is for formats with a fixed number
        """How many negatives rows get, given how many pairs have and how many were asked for (None: no negatives)."""
        if self.any_number or self.negatives == 0 or not (any(found.lengths) or self.on_short == "fill"):
            return Shape(0, self.negatives, self.on_short)
        return Shape(self.negatives or 1 if self.on_short == "fill" else 1, self.negatives, self.on_short)

    def same_number(self, found: Counts, mined: int | None) -> int:
        """Negatives for every row alike: the requested ones, else the most that nine in ten of those with any have."""
        if self.negatives is not None:
            return self.negatives
        some, enough = max(1, found.lengths.total() - found.lengths[0]), 0.9
        shares = {n: sum(found.lengths[m] for m in found.lengths if m >= n) / some for n in range(2, (mined or 0) + 1)}
        return max((n for n, share in shares.items() if share >= enough), default=1 if mined else 0)

    def prompt(self, instruction: str) -> str:
        return self.query_template.removesuffix("{query}").replace("{instruction}", instruction)

    @abstractmethod
    def write(self, source: Source, facts: Facts, files: Files) -> None:
        """Write the data files; rows come from `source.batches(facts.shape)`."""

    @abstractmethod
    def train(self, facts: Facts) -> str:
        """TRAIN.md: the command and the settings that fit these very files."""

    def card(self, facts: Facts) -> str | None:  # noqa: ARG002 - for those that have one
        """README.md with the Hub's front matter; None where the format has none."""
        return None

    def render(self, template: str, facts: Facts, values: Mapping[str, object] | None = None) -> str:
        """Fill in a template of `exports/templates` from the facts, the prompt and `values`."""
        held_out = next((split for split in facts.counts.rows if split != "train"), None)
        common = {
            "facts": facts,
            "folder": str(facts.folder),
            "prompt": self.prompt(facts.instruction),
            "held_out": held_out,
            "layout": facts.layout,
            "temperature": f"{TEMPERATURE:g}",
            "scale": f"{1 / TEMPERATURE:g}",
        }
        return _environment().get_template(template).render(common | dict(values or {}))


class Benchmark(Export):
    """Base of formats for evaluation: a corpus of all passages of the run, queries, and judgements of pairs."""

    whole: ClassVar[str] = "test"
    any_number: ClassVar[bool] = True
    kinds: ClassVar[frozenset[str]] = frozenset({"retrieval"})

    def evaluated(self, facts: Facts) -> str:
        return next(name for name in facts.counts.rows if name != "train")

    @abstractmethod
    def passage(self, files: Files, name: str, title: str, text: str) -> None:
        """Write a passage of the corpus."""

    @abstractmethod
    def query(self, files: Files, name: str, text: str) -> None:
        """Write a query."""

    @abstractmethod
    def judgement(self, files: Files, split: str, query: str, passage: str, relevance: int) -> None:
        """Write that a passage answers a query."""

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        """The corpus, then queries and judgements as they come; negatives only join the corpus."""
        corpus, queries = Corpus(source, partial(self.passage, files)), Ids()
        for batch in source.batches(facts.shape):
            for row in batch.rows:
                query, new = queries.add(row.query, row.id)
                if new:
                    self.query(files, query, row.query)
                self.judgement(files, batch.split, query, corpus.name(row.passage, row.passage_id), row.relevance)
                for each in row.extra_positives:
                    self.judgement(files, batch.split, query, corpus.name(each.passage, each.passage_id), 1)
                for each in row.negatives:
                    corpus.name(each.passage, each.passage_id)


def tokens(size: int) -> int:
    """A round length limit, 64 to 8192, that texts of so many bytes fit in.

    Three bytes a token are fewer than any of today's tokenizers need on average: English has about four, Chinese and
    Arabic about three.
    """
    return min(8192, max(64, 1 << (-(-size // 3) - 1).bit_length()))


def quoted(text: str) -> str:
    """One word of a shell's command line; a line break needs bash's $'…'."""
    if "\n" not in text:
        return shlex.quote(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"$'{escaped}'"


@cache
def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - Markdown and Python, not HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {"quoted": quoted, "repr": repr, "json": json.dumps}
    return found
