"""The output folder of a run: opening it safely, its steps, and its small files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePath

from synth.errors import JobError, OutputError
from synth.shards import disk
from synth.shards.step import StepFolder, Tree

_MARK = "job.json"
_BEFORE_MARK = frozenset({"tmp", "wip", "logs", "prompts", "lost+found"})
"""What may lie in a folder whose run died before it could write its `job.json`."""
_WRITTEN = ("tmp", "wip", "passages", "generated", "scores", "kept")


class OutputFolder:
    """One run's folder; `path` is absolute with links resolved, everything below it is real folders and files.

    `notify` is called with one line about rare events that change nothing in the output.
    """

    def __init__(self, path: Path, notify: Callable[[str], None] = print, *, missing: bool = False) -> None:
        self.path = path
        self._tree = Tree(path, missing=missing)
        self._notify = notify

    @classmethod
    def open(cls, path: Path, *, write: bool = False, notify: Callable[[str], None] = print) -> OutputFolder:
        """Open a run's folder; with `write` it must be writable, and the first write creates it when it is missing.

        Opening writes nothing. Raises JobError when there is none to read, OutputError for a folder
        that holds something else, SystemFault when it cannot be written to.
        """
        with disk.disk_errors(path):
            real = path.expanduser().resolve()
        missing = not disk.exists(real)
        if missing and not write:
            raise JobError(f"{path}: this output folder does not exist.")
        listed = {entry.name for entry in disk.entries(real)}
        if _MARK not in listed and (strange := sorted(listed - _BEFORE_MARK)):
            raise OutputError(
                f"{path}: is not an output folder of synth: {_MARK} is missing, {strange[0]!r} is there.",
                "Choose an empty or a new folder with -o.",
            )
        if write:
            disk.require_writable(next(each for each in (real, *real.parents) if disk.exists(each)))
            for name in _WRITTEN:
                if name in listed and disk.is_folder(real / name):
                    disk.require_writable(real / name)
        return cls(real, notify, missing=missing)

    def step(self, name: str, *, hidden: str = "") -> StepFolder:
        """The folder of a step or view: `generated`, `scores/cosine-1a2b3c4d`, `views/strict`.

        `hidden` (a name beginning with a dot) holds its shards until `swap_view`. Raises JobError for a name that
        cannot be one, OutputError when it is a link or no folder.
        """
        return StepFolder(self._tree, name, hidden=hidden, notify=self._notify)

    def put_if_absent(self, path: PurePath | str, content: bytes) -> bool:
        """Create a small file such as `job.json` whole and durable; False when it exists, which stays as it is.

        `path` is relative to the folder or lies in it. Raises JobError, OutputError, SystemFault.
        """
        return self._tree.create_once(self._tree.file(path), content)

    def replace_atomically(self, path: PurePath | str, content: bytes) -> None:
        """Write a small file that may change, such as `README.md`; a reader sees the old or the new one.

        Raises JobError, OutputError, SystemFault.
        """
        self._tree.replace(self._tree.file(path), content)

    def swap_view(self, hidden: str, name: str) -> None:
        """Exchange the filled folder `hidden` with the view `name` in one rename; `hidden` then holds the old view.

        Both lie directly in this folder. A reader that opened the old one keeps it. Links of rejected rows go first
        and come back last, so a crash leaves them missing, never wrong; `settle` makes them.
        Raises JobError, OutputError, SystemFault.
        """
        new = self._tree.locate(hidden)
        disk.sync_folder(new)
        links = self._tree.locate(f"rejected/{name}")
        for entry in disk.entries(links):
            disk.remove(links / entry.name)
        if disk.is_folder(links):
            disk.sync_folder(links)
        disk.swap_folders(new, self._tree.locate(name))
        self._tree.forget(hidden)
        self.step(name).settle()
