"""Negatives that external pairs carry in columns of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from synth.negatives._choosing import Selector
from synth.negatives._negatives import Item, Negatives, Pool

__all__ = ["Given"]

_COLUMN = re.compile(r"(input_)?(neg|negatives?|negative_[0-9]+|negative_messages)", re.IGNORECASE)


class Given(Negatives):
    """The negatives in the data's own columns, checked like any other, in their order.

    Columns are `neg` or `negatives` with a list of texts, `negative`, `negative_1` and so on with one text each, and
    ms-swift's `negative_messages`. Rows with a negative label are not read here; `mined` finds their passages.
    """

    advice: ClassVar[str] = "raise --max-score, lower --absolute-margin, or find others with --use mined"

    def column_problem(self, names: Sequence[str]) -> tuple[str, str] | None:
        if self.columns(names):
            return None
        return "the pairs have no column of negatives (neg, negatives, negative_1 …)", "Find some: --use mined"

    def columns(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if _COLUMN.fullmatch(name)]

    def supplied(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(text for name in self.columns([*row]) for text in _texts(row[name])))

    async def candidates(self, items: Sequence[Item], found: Sequence[Pool], selector: Selector) -> Sequence[Pool]:  # noqa: ARG002 - it searches nothing
        return await selector.judged(items, [item.supplied for item in items], "given")


def _texts(value: Any) -> Iterator[str]:
    """Texts of a column: one, a list of them, or conversations whose last message is one."""
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, Mapping):
        yield from _texts(value.get("content"))
    elif isinstance(value, list):
        last = value[-1:] if value and isinstance(value[0], Mapping) else value
        for each in last:
            yield from _texts(each)
