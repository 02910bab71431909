"""The folders below one output folder: names that we made, in places that nobody can redirect."""

from __future__ import annotations

import re
from pathlib import Path, PurePath

from synth.errors import JobError
from synth.shards import disk

_PART = re.compile(r"\.?[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class Tree:
    """Finds and makes folders below `root` by relative name, refusing symbolic links and names that lead outside.

    Where `root` is `missing`, the first folder below it makes it too; one that goes missing later is not made again.
    """

    def __init__(self, root: Path, *, missing: bool = False) -> None:
        self.root = root
        self._missing = missing
        self._made: set[str] = set()
        self.checksums: dict[str, dict[int, tuple[int, int, str]]] = {}
        """What `StepFolder.checksum` found, by folder: all steps that read a shard hash it once."""

    def locate(self, name: str) -> Path:
        """Path of the folder `name`, such as `scores/cosine-1a2b3c4d`, which need not exist.

        Raises JobError for a name that is not made of plain parts, OutputError when a part is a link or no folder.
        """
        path = self.root
        for part in _parts(name):
            path /= part
            if not disk.is_folder(path):
                break
        return self.root / name

    def make(self, name: str) -> Path:
        """The same, created where missing and safe from power loss; touches the disk once per name and process."""
        path = self.root
        if name not in self._made:
            if self._missing:
                _make_root(path)
                self._missing = False
            for part in _parts(name):
                path /= part
                disk.make_folder(path)
            self._made.add(name)
        return self.root / name

    def forget(self, name: str) -> None:
        """Look again before the next write whether the folder `name`, which was moved, exists."""
        self._made.discard(name)

    def file(self, path: PurePath | str) -> Path:
        """Path of a file in a folder that exists afterwards; `path` is relative to the root or lies below it.

        Raises JobError when it leads outside, OutputError, SystemFault.
        """
        whole = self.root / path
        *folders, name = _parts(str(whole.relative_to(self.root) if whole.is_relative_to(self.root) else whole))
        if folders:
            self.make("/".join(folders))
        return self.root.joinpath(*folders, name)

    def create_once(self, final: Path, content: bytes) -> bool:
        """`disk.create_once` through this tree's `tmp/`."""
        return disk.create_once(self.make("tmp"), final, content)

    def replace(self, final: Path, content: bytes) -> None:
        """`disk.replace` through this tree's `tmp/`."""
        disk.replace(self.make("tmp"), final, content)

    def link_once(self, source: Path, final: Path) -> None:
        """`disk.link_once` through this tree's `tmp/`."""
        disk.link_once(self.make("tmp"), source, final)


def _make_root(path: Path) -> None:
    """Make the folder and those above it, as far as they are missing."""
    missing: list[Path] = []
    while not disk.exists(path):
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        disk.make_folder(folder)


def _parts(name: str) -> list[str]:
    parts = name.split("/")
    if not all(_PART.fullmatch(part) for part in parts):
        raise JobError(f"{name!r} cannot be a name inside an output folder.", "Use letters, digits, '.', '_' and '-'.")
    return parts
