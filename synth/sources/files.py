"""Which files a corpus has, in what order, and what they are: seen once before the run, and recorded.

Nothing is believed by its name: a file is opened, its first bytes are compared with what it claims to be, its bytes
are hashed and its rows counted, so that a cut or foreign file ends the job before the first request.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from synth.errors import InputError, JobError, SystemFault
from synth.shards import ShardMeta
from synth.sources import beir
from synth.sources.carried import file_schema
from synth.sources.columns import find_pair, language_of, require
from synth.sources.options import WILDCARDS, Corpus, PairData, ReadLimits
from synth.sources.readers import check_content, columns_of, rows_in
from synth.sources.records import FileKind, InputFile, Kind, Layout, PairSet

_SUFFIXES: dict[str, FileKind] = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
    ".md": "text",
}
_PACKED = (".gz", ".zst")
_KINDS = "Parquet, JSON lines (.jsonl, .ndjson, .json), CSV and TSV (these three also .gz or .zst), .txt and .md"


class Found(NamedTuple):
    """A file and its path below the folder that the job names."""

    path: Path
    relative: str


def inspect(
    corpora: Sequence[Corpus], base: Path, limits: ReadLimits, known: Iterable[InputFile] = ()
) -> list[InputFile]:
    """The input files of all corpora, corpus by corpus, within one sorted by the bytes of the relative path.

    Paths are relative to `base`. A file of `known` with the same size and time of change is not hashed again.
    Raises JobError where a path or pattern matches nothing, InputError where a file is not what it claims to be or
    all of them together hold no row, SystemFault where one may not be read.
    """
    earlier = {file.path: file for file in known}
    files = []
    _refuse_same_names(corpora)
    for index, corpus in enumerate(corpora):
        if corpus.on_hub:
            from synth.sources.hub import inspect_hub  # noqa: PLC0415 - `datasets` costs seconds

            files.append(inspect_hub(index, corpus))
            continue
        for found in expand(corpus.path, base, "corpus.path", frozenset({"text"})):
            file = look(index, corpus.source, found, limits, earlier.get(str(found.path)))
            if file.rows:
                columns_of(corpus, file, limits)
            files.append(file)
    if not any(file.rows is None or file.rows for file in files):
        raise InputError(f"no input has any row ({len(files)} read).", "Check `corpus.path` in the job.")
    return files


def current(file: InputFile) -> None:
    """Raises InputError when a file is no longer the one that was inspected.

    Its bytes are read only if its size or time of change differ.
    """
    if file.kind == "hub":
        return
    status = _status(Path(file.path))
    if (status.st_size, status.st_mtime_ns) == (file.size, file.mtime_ns):
        return
    if (now := _sha256(Path(file.path))) != file.sha256:
        raise InputError(
            f"{file.path}: it changed since the job looked at it (sha256 {file.sha256[:16]}… -> {now[:16]}…).",
            "Put the old file back, or start a new output folder.",
        )


def _refuse_same_names(corpora: Sequence[Corpus]) -> None:
    seen: set[str] = set()
    for corpus in corpora:
        if corpus.source in seen:
            raise JobError(f"corpus: two entries are called {corpus.source!r}.", "Give each its own `name`.")
        seen.add(corpus.source)


def expand(named: str, base: Path, key: str, kinds: Collection[FileKind]) -> list[Found]:
    """The files that a path or pattern below `base` names, sorted; of a folder those of `kinds`, to the bottom.

    `key` is what the job calls the path. Raises JobError where nothing matches.
    """
    path = Path(os.path.abspath(base / Path(named).expanduser()))  # noqa: PTH100 - resolve() would follow links
    if _is_file(path):
        return [Found(path, _utf8(path.name, path))]
    if path.is_dir() and path.suffix in _SUFFIXES:
        raise InputError(f"{path}: a folder with the name of a file.", f"For the files in it write {named}/*.")
    if path.is_dir():
        found = [file for file in _walk(path) if _claimed(file.name) in kinds]
        if not found:
            endings = " or ".join(suffix for suffix, kind in _SUFFIXES.items() if kind in kinds)
            hint = f"Other files are named by a pattern, such as {named.rstrip('/')}/*.parquet."
            raise JobError(f"{key}: no {endings} file in the folder {path}.", hint)
        return in_order(found, path)
    fixed = _fixed_part(path)
    if fixed == path:
        raise JobError(f"{key}: no file or folder {named!r} in {path.parent}.", "Check the path.")
    pattern = str(path.relative_to(fixed))
    try:
        found = [file for file in fixed.glob(pattern) if not _hidden(file.relative_to(fixed))]
    except ValueError as exc:
        raise JobError(f"{key}: {pattern!r} is no pattern ({exc}).", "`**` stands alone between slashes.") from exc
    if not found:
        raise JobError(f"{key}: nothing matches {pattern!r} in {fixed}.", "Check the pattern.")
    return in_order(found, fixed)


def _is_file(path: Path) -> bool:
    """Whether something that is no folder has this name, be it a broken link."""
    return os.path.lexists(path) and not path.is_dir()


def _fixed_part(path: Path) -> Path:
    """The folders before the first wildcard."""
    for parent in reversed([path, *path.parents]):
        if WILDCARDS & set(parent.name):
            return parent.parent
    return path


def _walk(folder: Path) -> Iterable[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(root, name) for name in names if not name.startswith("."))


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def in_order(paths: Iterable[Path], folder: Path) -> list[Found]:
    """Files of a folder by the bytes of their path in it. Raises InputError for a name that is not UTF-8."""
    found = [Found(path, _utf8(path.relative_to(folder).as_posix(), path)) for path in paths]
    return sorted(found, key=lambda file: file.relative.encode())


def _utf8(name: str, path: Path) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as exc:
        raise InputError(f"{str(path)!a}: the file name is not UTF-8.", "Rename the file.") from exc
    return name


def look(index: int, source: str, found: Found, limits: ReadLimits, known: InputFile | None = None) -> InputFile:
    """What a file is, its hash and its number of rows; `known` is returned if size and time of change are its own.

    Raises InputError where it is not what it claims to be, SystemFault where it may not be read.
    """
    path, relative = found
    status = _status(path)
    if known and (known.size, known.mtime_ns) == (status.st_size, status.st_mtime_ns):
        return replace(known, corpus_index=index, source=source, relative=relative)
    kind = kind_of(path)
    check_content(path, kind, status.st_size)
    return InputFile(
        corpus_index=index,
        source=source,
        path=str(path),
        relative=relative,
        kind=kind,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        sha256=_sha256(path),
        rows=rows_in(path, kind, limits),
        target=os.path.realpath(path) if path.is_symlink() else None,
    )


def kind_of(path: Path) -> FileKind:
    """The kind that a file name claims. Raises InputError for archives and for kinds that nobody reads."""
    name = path.name.lower()
    if name.endswith((".zip", ".tar", ".tgz", ".tar.gz", ".tar.zst", ".7z")):
        raise InputError(f"{path}: an archive.", "Unpack it and name the files in it.")
    if (kind := _claimed(name)) is None:
        raise InputError(f"{path}: not a kind of file that can be read.", f"Possible are {_KINDS}.")
    return kind


def _claimed(name: str) -> FileKind | None:
    name = name.lower()
    packed = name.endswith(_PACKED)
    suffix = Path(name).suffixes[-2:][0] if packed and len(Path(name).suffixes) > 1 else Path(name).suffix
    kind = _SUFFIXES.get(suffix)
    return None if packed and kind not in ("jsonl", "csv", "tsv") else kind


def _status(path: Path) -> os.stat_result:
    """Raises InputError for what is no ordinary file: folder, pipe, device, broken or circular link."""
    try:
        status = path.stat()
    except PermissionError as exc:
        raise SystemFault(f"{path}: no permission to look at it.", "Change its permissions.") from exc
    except OSError as exc:
        what = "a link that leads nowhere or in a circle" if path.is_symlink() else "the file is gone"
        raise InputError(f"{path}: {what}.", "Mend the path, or start a new output folder.") from exc
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: not an ordinary file (a folder, pipe or device).", "Name a file.")
    return status


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except PermissionError as exc:
        raise SystemFault(f"{path}: no permission to read it.", "Change its permissions, then run again.") from exc


_PAIR_KINDS: frozenset[FileKind] = frozenset({"parquet", "jsonl", "csv", "tsv"})
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
    return expand(named, base, "data.path", _PAIR_KINDS)


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
