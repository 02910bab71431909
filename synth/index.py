"""The files of an index over a whole pass: written aside, each whole or absent, and a manifest that comes last."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from synth.errors import OutputError
from synth.shards import disk

_MANIFEST = "manifest.json"
_ASIDE = "tmp"


class Index:
    """Arrays in one folder. Several builders may work at once: they write the same bytes, and the first one wins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open_for_build(self) -> None:
        """Make the folder if it is not there. Raises OutputError, SystemFault."""
        for path in (self.folder, self.folder / _ASIDE):
            disk.make_folder(path)

    def manifest(self) -> dict[str, Any] | None:
        """What a finished build recorded; None while it is unfinished. Raises OutputError where it is damaged."""
        path = self.folder / _MANIFEST
        if not disk.exists(path):
            return None
        try:
            found: dict[str, Any] = json.loads(disk.read_whole(path))
        except ValueError as exc:
            raise OutputError(f"{path}: is damaged ({exc}).", f"Remove {self.folder} and run again.") from exc
        return found

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Declare the index complete and record what it is."""
        self._create(_MANIFEST, (json.dumps(facts, indent=2, sort_keys=True) + "\n").encode())

    def complete(self) -> dict[str, Any]:
        """The manifest of an index that must be there. Raises OutputError."""
        found = self.manifest()
        if found is None:
            raise OutputError(f"{self.folder}: the index is not complete.", "Run the same command again.")
        return found

    def has(self, name: str) -> bool:
        """Whether an array was written."""
        return disk.exists(self.folder / name)

    def put(self, name: str, array: NDArray[Any]) -> None:
        """Write an array's bytes whole and durable, row after row, unless the name exists."""
        self._create(name, np.ascontiguousarray(array).tobytes())

    def get(self, name: str, dtype: DTypeLike, width: int | None = None) -> NDArray[Any]:
        """A written array of shape (rows,) or (rows, width), mapped and not read. Raises OutputError, SystemFault."""
        path, kind = self.folder / name, np.dtype(dtype)
        shape = (-1,) if width is None else (-1, width)
        with disk.disk_errors(path):
            size = path.stat().st_size
            if size % (kind.itemsize * (width or 1)):
                raise OutputError(f"{path}: is damaged: {size} bytes.", f"Remove {self.folder} and run again.")
            if not size:
                return np.empty((0,) if width is None else (0, width), kind)
            return np.memmap(path, kind, mode="r").reshape(shape)

    def _create(self, name: str, content: bytes) -> None:
        disk.create_once(self.folder / _ASIDE, self.folder / name, content)


def part(name: str, shard: int) -> str:
    """The file of an array that is written shard by shard."""
    return f"{name}-{shard:08d}.bin"
