"""Names of files and columns: as users write them, and as messages show them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_ODD: dict[str, str] = {}
"""Names met so far that hold a line break or a tab, with what is shown in their place."""


def path_of(name: str | Path) -> Path:
    """The path that a user names; `~` is a home where there is such a user, and a letter of the name otherwise."""
    note(Path(name).parts)
    return Path(os.path.expanduser(name))  # noqa: PTH111 - the method raises for a user who does not exist


def note(names: Iterable[str]) -> None:
    """Have `shown` escape these names."""
    for name in names:
        if ("\n" in name or "\t" in name) and not name.isspace():
            _ODD[name] = name.replace("\n", "\\n").replace("\t", "\\t")


def shown(text: str) -> str:
    """The text with line breaks and tabs of such names escaped, so that no name can look like a message."""
    for name, plain in _ODD.items():
        text = text.replace(name, plain)
    return text
