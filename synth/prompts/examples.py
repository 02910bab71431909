"""Worked examples and the meanings of question types and difficulties: the words that templates are filled with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from synth.errors import JobError
from synth.prompts.templates import decode
from synth.types import QueryConfig

_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)


@dataclass(frozen=True, slots=True)
class Example:
    """One passage taken through both stages: `language` is a name and `length` a phrase, as the model reads them."""

    passage: str
    candidates: tuple[str, ...]
    config: QueryConfig
    language: str
    length: str
    query: str


class _Config(BaseModel):
    model_config = _STRICT
    character: _Text = Field(alias="Character")
    question_type: _Text = Field(alias="Question_Type")
    difficulty: _Text = Field(alias="Difficulty")


class _Requirement(BaseModel):
    model_config = _STRICT
    language: _Text
    length: _Text


class _Reply(BaseModel):
    model_config = _STRICT
    query: _Text = Field(alias="Query")


class _Row(BaseModel):
    model_config = _STRICT
    passage: _Text
    candidates: list[_Text] = Field(min_length=1)
    config: _Config
    requirement: _Requirement
    query: _Reply


class Definitions(BaseModel):
    """What each built-in question type and difficulty means, in the order in which the model reads them."""

    model_config = _STRICT
    question_types: Mapping[str, _Text] = Field(min_length=1)
    difficulties: Mapping[str, _Text] = Field(min_length=1)


def load_examples(path: Path) -> tuple[Example, ...]:
    """Worked examples from a JSONL file of `passage, candidates, config, requirement, query`.

    Raises JobError naming file, row and field.
    """
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise JobError(f"{path}: {exc.strerror}.", "`examples:` names a JSONL file.") from exc
    return parse_examples(path, content)


def parse_examples(path: Path, content: bytes) -> tuple[Example, ...]:
    """The examples in `content`, read from `path`; raises JobError naming file, row and field."""
    text = decode(path, content)
    rows = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return tuple(_example(f"{path}: row {number}", line) for number, line in rows)


def parse_definitions(path: Path, content: bytes) -> Definitions:
    """The definitions in `content`, read from `path`; raises JobError naming file and field."""
    try:
        return Definitions.model_validate(yaml.safe_load(decode(path, content)))
    except yaml.YAMLError as exc:
        raise JobError(f"{path}: not YAML: {exc}.") from exc
    except ValidationError as exc:
        raise JobError(f"{path}: {_first(exc)}", "Copy the shipped definitions.yaml and edit its sentences.") from exc


def _example(place: str, line: str) -> Example:
    try:
        row = _Row.model_validate(json.loads(line))
    except ValidationError as exc:
        raise JobError(f"{place}: {_first(exc)}", "The shipped examples.jsonl shows the form.") from exc
    except (ValueError, RecursionError) as exc:
        raise JobError(f"{place}: not a JSON object: {exc}.", "Each line is one JSON object.") from exc
    if row.config.character not in row.candidates:
        raise JobError(
            f"{place}: field config.Character: it is not among the candidates.", "Copy one of them word for word."
        )
    return Example(
        passage=row.passage,
        candidates=tuple(row.candidates),
        config=QueryConfig(row.config.character, row.config.question_type, row.config.difficulty),
        language=row.requirement.language,
        length=row.requirement.length,
        query=row.query.query,
    )


def _first(exc: ValidationError) -> str:
    error = exc.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in error["loc"])
    return f"field {field}: {error['msg']}." if field else f"{error['msg']}."
