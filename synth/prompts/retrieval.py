"""Prompts: templates of one folder, filled once per run (system part) and once per model call (user message).

A template folder holds `config.j2` (stage one), `query.j2` (stage two), as a rule `system.j2` (what never varies within
a run, so that a server's prefix cache keeps it), and any further `.j2` files that these include. `definitions.yaml` and
`examples.jsonl` come from the shipped folder where it has none. Values are inserted in one pass and never read as
templates; everything of foreign origin but the passage is neutralised here, the passage by the reader of the corpus.

Every template sees `types`, `levels`, `forms` and `typings` (name and meaning each), `examples`, `guidance`,
`personas`; `config.j2` and `query.j2` see `title`, `passage` and `typing` too. `config.j2`: `candidates`,
`question_types`, `difficulties`, `used`, `may_end`; `query.j2`: `character`, `question_type`, `type_meaning`,
`difficulty`, `level_meaning`, `form`, `form_meaning`, `typing_meaning`, `length`, `language`, `written`.

The folder `more` below it has what few jobs ask for, so that the prompts of all others stay as they are:
`scenario.yaml` and `scenario.jsonl`, meaning and examples of a question type; `system.j2` and `query.j2`, which are put
after those of the folder and see `answer` and `styles`, too; `answers.jsonl`, the answers of the shipped examples.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from synth.document import parse
from synth.errors import JobError
from synth.languages import language, length_phrase
from synth.languages.words import quoted
from synth.prompts.templates import Messages, PromptFolder, decode, neutralise
from synth.shipped import shipped
from synth.stage import NONE, ConfigInputs, QueryInputs, letters
from synth.types import Candidates, Passage, QueryConfig, Requirement

CHOICES = ("Character", "Question_Type", "Difficulty")
"""The keys of stage one's reply."""

PLAIN = "plain"
"""The form that asks for nothing special."""

SCENARIO = ("scenario.yaml", "scenario.jsonl")
ANSWERS = "answers.jsonl"
STYLES = "styles.txt"
"""The user's own queries, one a line."""
MORE = ("system.j2", "query.j2")
_FALLBACK = ("definitions.yaml", "examples.jsonl")
_SYSTEM_NAMES = ("types", "levels", "forms", "typings", "guidance", "personas", "choices", "examples")
_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Config(_Strict):
    character: _Text = Field(alias="Character")
    question_type: _Text = Field(alias="Question_Type")
    difficulty: _Text = Field(alias="Difficulty")


class _Requirement(_Strict):
    language: _Text
    length: list[int] = Field(min_length=2, max_length=2)


class _Reply(_Strict):
    query: _Text = Field(alias="Query")


class Example(_Strict):
    """One passage taken through both stages, in values of a job; the model reads them in the form of its requests."""

    passage: _Text
    candidates: list[_Text] = Field(min_length=1)
    used: list[_Config] = []
    config: _Config
    requirement: _Requirement
    form: _Text = PLAIN
    typing: _Text = "written"
    written: list[_Text] = []
    reply: _Reply = Field(alias="query")
    answer: _Text | None = None
    """The words of the passage that answer the query, for jobs that ask for them."""


class Definitions(_Strict):
    """What each built-in question type, difficulty, form and way of typing means, in the order of the prompt."""

    question_types: Mapping[str, _Text] = Field(min_length=1)
    difficulties: Mapping[str, _Text] = Field(min_length=1)
    forms: Mapping[str, _Text] = Field(min_length=1)
    typings: Mapping[str, _Text] = Field(min_length=1)


def parse_examples(path: Path, content: bytes) -> tuple[Example, ...]:
    """Worked examples, a JSON object a line. Raises JobError naming file, row and field."""
    found = []
    for number, line in enumerate(decode(path, content).split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}: row {number}"
        try:
            example = Example.model_validate(json.loads(line))
        except ValidationError as exc:
            raise JobError(f"{place}: {_first(exc)}", "The shipped examples.jsonl shows the form.") from exc
        except (ValueError, RecursionError) as exc:
            raise JobError(f"{place}: not a JSON object: {exc}.", "Each line is one JSON object.") from exc
        if example.config.character not in (*example.candidates, NONE):
            what = "field config.Character: it is not among the candidates"
            raise JobError(f"{place}: {what}.", "Copy one of them word for word, or write none.")
        try:
            language(example.requirement.language)
        except JobError as exc:
            raise JobError(f"{place}: field requirement.language: {exc}") from exc
        found.append(example)
    return tuple(found)


