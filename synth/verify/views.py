"""Views: kept + rejected = pairs, and what a shard was made from, found out from its columns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

_MOST_TRIES = 5000


@dataclass(frozen=True, slots=True)
class ScoreShard:
    """A scorer's shard as a view needs it: its place among all of them, columns after `id`, checksum."""

    place: int
    columns: tuple[str, ...]
    sha256: str


def made_from(pairs: str, scores: Sequence[ScoreShard]) -> str:
    """The `synth.input` of a view's shard: one checksum over those of the pairs and of the scores in their order."""
    return sha256_of_json({"inputs": [pairs, *(each.sha256 for each in scores)]})


def fingerprint(rules: object, scores: Sequence[str]) -> str:
    """What names a view's rules over its score folders in every shard."""
    return sha256_of_json({"rules": rules, "scores": scores})


def sha256_of_json(value: object) -> str:
    """Hash over canonical JSON: sorted keys, no spaces, ASCII."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def candidates(columns: Sequence[str], scores: Sequence[ScoreShard]) -> Iterator[tuple[ScoreShard, ...]]:
    """Every row of score folders whose columns are `columns`: several where a scorer was run with other options."""
    return islice(_rows(tuple(columns), scores), _MOST_TRIES)


def _rows(columns: tuple[str, ...], scores: Sequence[ScoreShard]) -> Iterator[tuple[ScoreShard, ...]]:
    if not columns:
        yield ()
        return
    for each in scores:
        count = len(each.columns)
        if count and columns[:count] == each.columns:
            for rest in _rows(columns[count:], scores):
                yield (each, *rest)


def wrong_rows(pairs: pa.Table, scores: Sequence[pa.Table], kept: pa.Table, rejected: pa.Table | None) -> Iterable[str]:
    """Columns of a view whose values are not those of the pairs and scores it was made from; all tables whole.

    Columns are compared by place: a view may rename those whose names clash.
    """
    sources = [*pairs.columns, *(table[name] for table in scores for name in table.column_names if name != "id")]
    row: Mapping[str, int] = {name: n for n, name in enumerate(pairs["id"].to_pylist())}
    for what, table in (("kept", kept), ("rejected", rejected)):
        if table is None:
            continue
        places = [row.get(name) for name in table["id"].to_pylist()]
        if None in places:
            return
        taken = pa.array(places, pa.int64())
        for name, source, column in zip(table.column_names, sources, table.columns, strict=False):
            if not column.equals(source.take(taken).cast(column.type)):
                yield f"column {name} of its {what} rows is not what the pairs and scores hold"
                break
