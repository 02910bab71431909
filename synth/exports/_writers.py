"""Files of one kind, written as rows come: JSON lines, Parquet parts by size, and the card that names them.

Every file is synced before it is closed; the folder gets its final name when all of them are.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from synth.errors import SynthError
from synth.shards.disk import disk_errors

_ROW_GROUP = 5_000


class Files:
    """The files of an export: closed and synced together at the end, whatever happens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lines: dict[str, IO[bytes]] = {}
        self._parts: dict[str, _Parts] = {}
        self._rows: dict[str, tuple[list[tuple[object, ...]], pa.Schema, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            for stem in [*self._rows]:
                self._write_rows(stem)
            for part in self._parts.values():
                part.close()
            for file in self._lines.values():
                _close(file)
            return
        for close in [each.close for each in self._parts.values()] + [each.close for each in self._lines.values()]:
            with suppress(OSError, SynthError):  # the folder goes; the error that is being raised matters more
                close()

    def line(self, name: str, value: Mapping[str, Any]) -> None:
        """Append a JSON object to a file of JSON lines; values unknown to JSON become text, NaN becomes null."""
        try:
            text = json.dumps(value, ensure_ascii=False, default=str, allow_nan=False)
        except ValueError:
            text = json.dumps(_finite(value), ensure_ascii=False, default=str)
        self._text(name).write(text.encode() + b"\n")

    def text(self, name: str, text: str) -> None:
        """Append text as it is."""
        self._text(name).write(text.encode())

    def row(self, stem: str, values: tuple[object, ...], schema: pa.Schema, size: int) -> None:
        """Append one row to the Parquet files of `stem`; rows are written many at a time."""
        rows, _, _ = self._rows.setdefault(stem, ([], schema, size))
        rows.append(values)
        if len(rows) >= _ROW_GROUP:
            self._write_rows(stem)

    def table(self, stem: str, table: pa.Table, size: int) -> None:
        """Append rows to `stem-00000-of-000NN.parquet`; a new part begins when one has `size` bytes."""
        if stem not in self._parts:
            self._parts[stem] = _Parts(self._place(stem), size)
        self._parts[stem].write(table)

    def _write_rows(self, stem: str) -> None:
        rows, schema, size = self._rows.pop(stem)
        arrays = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]
        self.table(stem, pa.Table.from_arrays(arrays, schema=schema), size)

    def _text(self, name: str) -> IO[bytes]:
        if name not in self._lines:
            path = self._place(name)
            with disk_errors(path):
                self._lines[name] = path.open("wb")
        return self._lines[name]

    def _place(self, name: str) -> Path:
        path = self.folder / name
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path


class _Parts:
    """Parquet files of one split; their number is known, and their names are final, when it is closed."""

    def __init__(self, stem: Path, size: int) -> None:
        self._stem, self._size = stem, size
        self._count = 0
        self._file: IO[bytes] | None = None
        self._writer: Any = None
        self._schema: pa.Schema | None = None

    def write(self, table: pa.Table) -> None:
        with disk_errors(self._stem):
            if self._file is not None and self._file.tell() >= self._size:
                self._finish()
            if self._file is None:
                self._schema = self._schema or table.schema
                self._file = self._path(self._count).open("wb")
                self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd", write_page_checksum=True)
                self._count += 1
            if table.num_rows:  # `datasets` cannot read a row group without rows
                self._writer.write_table(self._same(table), row_group_size=_ROW_GROUP)

    def close(self) -> None:
        with disk_errors(self._stem):
            self._finish()
            for number in range(self._count):
                name = f"{self._stem.name}-{number:05d}-of-{self._count:05d}.parquet"
                self._path(number).rename(self._stem.with_name(name))

    def _same(self, table: pa.Table) -> pa.Table:
        """The columns of the first shard; later revisions of a job may have added some."""
        schema = self._schema
        assert schema is not None  # noqa: S101 - set with the first table
        if table.schema.equals(schema):
            return table
        there = {*table.column_names}
        strange = sorted(there - {*schema.names})
        if strange:
            raise SynthError(f"{self._stem}: a later shard has the further column {strange[0]}.")
        columns = [
            table[each.name].cast(each.type) if each.name in there else pa.nulls(table.num_rows, each.type)
            for each in schema
        ]
        return pa.table(columns, schema=schema)

    def _path(self, number: int) -> Path:
        return self._stem.with_name(f".{self._stem.name}-{number:05d}")

    def _finish(self) -> None:
        if self._file is not None:
            self._writer.close()
            _close(self._file)
            self._file = None


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


def front_matter(configs: Mapping[str, Mapping[str, str]], languages: Sequence[str], tags: Sequence[str] = ()) -> str:
    """The head of a card in the Hub's format: configurations by name, the first is the default, with files by split."""
    front = {
        "language": sorted({code.split("-")[0] for code in languages if code != "und"}),
        "task_categories": ["text-retrieval"],
        "tags": ["synth", *tags],
        "configs": [
            {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in files.items()]}
            | ({"default": True} if n == 0 else {})
            for n, (name, files) in enumerate(configs.items())
        ],
    }
    return "---\n" + yaml.safe_dump(front, sort_keys=False, allow_unicode=True) + "---\n"
