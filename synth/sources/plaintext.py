"""A file of a folder of texts is one row, kept byte for byte but for a byte order mark at its start."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from synth.errors import InputError
from synth.sources.options import ReadLimits
from synth.sources.records import EXCERPT, Fault, InputFile, RawRow
from synth.sources.streams import BOM, opened, undecodable


def read(file: InputFile, limits: ReadLimits, wanted: Callable[[int], bool] | None) -> Iterator[RawRow]:
    """The one row of a text file. Raises InputError when it is longer than `limits.max_line_bytes` bytes."""
    if wanted is not None and not wanted(0):
        return
    with opened(file.path) as stream:
        data = stream.read(limits.max_line_bytes + 1)
    if len(data) > limits.max_line_bytes:
        raise InputError(
            f"{file.path}: longer than {limits.max_line_bytes} bytes.",
            "Cut it, or raise `limits.max_line_bytes` in the job.",
        )
    try:
        yield RawRow(0, data.removeprefix(BOM).decode())
    except UnicodeDecodeError:
        excerpt = data[:EXCERPT].decode(errors="replace")
        yield RawRow(0, fault=Fault("encoding", undecodable(data, 0), excerpt))
