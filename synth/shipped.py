"""Where the templates, personas and job files that come with synth lie, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from synth.errors import JobError
from synth.names import path_of

_PACKAGE = Path(__file__).resolve().parent


def shipped(kind: Literal["prompts", "personas", "configs"], *parts: str) -> Path:
    """Path of a shipped file or folder: `shipped("prompts", "retrieval")`; whether it exists is the reader's check."""
    packed = _PACKAGE / "_data"
    root = packed if packed.is_dir() else _PACKAGE.parent
    return root.joinpath(kind, *parts)


def find(kind: Literal["prompts", "personas", "configs"], name: str, base: Path) -> Path:
    """A file or folder that a job names: below `base`, or else among what is shipped; raises JobError when nowhere.

    A bare name (`retrieval`) and a path that starts with the kind (`personas/general.jsonl`) both find shipped ones.
    """
    own = (base / path_of(name)).resolve()
    if own.exists():
        return own
    ours = shipped(kind, *Path(name.removeprefix(f"{kind}/")).parts)
    if not Path(name).is_absolute() and ".." not in Path(name).parts and ours.exists():
        return ours
    raise JobError(f"{name}: no such file or folder (looked in {base} and in {shipped(kind)}).")