@lru_cache(maxsize=8)
def parse_definitions(path: Path, content: bytes) -> Definitions:
    """The definitions in `content`, read from `path`; raises JobError naming file and field."""
    document = parse(decode(path, content), str(path))
    if document.problems:
        raise JobError(document.describe(document.problems[0]))
    try:
        return Definitions.model_validate(document.data)
    except ValidationError as exc:
        raise JobError(f"{path}: {_first(exc)}", "Copy the shipped definitions.yaml and edit its sentences.") from exc


def _first(exc: ValidationError) -> str:
    error = exc.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in error["loc"])
    return f"field {field}: {error['msg']}." if field else f"{error['msg']}."


@dataclass(frozen=True, slots=True)
class SystemPart:
    """What is the same for every call of a run: the messages of `system.j2` (none without one) and its values."""

    messages: Messages
    values: Mapping[str, Any]


def prompt_folder(task: str) -> Path:
    return shipped("prompts", task)


class Prompts(PromptFolder):
    """The templates of the retrieval task with their examples and definitions."""

    def __init__(self, folder: Path, files: Mapping[str, bytes]) -> None:
        super().__init__(folder, files)
        self.examples = parse_examples(folder / "examples.jsonl", files["examples.jsonl"])
        self.definitions = parse_definitions(folder / "definitions.yaml", files["definitions.yaml"])
        self.styles = tuple(decode(folder / STYLES, files.get(STYLES, b"")).split("\n")) if STYLES in files else ()
        self.more: Mapping[str, _Text] = {}
        if SCENARIO[0] in files:
            self.examples += parse_examples(folder / SCENARIO[1], files[SCENARIO[1]])
            self.more = parse(decode(folder / SCENARIO[0], files[SCENARIO[0]]), SCENARIO[0]).data
        if ANSWERS in files:
            rows = map(json.loads, decode(folder / ANSWERS, files[ANSWERS]).splitlines())
            known = {row["query"]: row["answer"] for row in rows}
            answers = ((one, one.answer or known.get(one.reply.query)) for one in self.examples)
            quotes = ((one, quoted(one.passage, answer)) for one, answer in answers if answer)
            self.examples = tuple(one.model_copy(update={"answer": quote}) for one, quote in quotes if quote)

    @classmethod
    def load(cls, folder: Path, needed: Sequence[str] = ("config.j2", "query.j2")) -> Self:
        """Reads and tries every file of `folder`; examples and definitions may be the shipped ones. Raises JobError."""
        files = cls.read(folder, needed)
        for name in _FALLBACK:
            files[name] = cls.read(folder if (folder / name).is_file() else prompt_folder("retrieval"), (name,))[name]
        prompts = cls(folder, files)
        prompts._try_out()
        return prompts

    def with_more(self, names: Sequence[str], files: Mapping[str, bytes]) -> Self:
        """The prompts with these files of the folder `more`, and others that are given. Raises JobError.

        Templates are kept as `more-NAME`. A folder of the user's own may lack any of them: then the shipped ones count.
        """
        own, ours = self.folder / "more", prompt_folder("retrieval") / "more"
        found = {name: self.read(own if (own / name).is_file() else ours, (name,))[name] for name in names}
        named = {f"more-{name}" if name in MORE else name: content for name, content in found.items()}
        return type(self)(self.folder, {**self.files, **named, **files})

    def system(
        self,
        types: Mapping[str, str],
        difficulties: Mapping[str, str],
        guidance: str | None,
        *,
        forms: Collection[str] = (),
        typings: Collection[str] = (),
        personas: bool = True,
        choices: Sequence[str] = CHOICES,
    ) -> SystemPart:
        """The part that never varies within a run, from name → meaning of the job's question types and difficulties.

        `difficulties` is empty where the job asks for none, `personas` False where it has none, `choices` are the keys
        that the model chooses in stage one, `forms` and `typings` the names that the job may ask for. Examples of what
        the job does not ask for are left out. Raises JobError where the template fails.
        """
        fitting = [each for each in self.examples if each.config.question_type in types]
        if difficulties:
            fitting = [each for each in fitting if each.config.difficulty in difficulties]
        fitting = [each for each in fitting if each.form in {*forms, PLAIN}]
        if typings:
            fitting = [each for each in fitting if each.typing in typings]
        known = self.definitions
        values = {
            "types": tuple(types.items()),
            "levels": tuple(difficulties.items()),
            "forms": tuple((name, what) for name, what in known.forms.items() if name in forms and name != PLAIN),
            "typings": tuple((name, what) for name, what in known.typings.items() if name in typings),
            "guidance": guidance or "",
            "personas": personas,
            "choices": tuple(choices),
            "examples": tuple(_example_values(example, choices, answer=ANSWERS in self.files) for example in fitting),
        }
        messages = self.system_messages(values)
        if f"more-{MORE[0]}" in self._templates:
            asked = {"answer": ANSWERS in self.files, "styles": self.styles}
            more = self._templates.render(f"more-{MORE[0]}", values | asked).rstrip("\n")
            (role, text), *rest = messages or (("system", ""),)
            messages = ((role, f"{text}\n{more}".strip("\n")), *rest)
        return SystemPart(messages, MappingProxyType(values))

    def asks_for(self, variable: str) -> bool:
        """Whether any template uses this variable."""
        return any(self._templates.uses(name, variable) for name in ("system.j2", "config.j2", "query.j2"))

    def config_messages(self, system: SystemPart, inputs: ConfigInputs, passage_text: str) -> Messages:
        values = {**system.values, **_config_values(inputs, passage_text)}
        return system.messages + self._templates.messages("config.j2", values)

    def query_messages(
        self, system: SystemPart, inputs: QueryInputs, passage_text: str, length: str, spoken: str
    ) -> Messages:
        """Stage two's messages; `length` is a phrase such as "8 to 24 words", `spoken` the language in English."""
        values = {**system.values, **_query_values(system, inputs, passage_text, length, spoken)}
        messages = system.messages + self._templates.messages("query.j2", values)
        if f"more-{MORE[1]}" in self._templates:
            asked = {"answer": inputs.answer, "styles": tuple(map(_clean, inputs.styles))}
            more = self._templates.render(f"more-{MORE[1]}", values | asked).strip("\n")
            *before, (role, text) = messages
            messages = (*before, (role, f"{text}\n{more}" if more else text))
        return messages

    def _try_out(self) -> None:
        """Finds at load what would fail at the first call, so that `synth check` sees it."""
        types, levels = self.definitions.question_types, self.definitions.difficulties
        candidates = Candidates(Passage(0, "0", "passage", "en", "sample", "title"), ("persona",), (1.0,))
        config = QueryConfig("persona", next(iter(types)), next(iter(levels)))
        asked = ConfigInputs(candidates, tuple(types), tuple(levels), (config,))
        wanted = QueryInputs(candidates, config, Requirement("en", 3, 9, "words"), ("query",))
        names = dict.fromkeys(_SYSTEM_NAMES, ())
        length, spoken = "3 to 9 words", "English"
        values = {
            "system.j2": {},
            "config.j2": _config_values(asked, "passage"),
            "query.j2": _query_values(SystemPart((), names), wanted, "passage", length, spoken),
        }
        for name in filter(self._templates.__contains__, values):
            self._templates.check_names(name, names | values[name], ("passage",) if values[name] else ())
        system = self.system(types, levels, "guidance")
        self.config_messages(system, asked, "passage")
        self.query_messages(system, wanted, "passage", length, spoken)


