"""Which files a path names, in what order, and what they are: inspected once before the run, and recorded.

File names are not trusted: the first bytes are compared with what the name claims, the file is hashed and its rows are
counted, so that a cut file or one of another kind ends the job before the first request.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from synth.errors import InputError, JobError, SystemFault
from synth.names import note, path_of
from synth.sources import parquet, text
from synth.sources.layouts import data_files
from synth.sources.options import WILDCARDS, ReadLimits
from synth.sources.records import COLUMNAR, FileKind, InputFile
from synth.types import Notify

_SUFFIXES: dict[str, FileKind] = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
    ".md": "text",
}
_KINDS = "Parquet, Arrow, JSON lines (.jsonl, .ndjson, .json), CSV and TSV (these three also .gz or .zst), .txt and .md"
_OTHER_KINDS = {
    b"PK\x03\x04": ("a zip archive", "Unpack it."),
    b"BZh": ("packed with bzip2", "Unpack it, or pack it with gzip."),
    b"\xfd7zXZ": ("packed with xz", "Unpack it, or pack it with gzip."),
    b"PAR1": ("a Parquet file", "Rename it to .parquet."),
}
_NAMED = 3
"""Names that a line on left out files has."""
_POINTER = b"version https://git-lfs.github.com/spec/"
_UTF16 = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff", b"{\x00", b"\x00{")


class FoundFile(NamedTuple):
    """A file and its path below the folder that the job names."""

    path: Path
    relative: str


def expand(named: str, base: Path, *, pairs: bool, notify: Notify | None) -> list[FoundFile]:
    """The sorted files that a path or pattern below `base` names; of a folder those that are its data.

    `notify` gets a line on the files of a folder that are left out. Raises JobError, InputError, and SystemFault for a
    folder that cannot be read.
    """
    try:
        return _expand(named, base, "data.path" if pairs else "corpus.path", notify)
    except PermissionError as exc:
        hint = "Change its permissions, or name the other folders."
        raise SystemFault(f"{exc.filename}: no permission to read it.", hint) from exc


def _expand(named: str, base: Path, key: str, notify: Notify | None) -> list[FoundFile]:
    path = Path(os.path.abspath(base / path_of(named)))  # noqa: PTH100 - resolve() would follow links
    if os.path.lexists(path) and not path.is_dir():
        return in_order([path], path.parent)
    if path.is_dir() and path.suffix in _SUFFIXES:
        raise InputError(f"{path}: a folder with the name of a file.", f"For the files in it write {named}/*.")
    if path.is_dir():
        return _of_folder(named, path, key, notify)
    # a name that exists is a name: only what follows the last folder that is there can be a pattern
    fixed = next(parent for parent in path.parents if parent.is_dir())
    pattern = str(path.relative_to(fixed))
    if not WILDCARDS & set(pattern):
        raise JobError(f"{key}: no file or folder {named!r} in {path.parent}.", "Check the path.")
    try:
        matching = ((file, file.relative_to(fixed).parts) for file in fixed.glob(pattern))
        found = [file for file, parts in matching if not any(part.startswith(".") for part in parts)]
    except ValueError as exc:
        raise JobError(f"{key}: invalid pattern {pattern!r} ({exc}).", "`**` must be a whole path component.") from exc
    steps = Path(pattern).parts[:-1]
    entered = (each for n in range(len(steps) + 1) for each in ([fixed] if n == 0 else fixed.glob("/".join(steps[:n]))))
    for folder in entered:  # those that cannot be read match nothing
        if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, "", str(folder))
    if not found:
        raise JobError(f"{key}: nothing matches {pattern!r} in {fixed}.", "Check the pattern.")
    return in_order(found, fixed)


RUN = "README.md job.json prompts/query.j2 prompts/examples.jsonl prompts/definitions.yaml index/a/manifest.json"
RUN += " kept/00000000.parquet rejected/kept/00000000.parquet scores/name/00000000.parquet"
EXPORT = "README.md TRAIN.md train.py export.json train.jsonl qrels/test.tsv data/train-0.parquet"
"""Names like those of the files that runs and exports write."""


def require_apart(inputs: Iterable[str], base: Path, out: Path, writes: str = RUN) -> None:
    """Raises JobError where what is written to `out` would be read as an input, or where an input lies in `out`."""
    target = Path(os.path.realpath(path_of(out)))
    for named in inputs:
        path = Path(os.path.abspath(base / path_of(named)))  # noqa: PTH100 - as in `expand`
        there = next(each for each in (path, *path.parents) if os.path.lexists(each))
        root, pattern = Path(os.path.realpath(there)), path.relative_to(there).parts
        if target == root or target in root.parents:
            raise JobError(f"{named}: this input is in the output folder {out}.", "Choose another folder with -o.")
        if root not in target.parents:
            continue
        own = target.relative_to(root).parts
        seen = (own + tuple(name.split("/")) for name in writes.split()) if pattern else [own]
        if any(_matches(parts, pattern or ("**",)) for parts in seen):
            what = f"{out}: is inside the input {named}, so that its files would be read as inputs."
            raise JobError(what, "Choose another folder with -o.")


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a pattern takes a path below its folder; hidden files are taken by none."""
    if not pattern or not parts:
        return not parts and all(each == "**" for each in pattern)
    if parts[0].startswith("."):
        return False
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or _matches(parts[1:], pattern)
    return fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _of_folder(named: str, path: Path, key: str, notify: Notify | None) -> list[FoundFile]:
    root, files, others = data_files(path, _claimed, pairs=key == "data.path")
    if not files:
        what = "no file of data" if key == "data.path" else "no .txt, .md or data file"
        hint = f"Supported are {_KINDS}; a README or LICENSE is not counted. Name others with a pattern."
        raise JobError(f"{key}: {what} in the folder {path}.", hint)
    if notify and others:
        note(part for each in others for part in each.parts)
        names = [str(each.relative_to(root)) for each in sorted(others)[:_NAMED]]
        names += [f"and {len(others) - _NAMED:,} more"] if len(others) > _NAMED else []
        notify(f"{named}: reads {len(files):,} of {len(files) + len(others):,} files; not {', '.join(names)}")
    return in_order(files, root)


