"""Whether a query makes sense to someone who has not seen the passage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, TypeAdapter

from synth.document import load_document
from synth.languages.words import fold
from synth.scores._scorer import PairBatch, ScoreColumn, Scorer
from synth.stage import Services

__all__ = ["SelfContained"]

_FILE = Path(__file__).with_name("_deictic.yaml")
_END = r"(?:$|[?.!,;:)\]\"”»'、。，！？；：؟،؛।])"

Expressions = Sequence[str]


class Deictic(BaseModel):
    """Regular expressions of one language, over casefolded text with single spaces."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nouns: Expressions
    according: Expressions = ()
    this: Expressions = ()
    inside: Expressions = ()
    of: Expressions = ()
    verbs: Expressions = ()
    plain: Expressions = ()
    spaced: bool = True


@cache
def deictic() -> re.Pattern[str]:
    """All expressions of all languages as one."""
    found = []
    for each in TypeAdapter(dict[str, Deictic]).validate_python(load_document(_FILE).data).values():
        left, right, gap = (r"(?<!\w)", r"(?!\w)", " ?") if each.spaced else ("", "", "")
        says = f"{gap}{_any(each.verbs)}"
        forms = list(each.plain)
        for lead, follows in (
            (each.according, f"(?!{gap}{_any(each.of)})"),
            (each.this, f"(?={gap}{_END}|{says})"),
            (each.inside, f"(?={says})"),
        ):
            if lead:
                forms.append(f"{_any(lead)}{gap}{_any(each.nouns)}{right}{follows}")
        found.append(f"{left}{_any(forms)}")
    return re.compile("|".join(found))


def _any(expressions: Expressions) -> str:
    return f"(?:{'|'.join(expressions) or '(?!)'})"


class SelfContained(Scorer):
    """False where a query refers to a text that only its writer sees: "the passage", "this article", "上文", "im Text".

    Expressions of some thirty languages are known, whatever language the query is in. A text as the subject ("this
    article of the constitution", "center text in a table") does not count. Other languages count as self-contained.
    """

    stem: ClassVar[str | None] = "self_contained"
    outputs = (ScoreColumn("self_contained", pa.bool_(), missing="keep"),)

    async def score(self, batch: PairBatch, services: Services) -> pa.Table:  # noqa: ARG002 - needs no service
        found = deictic()
        return self.table([found.search(fold(query)) is None for query in batch.texts("query")])
