"""The one way to the terminal: text of servers, models and files is shown, never obeyed.

Control characters (escape sequences move cursors and set titles) and bidirectional overrides appear in escaped form;
nothing is read as markup.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import RenderableType

_WIDEST = 100

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def safe(text: str) -> str:
    """The text with control characters (but newline and tab) and bidirectional controls written as escapes."""
    return _UNSAFE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004 - the width of \x


def say(text: str = "", *, to: TextIO | None = None) -> None:
    """Print a line to standard output; a reader that went away ends the printing, not the run."""
    _write(safe(text) + "\n", to or sys.stdout)


def _write(line: str, stream: TextIO) -> None:
    try:
        try:
            stream.write(line)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except BrokenPipeError:
        silence(stream)
    except ValueError:  # the stream was closed
        return


def tell(text: str) -> None:
    """Print a line to standard error: notices, progress, errors."""
    say(text, to=sys.stderr)


def width() -> int:
    """Columns for text: those of the terminal, at most 100."""
    return min(_WIDEST, shutil.get_terminal_size((_WIDEST, 24)).columns)


def show(what: RenderableType) -> None:
    """Print a table, or whatever else rich draws, to standard output; its texts have to be `rich.text.Text`."""
    from rich.console import Console  # noqa: PLC0415 - only where something is drawn

    console = Console(file=sys.stdout, width=width(), highlight=False, markup=False, emoji=False)
    with console.capture() as drawn:
        console.print(what)
    _write("\n".join(line.rstrip() for line in drawn.get().splitlines()) + "\n", sys.stdout)


def facts(rows: Iterable[tuple[str, str]]) -> RenderableType:
    """Labels and what they stand for, in two columns; texts too long are wrapped in theirs."""
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in rows:
        grid.add_row(Text(label), Text(safe(text)))
    return grid


def columns(head: Sequence[str], rows: Iterable[Sequence[str]]) -> RenderableType:
    """A table whose first column is text and whose other columns are numbers."""
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for n, name in enumerate(head):
        table.add_column(Text(safe(name)), justify="right" if n else "left", no_wrap=bool(n), overflow="fold")
    for row in rows:
        table.add_row(*(Text(safe(cell)) for cell in row))
    return table


def silence(stream: TextIO) -> None:
    """Send what is still to come nowhere, so that the interpreter does not complain of a closed pipe at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
