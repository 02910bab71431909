"""Negatives: each shard holds the pairs of one shard of a view, with those that got too few among the rejected."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from synth.verify import items, views
from synth.verify.findings import Book
from synth.verify.links import Links
from synth.verify.opened import Opened


class Mined:
    """`shard` for every shard of `mined/`, in ascending order."""

    def __init__(self, book: Book, links: Links, *, deep: bool) -> None:
        self._book, self._links, self._deep = book, links, deep
        self._identity: str | None = None
        self._record: Mapping[str, Any] | None = None
        self._told = False

    def shard(self, mined: Opened, shown: Sequence[Opened]) -> Iterable[str]:
        """What is wrong with it; `shown` are the shards of that number of the views that readers see."""
        if self._identity is None:
            self._identity = mined.stamp.identity
            self._record = self._read(mined)
        if mined.stamp.identity != self._identity:
            return ["was mined in another way than the shards before it"]
        if self._record is None:
            return []
        view = next((each for each in shown if each.step.name == self._record["view"]), None)
        if view is None or view.stamp.identity != self._record["rules"]:
            self._outdated(mined, self._record["view"])
            return []
        if mined.stamp.input != view.file.sha256():
            self._links.stale(view, [mined])
            return []
        return self._differences(mined, view)

    def _differences(self, mined: Opened, view: Opened) -> Iterable[str]:
        if mined.rejected is not None or not mined.stamp.rejected:
            yield from items.differences(view.ids, mined.ids, mined.rejected_ids)
        if self._deep:
            yield from views.wrong_rows(view.table, [], mined.table, mined.rejected)

    def _outdated(self, mined: Opened, view: str) -> None:
        if not self._told:
            what = f"was made from pairs that {view} does not hold any more; `synth mine` makes it anew"
            self._book.note(mined.step.path, what)
        self._told = True

    def _read(self, mined: Opened) -> Mapping[str, Any] | None:
        identity = mined.stamp.identity
        path = self._book.root / "index" / f"mined-{identity[:16]}.json"
        try:
            record: Mapping[str, Any] = json.loads(path.read_bytes())
            whole = {"view", "rules"} <= record.keys() and views.sha256_of_json(record) == identity
        except FileNotFoundError:
            self._book.note(path, "the record of how mined/ was made is missing")
            return None
        except (OSError, ValueError, TypeError, AttributeError) as exc:
            self._book.damage(path, f"cannot be read ({exc!r})")
            return None
        if not whole:
            self._book.damage(path, "is not the record of the mining that its name tells")
        return record if whole else None
