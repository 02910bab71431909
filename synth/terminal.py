"""Everything that is printed goes through here: text of servers, models and files is shown, never obeyed.

Control characters (escape sequences move cursors and set titles) and bidirectional overrides appear in escaped form;
nothing is read as markup.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

from synth.errors import SystemFault
from synth.names import shown

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_WIDEST = 100
_COLUMNS = 80

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def safe(text: str) -> str:
    """The text with control characters (but newline and tab) and bidirectional controls written as escapes."""
    return _UNSAFE.sub(_escaped, shown(text))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004 - the width of \x


def say(text: str = "", *, to: TextIO | None = None, wrap: bool = False) -> None:
    """Print a line to standard output; a reader that went away ends the printing, not the run.

    Raises SystemFault where standard output is lost otherwise, as on a full disk. What standard error loses is lost.
    `wrap` breaks it between words, on a terminal only: elsewhere a line stays whole, for grep and editors.
    """
    stream, text = to or sys.stdout, safe(text)
    if stream is None or getattr(stream, "closed", False):
        return
    if wrap and stream.isatty():
        fit = textwrap.TextWrapper(width(), break_long_words=False, break_on_hyphens=False)
        lines = text.split("\n")
        for n, line in enumerate(lines):
            fit.subsequent_indent = " " * (len(line) - len(line.lstrip()) + 2)
            lines[n] = line if len(line) <= fit.width else fit.fill(line)
        text = "\n".join(lines)
    _write(text + "\n", stream)


def _write(line: str, stream: TextIO) -> None:
    try:
        try:
            stream.write(line)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except OSError as exc:
        silence(stream)
        if stream is sys.stdout and exc.errno not in (errno.EPIPE, errno.EIO):  # EIO: its terminal is gone
            raise SystemFault(f"standard output: {exc.strerror}.", "Send it elsewhere.") from exc


def tell(text: str) -> None:
    """Print a line to standard error: notices, progress, errors. On a terminal it wraps between words."""
    if sys.stderr is not None:
        say(text, to=sys.stderr, wrap=True)


def width() -> int:
    """Columns for text: those of the terminal, at most 100; 80 without one."""
    return min(_WIDEST, shutil.get_terminal_size((_COLUMNS, 24)).columns)


def show(*parts: RenderableType) -> None:
    """Print what rich draws to standard output, one below the other; texts have to be `rich.text.Text`."""
    from rich.console import Console, Group  # noqa: PLC0415 - only where something is drawn

    if sys.stdout is None or sys.stdout.closed:
        return
    drawn, colours = io.StringIO(), sys.stdout.isatty() or None
    console = Console(file=drawn, force_terminal=colours, width=width(), highlight=False, markup=False, emoji=False)
    console.print(Group(*parts))
    _write("\n".join(line.rstrip() for line in drawn.getvalue().splitlines()) + "\n", sys.stdout)


def words(text: str = "", style: str = "") -> Text:
    """A text that may come from anywhere, for `show`."""
    from rich.text import Text  # noqa: PLC0415 - as above

    return Text(safe(text), style)


def indented(text: str, by: int) -> RenderableType:
    """Words with a margin to the left."""
    from rich.padding import Padding  # noqa: PLC0415 - as above

    return Padding(words(text), (0, 0, 0, by))


def facts(rows: Iterable[tuple[str, str]], *, least: int = 9, indent: int = 0) -> RenderableType:
    """Labels and what belongs to them, in two columns; the first has `least` columns or more, the second wraps."""
    from rich.table import Table  # noqa: PLC0415 - as above

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, min_width=least + indent)
    grid.add_column(overflow="fold")
    for label, text in rows:
        grid.add_row(words(" " * indent + label), words(text))
    return grid


def columns(head: Sequence[str], rows: Iterable[Sequence[str]]) -> RenderableType:
    """A table whose first column is text and whose other columns are numbers."""
    from rich.table import Table  # noqa: PLC0415 - as above

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for n, name in enumerate(head):
        table.add_column(words(name), justify="right" if n else "left", no_wrap=bool(n), overflow="fold")
    for row in rows:
        table.add_row(*map(words, row))
    return table


def heading(title: str, stroke: str = "─") -> Text:
    """A title in a line as wide as the text below it."""
    title = title if len(title) <= width() - 6 else title[: width() - 7] + "…"
    return words(f"{stroke * 2} {title} {stroke * max(2, width() - len(title) - 4)}", "bold")


def shorten(text: str, length: int) -> str:
    """The text on one line, cut to `length` characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"


def silence(stream: TextIO) -> None:
    """Send what is still to come nowhere, so that the interpreter does not complain of a closed pipe at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
