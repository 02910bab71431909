"""JSON schemas of the two replies, in the subset that every constrained decoder takes.

Only type, enum, required, additionalProperties and maxLength: xgrammar refuses more, and refuses it late.
"""

from __future__ import annotations

from typing import Any

from synth.stage import ConfigInputs


def config_schema(inputs: ConfigInputs) -> dict[str, Any]:
    """Schema of stage one's reply: `Character` verbatim from the candidates, `Question_Type`, `Difficulty`.

    A key whose choice the job leaves out (no personas, no difficulties) is left out here too.
    """
    choices = {
        "Character": inputs.candidates.personas,
        "Question_Type": inputs.question_types,
        "Difficulty": inputs.difficulties,
    }
    return _object({key: {"type": "string", "enum": list(dict.fromkeys(c))} for key, c in choices.items() if c})


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
