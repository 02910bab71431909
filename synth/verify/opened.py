"""A shard that was opened, with its metadata and the columns that were asked of it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

import pyarrow as pa

from synth.verify.layout import StepFiles
from synth.verify.shard_file import ShardFile, Stamp, Unreadable

_OPTIONAL = ("retry_of", "positive")
"""Columns that only shards of items asked again have, or of rows that made several pairs."""


@dataclass(slots=True)
class Opened:
    """One shard, open, with the columns that were read of it (all of them in deep mode)."""

    step: StepFiles
    file: ShardFile
    stamp: Stamp
    table: pa.Table
    rejected: pa.Table | None = None

    @property
    def name(self) -> str:
        return f"{self.step.name}/{self.file.path.name}"

    @property
    def ids(self) -> list[str]:
        found: list[str] = self.table["id"].to_pylist()
        return found

    @property
    def rejected_ids(self) -> list[str]:
        return [] if self.rejected is None else self.rejected["id"].to_pylist()


def open_shard(step: StepFiles, index: int, stack: ExitStack, columns: Iterable[str] | None) -> Opened:
    """Open shard `index` for as long as `stack` lives and read `columns`, None for all. Raises Unreadable."""
    file = stack.enter_context(ShardFile(step.file(index)))
    stamp = file.stamp()
    if stamp.shard != index:
        raise Unreadable(f"holds shard {stamp.shard:08d}, so it was moved or copied here")
    if stamp.rows_in != stamp.rows_out + stamp.rejected:
        raise Unreadable(f"says {stamp.rows_in} in, {stamp.rows_out} out, {stamp.rejected} rejected")
    wanted = None if columns is None else [each for each in columns if each not in _OPTIONAL or each in file.names]
    return Opened(step, file, stamp, file.read(wanted))
