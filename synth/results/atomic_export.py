"""A folder of exported files: written aside, renamed into place at once, replaced only if all its files are ours."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth.errors import JobError, OutputError, ServerRefused, ServerUnavailable
from synth.shards import disk

RECORD = "export.json"
_REFUSED = frozenset({400, 401, 403, 404, 409, 422})


@dataclass(frozen=True, slots=True)
class AtomicExport:
    """A folder that will hold an export; until `finish` nothing shows under its name."""

    target: Path

    @classmethod
    def to(cls, out: Path, run: Path) -> AtomicExport:
        """Check where it goes. Raises JobError inside the run's folder, OutputError where files are not all ours."""
        target = out.expanduser().resolve()
        if target == run or run in target.parents:
            raise JobError(
                f"{out}: is inside the folder of the run, which holds only its own files.", "Choose another -o."
            )
        if disk.exists(target) and not disk.is_folder(target):
            raise disk.foreign(target)
        _require_ours(out, target)
        return cls(target)

    @contextmanager
    def aside(self) -> Iterator[Path]:
        """A hidden folder beside the target to write in; it goes when it does not become the target.

        Raises OutputError while another export writes there.
        """
        path = self.target.with_name(f".{self.target.name}.partial")
        with disk.disk_errors(self.target.parent):
            self.target.parent.mkdir(parents=True, exist_ok=True)
        disk.make_folder(path)
        with disk.disk_errors(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise OutputError(
                    f"{self.target}: another export is writing it.", "Wait for it, or choose another -o."
                ) from exc
            with disk.disk_errors(path):
                _empty(path)
                yield path
        finally:
            os.close(descriptor)
            if self._unfinished(path):
                shutil.rmtree(path, ignore_errors=True)

    def finish(self, aside: Path, record: Mapping[str, Any]) -> None:
        """Write the record with the list of files, sync every name, and give the folder its own."""
        files = sorted(str(path.relative_to(aside)) for path in aside.rglob("*") if path.is_file())
        text = json.dumps(dict(record) | {"files": files}, indent=2, ensure_ascii=False) + "\n"
        with disk.disk_errors(aside), (aside / RECORD).open("wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        for folder in (aside, *(path for path in aside.rglob("*") if path.is_dir())):
            disk.sync_folder(folder)
        _require_ours(self.target, self.target)
        if disk.exists(self.target) and not disk.entries(self.target):
            with disk.disk_errors(self.target):
                self.target.rmdir()
        disk.swap_folders(aside, self.target)

    def _unfinished(self, path: Path) -> bool:
        """Whether the hidden folder is there: after a failure, or holding the files that were replaced."""
        return disk.exists(path)


def _require_ours(name: Path, target: Path) -> None:
    """Every file there must be one that an export listed."""
    if not disk.exists(target) or not disk.entries(target):
        return
    cure = "Choose an empty or a new folder with -o."
    try:
        record = json.loads((target / RECORD).read_bytes())
        known = {RECORD, *record["files"]}
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise OutputError(f"{name}: is not empty and holds no export of synth.", cure) from exc
    there = (str(path.relative_to(target)) for path in target.rglob("*") if path.is_symlink() or not path.is_dir())
    strange = next((each for each in sorted(there) if each not in known), None)
    if strange is not None:
        raise OutputError(f"{name}: holds {strange}, which no export wrote; replacing the folder would lose it.", cure)


def _empty(path: Path) -> None:
    for entry in disk.entries(path):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)  # noqa: PTH108 - an entry of a listing


def push(folder: Path, name: str) -> None:
    """Upload the folder as a data set of the Hub, private when new; the token comes from the environment.

    Raises ServerRefused, ServerUnavailable.
    """
    from huggingface_hub import HfApi  # noqa: PLC0415 - heavy, and only for this
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError  # noqa: PLC0415 - as above

    # The HTTP library beneath has changed its name before; its base error covers connections that fail.
    named = (each for each in HfHubHTTPError.__mro__ if issubclass(each, Exception) and each.__name__ == "HTTPError")
    failed: type[Exception] = next(named, HfHubHTTPError)
    api = HfApi()
    try:
        api.create_repo(name, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(repo_id=name, repo_type="dataset", folder_path=folder, commit_message="Export of synth")
    except HFValidationError as exc:
        raise JobError(f"--push {name}: is not the name of a repository.", "Write owner/name.") from exc
    except LocalTokenNotFoundError as exc:
        raise ServerRefused(f"--push {name}: no token for the Hub.", "Set HF_TOKEN, or run `hf auth login`.") from exc
    except HfHubHTTPError as exc:
        status = exc.response.status_code
        what = f"--push {name}: the Hub answers {status}: {str(exc).splitlines()[0]}"
        if status in _REFUSED:
            raise ServerRefused(what, "Check HF_TOKEN and the name; the files are on disk.") from exc
        raise ServerUnavailable(what, "Run the same command again; the files are on disk.") from exc
    except (failed, OSError) as exc:
        raise ServerUnavailable(
            f"--push {name}: the Hub cannot be reached ({exc}).", "The files are on disk; run it again."
        ) from exc