def in_order(paths: Iterable[Path], folder: Path) -> list[FoundFile]:
    """Files of a folder by the bytes of their path in it. Raises InputError for a name that is not UTF-8."""
    found = []
    for path in paths:
        note(path.parts)
        try:
            found.append((path.relative_to(folder).as_posix().encode(), path))
        except UnicodeEncodeError as exc:
            raise InputError(f"{str(path)!a}: the file name is not UTF-8.", "Rename the file.") from exc
    return [FoundFile(path, relative.decode()) for relative, path in sorted(found)]


def look(index: int, source: str, found: FoundFile, limits: ReadLimits, known: InputFile | None = None) -> InputFile:
    """What a file is, with hash and rows; `known` if it has not changed since. Raises InputError, SystemFault."""
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
        rows=parquet.count(str(path)) if kind in COLUMNAR else text.count(str(path), kind, limits),
        target=os.path.realpath(path) if path.is_symlink() else None,
    )


def current(file: InputFile) -> None:
    """Raises InputError when a file changed since it was inspected; hashes it only if size or time of change differ."""
    status = None if file.kind == "hub" else _status(Path(file.path))
    if status is None or (status.st_size, status.st_mtime_ns) == (file.size, file.mtime_ns):
        return
    if (now := _sha256(Path(file.path))) != file.sha256:
        what = f"changed since the job inspected it (sha256 {file.sha256[:16]}… -> {now[:16]}…)"
        raise InputError(f"{file.path}: {what}.", "Put the old file back, or start a new output folder.")


def kind_of(path: Path) -> FileKind:
    """The kind that a file name claims. Raises InputError for archives and unsupported kinds."""
    name = path.name.lower()
    if name.endswith((".zip", ".tar", ".tgz", ".tar.gz", ".tar.zst", ".7z")):
        raise InputError(f"{path}: an archive.", "Unpack it and name the files in it.")
    if (kind := _claimed(name)) is None:
        raise InputError(f"{path}: unsupported kind of file.", f"Supported are {_KINDS}.")
    return kind


def _claimed(name: str) -> FileKind | None:
    path = Path(name.lower())
    packed = path.suffix in (".gz", ".zst")
    kind = _SUFFIXES.get(Path(path.stem).suffix if packed else path.suffix)
    return None if packed and kind not in ("jsonl", "csv", "tsv") else kind


def check_content(path: Path, kind: FileKind, size: int) -> None:
    """Raises InputError when the first bytes of a file belong to another kind."""
    if kind in COLUMNAR and size == 0:
        raise InputError(f"{path}: an empty file, not {kind.title()}.", "Write it again, or leave it out.")
    with path.open("rb") if kind in COLUMNAR else text.opened(path) as stream:
        head = stream.read(512)
    if head.startswith(_POINTER):
        raise InputError(f"{path}: a pointer of Git LFS, not the file itself.", "Fetch it: git lfs pull")
    if kind in COLUMNAR:
        return
    for magic, (what, hint) in _OTHER_KINDS.items():
        if head.startswith(magic):
            raise InputError(f"{path}: {what}.", hint)
    if head.startswith(_UTF16):
        raise InputError(f"{path}: UTF-16.", f"Convert it: iconv -f UTF-16 -t UTF-8 {path.name} > new-{path.name}")
    if head[257:262] == b"ustar":
        raise InputError(f"{path}: a tar archive.", "Unpack it and name the files in it.")
    head = head.removeprefix(text.BOM).lstrip()
    if kind == "jsonl" and head.startswith(b"["):
        hint = f"Convert it to lines: jq -c '.[]' {path.name} > {path.name.split('.')[0]}.jsonl"
        raise InputError(f"{path}: one JSON array, not JSON lines.", hint)
    if kind == "jsonl" and head.split(b"\n", 1)[0].strip() == b"{":
        hint = f"Write each object on one line: jq -c . {path.name} > {path.name.split('.')[0]}.jsonl"
        raise InputError(f"{path}: JSON objects on several lines each, not one object per line.", hint)


def _status(path: Path) -> os.stat_result:
    """Raises InputError for anything but an ordinary file: folder, pipe, device, broken or circular link."""
    try:
        status = path.stat()
    except PermissionError as exc:
        raise SystemFault(f"{path}: no permission to look at it.", "Change its permissions.") from exc
    except OSError as exc:
        what = "a broken or circular link" if path.is_symlink() else "the file is gone"
        raise InputError(f"{path}: {what}.", "Correct the path, or start a new output folder.") from exc
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: not an ordinary file (a folder, pipe or device).", "Name a file.")
    return status


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except PermissionError as exc:
        raise SystemFault(f"{path}: no permission to read it.", "Change its permissions, then run again.") from exc
