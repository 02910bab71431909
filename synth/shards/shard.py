"""One shard as a file: the table, what is recorded with it, and the same bytes for the same rows on every run.

The record is Parquet key-values named `synth.*`. No host, process, time or path is in it; those belong in `logs/`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from synth.errors import OutputError, SynthError
from synth.types import SCHEMA_VERSION

FORMAT = 1
"""Of the files and their key-values; a reader refuses a higher one."""

_FIELDS = ("format", "identity", "input", "shard", "first", "rows_in", "rows_out", "rejected", "rejects_file")
_KEYS = {name.removeprefix("rows_"): name for name in (*_FIELDS, "rejects_sha256", "schema", "writer", "models")}
"""The key-values of a shard in their order, without `synth.`, and the fields of `ShardMeta` that they record."""
_NUMBERS = ("format", "shard", "first", "rows_in", "rows_out", "rejected")
_ROW_GROUP = 10_000
_ZSTD_LEVEL = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a step records about a shard that it made: its inputs, and the rows that went in and came out.

    `identity` is the job's sha256, `input` the checksum of the shard it was made from (empty for the first step),
    `first` the position of its first passage. What counts as a row in or out is the step's: items after step 0.
    """

    identity: str
    input: str
    first: int
    rows_in: int
    rows_out: int
    schema: str = SCHEMA_VERSION
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardMeta(Origin):
    """The `synth.*` key-values of a shard; `rejects_file` is a name in `.rejects/<step>/`, empty without rejects."""

    shard: int
    rejected: int
    rejects_file: str = ""
    rejects_sha256: str = ""
    writer: str
    format: int = FORMAT

    def to_keys(self) -> dict[str, str]:
        values = {f"synth.{key}": str(getattr(self, field)) for key, field in _KEYS.items()}
        return values | {"synth.models": json.dumps(self.models)}

    @classmethod
    def from_keys(cls, keys: dict[bytes, bytes] | None, path: Path, index: int | None = None) -> ShardMeta:
        """Read back from the file `path` of shard `index`. Raises OutputError when the keys are others or newer."""
        try:
            found = {key.decode(): value.decode() for key, value in (keys or {}).items() if key.startswith(b"synth.")}
            if int(found["synth.format"]) > FORMAT:
                raise OutputError(f"{path}: was written by a newer synth ({found['synth.writer']}).", "Upgrade synth.")
            values: dict[str, Any] = {field: found[f"synth.{key}"] for key, field in _KEYS.items()}
            values |= {field: int(values[field]) for field in _NUMBERS}
            meta = cls(**values | {"models": tuple(json.loads(values["models"]))})
        except (KeyError, ValueError) as exc:
            raise OutputError(
                f"{path}: is not a shard of synth (missing or unreadable in its Parquet metadata: {exc}).", "Remove it."
            ) from exc
        if index not in (None, meta.shard):
            raise damaged(path, f"it holds shard {meta.shard}")
        return meta


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard as read: `table` without key-values in its schema, and `meta` as recorded."""

    table: pa.Table
    meta: ShardMeta


@cache
def writer() -> str:
    """Name and version of this package, `synth source` when it runs without being installed."""
    try:
        return f"synth {version('synth')}"
    except PackageNotFoundError:
        return "synth source"


def encode(table: pa.Table, keys: dict[str, str]) -> bytes:
    """Parquet bytes that depend on rows, schema and `keys` alone, every page with its checksum.

    Raises SynthError for a column whose type was left to inference: a shard without rows must keep its columns.
    """
    untyped = [field.name for field in table.schema if pa.types.is_null(field.type)]
    if untyped:
        raise SynthError(f"columns without a type: {', '.join(untyped)}.", "Build the table with an explicit schema.")
    sink = pa.BufferOutputStream()
    # How the table was put together from pieces must not show in the pages.
    table = table.replace_schema_metadata(keys).combine_chunks()
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        compression_level=_ZSTD_LEVEL,
        use_dictionary=False,  # zstd finds the repeats itself: smaller files, and a fifth of the time less
        write_statistics=[field.name for field in table.schema if pa.types.is_primitive(field.type)],  # no text's
        write_batch_size=_ROW_GROUP,
        write_page_checksum=True,
    ) as writer:
        if table.num_rows:  # `datasets` cannot read a row group without rows, only a file without row groups
            writer.write_table(table, row_group_size=_ROW_GROUP)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def decode(content: bytes, path: Path) -> pa.Table:
    """The table in the bytes of file `path`, pages checked. Raises OutputError naming the file when damaged."""
    try:
        # In this thread: one of Arrow's may let go of `content` only when Python has ended, which aborts the process.
        # `pq.read_table` starts one even with `use_threads=False`.
        return pq.ParquetFile(pa.BufferReader(content), pre_buffer=False, page_checksum_verification=True).read(
            use_threads=False
        )
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise damaged(path, exc) from exc


def damaged(path: Path, why: object) -> OutputError:
    return OutputError(
        f"{path}: is damaged ({str(why).splitlines()[0] if str(why) else why!r}).",
        "Check that disk, remove the file and run the job again: only this shard is made again.",
    )
