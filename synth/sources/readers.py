"""Raw rows of every kind of file behind three functions, and the checks that a file is of its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from synth.errors import InputError
from synth.sources import csvs, jsonl, parquet, plaintext
from synth.sources.columns import Columns, find_columns, keys_of
from synth.sources.options import Corpus, ReadLimits
from synth.sources.records import FileKind, InputFile, RawRow
from synth.sources.streams import BOM, opened

Wanted = Callable[[int], bool]
"""Whether the row with this number in its file is wanted; the others are counted and not parsed."""

_FOREIGN = {
    b"PK\x03\x04": ("a zip archive", "Unpack it."),
    b"BZh": ("packed with bzip2", "Unpack it, or pack it with gzip."),
    b"\xfd7zXZ": ("packed with xz", "Unpack it, or pack it with gzip."),
    b"PAR1": ("a Parquet file", "Rename it to .parquet."),
}
_UTF16 = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff", b"{\x00", b"\x00{")


def check_content(path: Path, kind: FileKind, size: int) -> None:
    """Raises InputError when the first bytes of a file belong to something else."""
    if kind == "parquet":
        if size == 0:
            raise InputError(f"{path}: an empty file, not Parquet.", "Write it again, or leave it out.")
        return
    with opened(path) as stream:
        head = stream.read(512)
    for magic, (what, cure) in _FOREIGN.items():
        if head.startswith(magic):
            raise InputError(f"{path}: {what}.", cure)
    if head.startswith(_UTF16):
        raise InputError(f"{path}: UTF-16.", f"Convert it: iconv -f UTF-16 -t UTF-8 {path.name} > new-{path.name}")
    if head[257:262] == b"ustar":
        raise InputError(f"{path}: a tar archive.", "Unpack it and name the files in it.")
    if kind == "jsonl":
        _check_json_lines(path, head.removeprefix(BOM).lstrip())


def _check_json_lines(path: Path, head: bytes) -> None:
    if head.startswith(b"["):
        cure = f"Make lines of it: jq -c '.[]' {path.name} > {path.name.split('.')[0]}.jsonl"
        raise InputError(f"{path}: one JSON array, not JSON lines.", cure)
    if head.split(b"\n", 1)[0].strip() == b"{":
        cure = f"Make a line of each: jq -c . {path.name} > {path.name.split('.')[0]}.jsonl"
        raise InputError(f"{path}: JSON spread over several lines, not one object a line.", cure)


def rows_in(path: Path, kind: FileKind, limits: ReadLimits) -> int:
    """Number of rows, by reading the whole file where nothing tells it. Raises InputError for a damaged file."""
    if kind == "parquet":
        return parquet.count(path)
    if kind == "text":
        return 1
    return jsonl.count(path, limits) if kind == "jsonl" else csvs.count(path, limits)


def columns_of(corpus: Corpus, file: InputFile, limits: ReadLimits) -> Columns:
    """The columns of a file that its corpus means.

    Raises InputError for one that is missing or whose Parquet type cannot be used.
    """
    if file.kind == "text":
        return _columns_of_text(corpus, file.path)
    if file.kind == "parquet":
        return parquet.columns_of(corpus, file.path)
    if file.kind in ("csv", "tsv"):
        return find_columns(corpus, csvs.header(file.path, limits), file.path)
    return find_columns(corpus, keys_of(first_rows(file, limits)), file.path)


def first_rows(file: InputFile, limits: ReadLimits) -> Sequence[Mapping[str, Any]]:
    """The first objects of a file of JSON lines or a data set on the hub. Raises InputError when there is none."""
    if file.kind == "hub":
        from synth.sources import hub  # noqa: PLC0415 - `datasets` costs seconds

        return hub.peek(file)
    rows = jsonl.peek(file.path, limits)
    if not rows:
        raise InputError(f"{file.path}: no JSON object in its first {jsonl.PEEK} lines.", "Is it JSON lines?")
    return rows


def _columns_of_text(corpus: Corpus, path: str) -> Columns:
    columns = find_columns(corpus, ["text"], path)
    if columns.names != ("text",):
        raise InputError(f"{path}: a text file has no columns.", "Leave out id, title and carry of this corpus.")
    return columns


def raw_rows(file: InputFile, columns: Columns, limits: ReadLimits, wanted: Wanted | None) -> Iterator[RawRow]:
    """The wanted rows of one file in their order. Raises InputError where the file cannot be read on."""
    if file.kind == "parquet":
        return parquet.read(file, columns, limits, wanted)
    if file.kind == "text":
        return plaintext.read(file, limits, wanted)
    if file.kind == "hub":
        from synth.sources import hub  # noqa: PLC0415 - `datasets` costs seconds

        return hub.read(file, columns, wanted)
    if file.kind == "jsonl":
        return jsonl.read(file, columns, limits, wanted)
    return csvs.read(file, columns, limits, wanted)


def count_rows(files: Sequence[InputFile]) -> int:
    """Rows of all files, rejected ones included.

    Raises InputError for a data set on the hub whose card gives no number of rows.
    """
    total = 0
    for file in files:
        if file.rows is None:
            raise InputError(f"{file.path}: nobody says how many rows it has.", "Leave out --sample, or download it.")
        total += file.rows
    return total


def sample_rows(total: int, n: int) -> frozenset[int]:
    """`n` of the row numbers below `total`, spread evenly (the middles of n equal parts); all when there are fewer."""
    if n >= total:
        return frozenset(range(total))
    return frozenset((2 * part + 1) * total // (2 * n) for part in range(n))
