"""JSON schemas of the two replies, in the subset that every constrained decoder takes.

Only type, enum, required, additionalProperties and maxLength: xgrammar refuses more, and refuses it late.
"""

from __future__ import annotations

from typing import Any

from synth.languages import Language
from synth.stage import ConfigInputs, letters

_WORD_CHARS = 12
"""Room for a word and its space in a spaced script; elsewhere three times the mean length of a word."""
_SPARE_CHARS = 24


def config_schema(inputs: ConfigInputs) -> dict[str, Any]:
    """Schema of stage one's reply: `Character` by its letter, `Question_Type`, `Difficulty`.

    A key with nothing to choose is left out, so the schema is the same for every item of a run.
    """
    choices = {
        "Character": letters(len(inputs.candidates.personas)),
        "Question_Type": inputs.question_types,
        "Difficulty": inputs.difficulties,
    }
    return _object({key: {"type": "string", "enum": list(c)} for key, c in choices.items() if len(c) > 1})


def query_chars(row: Language, length_max: int) -> int:
    """Most characters of a query in this language of at most `length_max` words: ample, and no room to run on."""
    each = _WORD_CHARS if row.words.by == "spaces" else 3 * row.words.characters
    return round(each * length_max) + _SPARE_CHARS


def query_schema(max_chars: int) -> dict[str, Any]:
    """Schema of stage two's reply: `Query`, at most `max_chars` characters."""
    return _object({"Query": {"type": "string", "maxLength": max_chars}})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
