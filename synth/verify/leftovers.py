"""Files that belong to no finished shard: what crashes leave, what is being worked on, and links without a shard."""

from __future__ import annotations

import os
from pathlib import Path

from synth.locks import locked
from synth.verify.findings import Book
from synth.verify.layout import BODY, JOURNAL, SHARD, Layout
from synth.verify.rejects import Bodies


def check_leftovers(layout: Layout, bodies: Bodies, book: Book) -> None:
    """Name orphaned rejected rows, stale links, journals and temporary files."""
    _bodies(layout, bodies, book)
    _links(layout, bodies, book)
    _journals(layout, book)
    for path in _still(layout, "tmp"):
        book.note(path, f"a temporary file ({_size(path):,} bytes): of a process at work, or left by a crash")


def _still(layout: Layout, folder: str) -> list[Path]:
    """What was listed at first and is there now: a run under way has put the rest in order."""
    return [path for path in layout.aside[folder] if os.path.lexists(path)]


def _bodies(layout: Layout, bodies: Bodies, book: Book) -> None:
    for path in _still(layout, ".rejects"):
        if not BODY.fullmatch(path.name):
            book.note(path, "is not of synth's making")
        elif path.name not in bodies.named:
            book.note(path, "rejected rows that no shard names: about to be, or left by a crash")


def _links(layout: Layout, bodies: Bodies, book: Book) -> None:
    root = layout.root
    known = {step.name: step.shards for step in layout.steps()}
    for path in _still(layout, "rejected"):
        step = path.parent.relative_to(root / "rejected").as_posix()
        if step not in known or not SHARD.fullmatch(path.name):
            book.damage(path, "is no step's rejected rows, and whoever reads *.parquet reads it too")
        elif (index := int(path.stem)) not in known[step]:
            book.damage(layout.root / step / path.name, "is missing, though its rejected rows are shown")
        elif index not in bodies.linked[step] and not book.blames(root / step / path.name):
            book.damage(path, "belongs to a shard that rejects nothing")


def _journals(layout: Layout, book: Book) -> None:
    done = {step.name.replace("/", "-"): step.shards for step in layout.steps()}
    wip = layout.root / "wip"
    for name in sorted(path.name for path in _still(layout, "wip")):
        match = JOURNAL.fullmatch(name)
        if match is None:
            book.note(wip / name, "is not of synth's making")
        elif int(match[2]) in done.get(match[1], frozenset()):
            book.note(wip / name, "the journal of a finished shard")
        else:
            state = {True: "being worked on", False: "to be taken up by the next run", None: "begun"}
            book.note(wip / name, f"finished calls of an open shard: {state[locked(wip / name)]}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