def _clean(text: str | None) -> str:
    return neutralise(text)[0] if text else ""


def _choice(config: QueryConfig | _Config, personas: Sequence[str], keys: Sequence[str] = CHOICES) -> str:
    """A configuration as the model writes it: the character by its letter among `personas`."""
    letter = dict(zip(reversed(personas), reversed(letters(len(personas))), strict=True)).get(config.character or "")
    letter = letter or (NONE if personas else None)
    named = {"Character": letter, "Question_Type": config.question_type, "Difficulty": config.difficulty}
    return json.dumps({key: value for key, value in named.items() if value and key in keys}, ensure_ascii=False)


def _lettered(personas: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple(zip(letters(len(personas)), map(_clean, personas), strict=True))


def _example_values(example: Example, choices: Sequence[str], *, answer: bool) -> dict[str, Any]:
    spoken = language(example.requirement.language)
    reply = {"Query": _clean(example.reply.query)}
    return {
        "passage": _clean(example.passage),
        "candidates": _lettered(example.candidates),
        "character": "" if example.config.character == NONE else _clean(example.config.character),
        "used": tuple(_choice(config, example.candidates, choices) for config in example.used if choices),
        "question_type": example.config.question_type,
        "difficulty": example.config.difficulty,
        "form": "" if example.form == PLAIN else example.form,
        "typing": example.typing,
        "language": spoken.name,
        "length": length_phrase(spoken, *example.requirement.length[:2]),
        "written": tuple(map(_clean, example.written)),
        "config_reply": _choice(example.config, example.candidates, choices),
        "query_reply": json.dumps(reply | ({"Answer": _clean(example.answer)} if answer else {}), ensure_ascii=False),
    }


def _config_values(inputs: ConfigInputs, passage_text: str) -> dict[str, Any]:
    return {
        "passage": passage_text,
        "title": _clean(inputs.candidates.passage.title),
        "candidates": _lettered(inputs.candidates.personas),
        "question_types": inputs.question_types,
        "difficulties": inputs.difficulties,
        "used": tuple(_choice(config, inputs.candidates.personas) for config in inputs.used),
        "may_end": inputs.may_end,
        "typing": inputs.typing,
    }


def _query_values(
    system: SystemPart, inputs: QueryInputs, passage_text: str, length: str, spoken: str
) -> dict[str, Any]:
    config = inputs.config
    return {
        "passage": passage_text,
        "title": _clean(inputs.candidates.passage.title),
        "character": _clean(config.character),
        "question_type": config.question_type,
        "type_meaning": dict(system.values["types"]).get(config.question_type, ""),
        "difficulty": config.difficulty or "",
        "level_meaning": dict(system.values["levels"]).get(config.difficulty, ""),
        "form": "" if inputs.form == PLAIN else inputs.form,
        "form_meaning": dict(system.values["forms"]).get(inputs.form, ""),
        "typing": inputs.typing,
        "typing_meaning": dict(system.values["typings"]).get(inputs.typing, ""),
        "written": tuple(map(_clean, inputs.written)),
        "length": length,
        "language": spoken,
    }


# Schemas use only type, enum, required, additionalProperties and maxLength: xgrammar refuses more, and refuses it late.


def config_schema(inputs: ConfigInputs) -> dict[str, Any]:
    """Schema of stage one's reply, one for each number of candidates: a key with nothing to choose is left out."""
    people = inputs.candidates.personas
    choices = inputs.offered | ({"Character": (*letters(len(people)), NONE)} if people else {})
    return object_schema(
        {key: {"type": "string", "enum": list(choices[key])} for key in CHOICES if len(choices[key]) > 1}
    )


def query_chars(asked: Requirement) -> int:
    """Most characters of a query of the length asked: ample, and no room to run on. A word gets 12 with its space."""
    return asked.length_max * (12 if asked.length_unit == "words" else 3) + 24


ANSWER_CHARS = 600
"""Most characters of a quoted answer."""


def query_schema(max_chars: int, *, answer: bool = False) -> dict[str, Any]:
    """Schema of stage two's reply; with `answer` the words of the passage that answer the query follow it."""
    quote = {"Answer": {"type": "string", "maxLength": ANSWER_CHARS}} if answer else {}
    return object_schema({"Query": {"type": "string", "maxLength": max_chars}} | quote)


def object_schema(properties: dict[str, Any]) -> dict[str, Any]:
    """Schema of an object that has all of these keys, in this order, and no other."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
