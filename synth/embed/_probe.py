"""Does an embedder mean anything? Two ways to ask one thing must be closer than two unrelated texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from synth.embed._options import Role
from synth.embed._vectors import Row, unit
from synth.servers.probe import ANSWER, QUESTION, UNRELATED

PROBE_TEXTS: tuple[tuple[str, Role], ...] = (
    (QUESTION, "query"),
    (ANSWER, "document"),
    (UNRELATED, "document"),
)
_NOISE = (
    "a question is no closer to its answer ({:.2f}) than to an unrelated text ({:.2f}): "
    "is this an embedding model, with the pooling it was trained with?"
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the vectors of the probe texts tell; cosines are None where there are no sound vectors."""

    problems: tuple[str, ...]
    dimension: int | None = None
    norm: float | None = None
    paraphrase: float | None = None
    unrelated: float | None = None


def judge(rows: Sequence[Row | None], dimensions: int | None) -> Seen:
    """Reads the rows of `PROBE_TEXTS`."""
    sound = [row for row in rows if row is not None]
    widths = {row.size for row in sound}
    if len(sound) < len(rows) or len(widths) != 1:
        return Seen(("vectors are missing, zero, not finite or of different widths: is this an embedding model?",))
    width = widths.pop()
    if (dimensions or 0) > width:
        return Seen(
            (f"vectors have {width} dimensions, the job asks for {dimensions}: lower embed.dimensions.",), width
        )
    query, answer, other = unit(sound, dimensions)
    paraphrase, unrelated = float(query @ answer), float(query @ other)
    problems: tuple[str, ...] = ()
    if paraphrase <= unrelated:
        problems = (_NOISE.format(paraphrase, unrelated),)
    return Seen(problems, width, float(np.linalg.norm(sound[0])), paraphrase, unrelated)
