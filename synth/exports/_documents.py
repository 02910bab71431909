"""Passages and queries under ids of their own: equal texts are one, and every id names one text.

A passage keeps the user's id; where that has been given to another text before, eight hex digits of the text's hash
follow it, and a passage without one is named by its hash. Ids depend on what came before alone, so that adding data
to a run changes none. About a hundred bytes of memory a text.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import NamedTuple

from synth.exports._rows import Source
from synth.sources.checks import FirstSeen, digest


class Document(NamedTuple):
    """One distinct passage."""

    id: str
    title: str
    text: str


class Ids:
    """Names of distinct texts."""

    def __init__(self) -> None:
        self._texts, self._taken = FirstSeen(), FirstSeen()
        self._names: list[str] = []

    def add(self, text: str, wanted: str | None) -> tuple[str, bool]:
        """The id of a text, and whether the text is new."""
        key = digest(text)
        earlier = self._texts.add(key, len(self._names))
        if earlier is not None:
            return self._names[earlier], False
        hashed = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        name = wanted or f"p-{hashed[:16]}"
        if self._taken.add(digest(name), 0) is not None:
            name = f"{name}#{hashed[:8]}"
        self._names.append(name)
        return name, True


def documents(source: Source, ids: Ids) -> Iterator[Document]:
    """Every passage of the run once: those read, whether or not a pair came of them, else those of all pairs.

    Passages that only mining knows, from a corpus of its own, are not here: `Ids.add` tells that they are new.
    """
    step = source.folder.step("passages")
    pairs = not step.done()
    if pairs:
        step = source.folder.step("generated")
    text, ident = ("passage", "passage_id") if pairs else ("text", "id")
    for index in sorted(step.done()):
        there = step.schema(index).names
        for row in step.read_columns(index, [n for n in (text, ident, "title") if n in there]).to_pylist():
            if not (row[text] or "").strip():
                continue
            own = row.get(ident)
            name, new = ids.add(row[text], None if own is None else str(own))
            if new:
                title = row.get("title")
                yield Document(name, title if isinstance(title, str) else "", row[text])
