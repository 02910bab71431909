"""What reaches the terminal."""

from __future__ import annotations

import io
import os

import pytest

from synth.terminal import safe, say


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\rb", "a\\x0db"),
        ("\u202eabc", "\\u202eabc"),
        ("\ud800", "\\ud800"),
        ("[bold]x[/bold]", "[bold]x[/bold]"),
        ("漢字 é", "漢字 é"),
        ("\x9b31m", "\\x9b31m"),
    ],
)
def test_control_characters_are_shown_and_not_obeyed(text, shown):
    assert safe(text) == shown


def test_characters_that_the_terminal_cannot_encode_are_escaped():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    say("naïve 漢", to=stream)
    assert raw.getvalue() == b"na\\xefve \\u6f22\n"


def test_a_reader_that_went_away_ends_the_printing():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        say("first", to=stream)
        say("second", to=stream)


def test_a_closed_stream_is_no_error():
    stream = io.StringIO()
    stream.close()
    say("nobody hears", to=stream)
