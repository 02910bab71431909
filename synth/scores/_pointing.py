"""How queries point at a text that only their writer sees, in the languages of `_pointing.yaml`.

Nouns such as "text", "article" and "document" are also what people search for, so a noun alone never counts.
`according` ("according to the") counts unless the noun goes on to say which one (`of`: "of the constitution", a
number); `this` ("this") where the clause ends after the noun or a verb of saying follows; `inside` ("in the") before
such a verb only; `plain` is a whole expression that counts by itself: "mentioned above", "文中". Where `spaced` is
false, spaces part no words and an expression may start and end anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter

_FILE = Path(__file__).with_name("_pointing.yaml")
_END = r"(?:$|[?.!,;:)\]\"”»'、。，！？；：؟،؛।])"
_NEVER = "(?!)"

Expressions = Sequence[str]


class Pointing(BaseModel):
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
def pointing() -> re.Pattern[str]:
    """Finds an expression of any language in a casefolded text."""
    languages = TypeAdapter(dict[str, Pointing]).validate_python(yaml.safe_load(_FILE.read_text(encoding="utf-8")))
    return re.compile("|".join(map(_expression, languages.values())))


def _expression(each: Pointing) -> str:
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
    return f"{left}{_any(forms)}"


def _any(expressions: Expressions) -> str:
    return f"(?:{'|'.join(expressions) or _NEVER})"
