"""How a CSV or TSV file is written: one of the dialects of Python's `csv`, found from the start of the file.

Of several dialects the one counts in which the fewest records are malformed: with a quote inside an unquoted field, or
with another number of fields than the header. CSV is read as RFC 4180 has it unless another dialect fits better. TSV
fields are taken as they are, unless the file shows that its writer quoted them.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import product
from math import inf
from typing import Any, NamedTuple

HEAD = 1 << 24
"""Bytes of a file that decide its dialect."""
_CARRIAGE_RETURN = re.compile(r"[^\n]*?\r(?!\r*\n)")
_LINE_END = re.compile(r"\r*\n|\r|\Z")


class Dialect(NamedTuple):
    """Options of `csv.reader`, without quoting where `quotechar` is None.

    `carriage`: a carriage return alone ends a line.
    """

    delimiter: str
    quotechar: str | None
    escapechar: str | None = None
    skipinitialspace: bool = False
    carriage: bool = False

    def fields(self, lines: Iterator[str]) -> Iterator[list[str]]:
        """The records of these lines. Raises csv.Error for a malformed one, and goes on with the line after it."""
        options: dict[str, Any] = self._asdict()
        del options["carriage"]
        options["quoting"] = csv.QUOTE_MINIMAL if self.quotechar else csv.QUOTE_NONE
        if self.escapechar:  # before another character it is itself, which no writer would have left so
            special = {self.escapechar, self.delimiter, '"', "'", "\r", "\n"}
            pair = re.compile(rf"{re.escape(self.escapechar)}(.)", re.DOTALL)
            lines = (
                pair.sub(lambda m: m[0] if m[1] in special else f"{self.escapechar}{m[0]}", line) for line in lines
            )
        return csv.reader(lines, strict=True, **options)

    def width(self, record: str) -> int:
        """The number of fields of a text that is one well-formed record, 0 for any other."""
        try:
            return len(next(self.fields(iter([record])), ())) if _pattern(self).fullmatch(record) else 0
        except csv.Error:  # a field beyond the limit
            return 0

    def opens(self, text: str) -> bool:
        """Whether a quote of the text is where a field begins: at its start or after a delimiter."""
        space = " *" if self.skipinitialspace else ""
        return re.search(rf"(?:\A|{re.escape(self.delimiter)}){space}{self.quotechar or '(?!)'}", text) is not None


def find(head: str, *, tabs: bool) -> Dialect:
    """The dialect of a file that starts like this; `tabs` for TSV, whose delimiter is known."""
    carriage = _CARRIAGE_RETURN.match(head) is not None
    plain = [Dialect(delimiter, '"', carriage=carriage) for delimiter in ("\t" if tabs else ",;\t|")]
    base = max(plain, key=lambda each: next(_widths(head, each), 0))
    single = base._replace(quotechar="'")
    quotes: list[str | None] = ['"', "'"] if _shows(head, single, ["''", base.delimiter, "\n"]) else ['"']
    if tabs:  # one row may start with a quote and another end with one, but not where a line is one field
        marks = ['""'] if "\t" in _LINE_END.split(head, maxsplit=1)[0] else ['""', "\n"]
        quotes = ['"', None] if _shows(head, base, marks) else [None, '"']
    escapes = [None, "\\"] if "\\" in head else [None]
    best, fewest = base, inf
    for space, escape, quote in product((False,) if tabs else (False, True), escapes, quotes):
        each = base._replace(quotechar=quote, escapechar=escape, skipinitialspace=space)
        count = _malformed(head, each, fewest)
        if count < fewest:
            best, fewest = each, count
        if fewest == 0:
            break
    return best


def _shows(head: str, dialect: Dialect, marks: Iterable[str]) -> bool:
    """Whether a writer that quotes was at work: it quoted the header, an empty field, or one with a mark inside."""
    quote, end = re.escape(dialect.quotechar or ""), re.escape(dialect.delimiter)
    quoted = re.compile(
        rf"(?<![^{end}\r\n]){quote}([^{quote}]*+(?:{quote}{quote}[^{quote}]*+)*+){quote}(?![^{end}\r\n])"
    )
    fields = (found[1] for found in quoted.finditer(head))
    return head.startswith(quote) or any(not each or any(mark in each for mark in marks) for each in fields)


@lru_cache(maxsize=64)
def _pattern(dialect: Dialect) -> re.Pattern[str]:
    """One well-formed record with its line end."""
    end, quote, escape = (re.escape(each or "") for each in (dialect.delimiter, dialect.quotechar, dialect.escapechar))
    escaped = rf"{escape}." if escape else "(?!)"
    field = rf"[^{end}{quote}{escape}\r\n]*+(?:{escaped}[^{end}{quote}{escape}\r\n]*+)*+"
    if quote:
        inner = rf"[^{quote}{escape}]*+(?:(?:{quote}{quote}|{escaped})[^{quote}{escape}]*+)*+"
        field = rf"(?:{quote}{inner}{quote}|{field})"
    if dialect.skipinitialspace:
        field = rf" *{field}"
    return re.compile(rf"{field}(?:{end}{field})*+(?:{_LINE_END.pattern})", re.DOTALL)


def _widths(head: str, dialect: Dialect) -> Iterator[int]:
    """The number of fields of every record, 0 for a line that starts no well-formed one."""
    place, pattern = 0, _pattern(dialect)
    while place < len(head):
        found = pattern.match(head, place)
        if found is None or found[0].strip("\r\n"):
            yield dialect.width(found[0]) if found else 0
        place = (found or _LINE_END.search(head, place)).end()  # type: ignore[union-attr] # the end of the text is one


def _malformed(head: str, dialect: Dialect, most: float) -> float:
    """How many records are malformed, as soon as there are `most`."""
    widths = _widths(head, dialect)
    first, count = next(widths, 0), 0
    for width in widths if first else ():
        count += width != first
        if count >= most:
            break
    return count if first else inf
