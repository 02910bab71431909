"""Which files an entry of `data:` has, and how it is laid out: seen once before the run, and recorded."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from synth.errors import InputError, JobError
from synth.pairs import beir
from synth.pairs.names import find_pair, language_of, require
from synth.pairs.options import PairData
from synth.pairs.records import Kind, Layout, PairSet
from synth.pairs.types import file_schema
from synth.shards import ShardMeta
from synth.sources import InputFile, ReadLimits
from synth.sources.files import Found, expand, in_order, look
from synth.sources.records import FileKind

_KINDS: frozenset[FileKind] = frozenset({"parquet", "jsonl", "csv", "tsv"})
_SHARD = re.compile(r"[0-9]{8}\.parquet")


def inspect_pairs(
    data: Sequence[PairData], base: Path, limits: ReadLimits, known: Iterable[InputFile] = ()
) -> tuple[PairSet, ...]:
    """Files and layout of every entry; paths are relative to `base`, a file of `known` is not hashed again.

    Raises JobError where a path matches nothing or two entries have one name, InputError where a file is not what it
    claims to be, lacks a column, or no entry has a row.
    """
    earlier = {file.path: file for file in known}
    seen: set[str] = set()
    sets = []
    for index, entry in enumerate(data):
        if entry.source in seen:
            raise JobError(f"data: two entries are called {entry.source!r}.", "Give each its own `name`.")
        if entry.on_hub:
            raise JobError(f"data.path: {entry.path[0]}: pairs are read from files.", "Download the data set first.")
        seen.add(entry.source)
        files = _files(index, entry, base, limits, earlier)
        sets.append(PairSet(_layout(entry, files, limits), files))
    if not any(each.layout.rows for each in sets):
        raise InputError("no input has any row.", "Check `data.path` in the job.")
    return tuple(sets)


def _files(
    index: int, entry: PairData, base: Path, limits: ReadLimits, earlier: dict[str, InputFile]
) -> tuple[InputFile, ...]:
    found: dict[Path, Found] = {}
    for named in entry.path:
        folder = base / Path(named).expanduser()
        if len(entry.path) > 1 and folder.is_dir() and beir.parts(folder):
            raise JobError(f"data.path: {named}: a BEIR folder among other paths.", "Make it an entry of its own.")
        for each in _found(named, base):
            if each.path not in found:
                found[each.path] = _apart(each, {other.relative for other in found.values()})
    return tuple(look(index, entry.source, each, limits, earlier.get(str(each.path))) for each in found.values())


def _apart(found: Found, taken: Container[str]) -> Found:
    """The file under a name that no earlier one of its entry has: with as many of its folders as that takes."""
    names, count = found.path.parts, len(PurePosixPath(found.relative).parts)
    while found.relative in taken:
        count += 1
        found = found._replace(relative="/".join(names[-count:]))
    return found


def _found(named: str, base: Path) -> list[Found]:
    folder = base / Path(named).expanduser()
    if folder.is_dir():
        if (folder / "job.json").is_file() and (folder / "generated").is_dir():
            folder = folder / "generated"
        shards = [each for each in folder.iterdir() if _SHARD.fullmatch(each.name)]
        if shards:
            return in_order(shards, folder)
        if parts := beir.parts(folder):
            return in_order(parts, folder)
    return expand(named, base, "data.path", _KINDS)


def _layout(entry: PairData, files: Sequence[InputFile], limits: ReadLimits) -> Layout:
    if beir.is_beir(files):
        return beir.layout(entry, files, limits)
    filled = [file for file in files if file.rows] or list(files[:1])
    schemas = [(file_schema(file, limits), file.path) for file in filled]
    if not schemas[0][0].names:
        raise InputError(f"{filled[0].path}: holds no row.", "Check `data.path` in the job, or leave it out.")
    names = list(dict.fromkeys(name for schema, _ in schemas for name in schema.names))
    leaves = list(dict.fromkeys(name for schema, _ in schemas for name in _leaves(schema)))
    kind, query, passage = find_pair(entry, _leaves(schemas[0][0]), filled[0].path)
    for schema, path in schemas[1:]:
        for name in (query, passage):
            require(name, _leaves(schema), path, "Give files of another layout an entry of their own under `data:`.")
    if kind in ("columns", "tuples") and all(_SHARD.fullmatch(Path(file.path).name) for file in files):
        kind = "shards"
        _refuse_newer(files)
    _check_types(kind, (query, passage), schemas)
    path = filled[0].path
    used = {query, passage, *([] if entry.label is None else [entry.label])}
    if entry.label is not None:
        require(entry.label, leaves, path)
    return Layout(
        kind=kind,
        source=entry.source,
        query=query,
        passage=passage,
        label=entry.label,
        query_language=language_of(entry.query_language, "query_language", leaves, path),
        passage_language=language_of(entry.passage_language, "passage_language", leaves, path),
        carried=carried(entry, [name for name in names if name not in used or kind == "messages"], path),
        rows=sum(file.rows or 0 for file in files),
        files=len(files),
    )


def _refuse_newer(files: Sequence[InputFile]) -> None:
    """Raises OutputError for a shard of ours that this version cannot know how to read."""
    for file in files:
        keys = pq.read_metadata(file.path).metadata or {}
        if b"synth.format" in keys:
            ShardMeta.from_keys(keys, Path(file.path))


def carried(entry: PairData, available: Sequence[str], path: str) -> tuple[str, ...]:
    """The columns to carry. Raises InputError for one that is not there."""
    if entry.carry == "all":
        return tuple(available)
    for name in entry.carry:
        require(name, available, path)
    return entry.carry


def _leaves(schema: pa.Schema) -> list[str]:
    """Columns, and dotted the fields of structs in them."""
    names: list[str] = []
    for field in schema:
        pending = [(field.name, field.type)]
        while pending:
            name, kind = pending.pop(0)
            names.append(name)
            if pa.types.is_struct(kind):
                pending += [(f"{name}.{kind.field(n).name}", kind.field(n).type) for n in range(kind.num_fields)]
    return names


def _check_types(kind: Kind, pair: tuple[str, str], schemas: Sequence[tuple[pa.Schema, str]]) -> None:
    """Raises InputError for a column that cannot hold what the layout needs, in files that have types."""
    for schema, path in schemas:
        for name in pair:
            if name not in schema.names:
                continue
            found = schema.field(name).type
            listed = pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)
            wanted = kind == "messages" or (kind == "flag" and name == pair[1])
            if not (listed == wanted or pa.types.is_null(found) or schema.field(name).metadata):
                what = "a list" if wanted else "text"
                raise InputError(f"{path}: column {name!r} is {found}, not {what}.", "Name another column in the job.")
            if not listed and not (pa.types.is_null(found) or _is_text(found)):
                inner = [each for each in _leaves(schema) if each.startswith(f"{name}.")]
                cure = f"Name another column in the job{f', such as {inner[0]}' if inner else ''}."
                raise InputError(f"{path}: column {name!r} is {found}, not text.", cure)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
