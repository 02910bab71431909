"""The one way to the terminal: text of servers, models and files is shown, never obeyed.

Control characters (escape sequences move cursors and set titles) and bidirectional overrides appear in escaped form;
nothing is read as markup.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TextIO

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def safe(text: str) -> str:
    """The text with control characters (but newline and tab) and bidirectional controls written as escapes."""
    return _UNSAFE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004 - the width of \x


def say(text: str = "", *, to: TextIO | None = None) -> None:
    """Print a line to standard output; a reader that went away ends the printing, not the run."""
    stream = to or sys.stdout
    line = safe(text) + "\n"
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


def silence(stream: TextIO) -> None:
    """Send what is still to come nowhere, so that the interpreter does not complain of a closed pipe at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
