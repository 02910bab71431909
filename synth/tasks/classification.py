"""The classification task: each passage gets its label of a closed set, and labels that might mislead.

Where the job gives no labels, the model proposes them once for the run, from a sample of the passages. With `write` no
passage is labelled: for a drawn label a text is written, and a passage shows only what the texts are like.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, RootModel, StringConstraints, ValidationError, model_validator

from synth.document import parse
from synth.errors import JobError, UnusableReply
from synth.languages import language, length_phrase
from synth.languages.words import fold, in_own_unit
from synth.measures import length_error
from synth.prompts import PromptFolder, query_chars
from synth.prompts.templates import decode
from synth.replies import echo_keys, read_fields
from synth.replies.objects import read_object
from synth.shipped import find
from synth.stage import ChatReply, JsonSchema, Stage, TextInputs
from synth.tasks._options import LengthRanges, Weight, Weights, draw, shares
from synth.tasks._task import Ask, Draw, Item, Preparation, Requests, Task, TaskSettings
from synth.types import Candidates, Layout, Passage, QueryConfig, Requirement

__all__ = ["Classification"]

FEWEST, MOST = 4, 20
"""Labels that a model may propose."""
EXCERPT = 600
"""Characters of a passage that the prompts for a proposal and for a text show."""
ECHO = 20
"""A task of fewer characters may well coincide with a part of the prompt."""
RUN_ON = 1.0
"""Beyond this length error a text cannot be used."""
CLARITY = {"clear": 0.6, "some_effort": 0.2, "ambiguous": 0.2}
DIFFICULTIES = {"high_school": 1.0, "university": 1.0, "phd": 1.0}
LENGTHS = [
    {"range": [4, 12], "weight": 0.15},
    {"range": [12, 50], "weight": 0.35},
    {"range": [50, 100], "weight": 0.3},
    {"range": [100, 200], "weight": 0.2},
]

_FILE = "labels.yaml"
"""Name of the job's file of labels among the files of its prompts."""
_LOOSE = re.compile(r"[\s_\-/]+")
_WORD = re.compile(r"[^\W_]+")


def _loose(label: str) -> str:
    """What labels are compared by: no two of a set are the same in it."""
    return _LOOSE.sub("", fold(label))


class LabelOption(Stage):
    """What a label means, and with `write` how often it is drawn."""

    means: str = ""
    weight: Weight = 1.0


Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=120, pattern=r"^[^\x00-\x1f]+$")
]


def _label_option(value: object) -> object:
    return {"means": value or ""} if value is None or isinstance(value, str) else value


class Labels(RootModel[dict[Name, Annotated[LabelOption, BeforeValidator(_label_option)]]]):
    """A closed set of labels with their meanings, in the order of the prompt; a list of names will do."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            if twice := [name for n, name in enumerate(value) if name in value[:n]]:
                raise ValueError(f"names the label {twice[0]!r} twice")
            return dict.fromkeys(value)
        return value

    @model_validator(mode="after")
    def _distinct(self) -> Labels:
        known: dict[str, str] = {}
        for name in self.root:
            if (other := known.setdefault(_loose(name), name)) != name:
                raise ValueError(f"the labels {other!r} and {name!r} differ in case, spaces or marks only")
        if len(self.root) < 2:  # noqa: PLR2004 - one label leaves no choice
            raise ValueError("needs two labels or more")
        if not any(option.weight for option in self.root.values()):
            raise ValueError("needs at least one weight above 0")
        return self


class Schema(Stage):
    """The task in a sentence, and its labels: what a file of labels holds, and what a model proposes."""

    task: str = ""
    labels: Labels

    @property
    def known(self) -> dict[str, str]:
        """The labels by what they are compared by."""
        return {_loose(name): name for name in self.labels.root}


def _read_schema(path: Path, content: bytes) -> Schema:
    """Labels from a YAML or JSON file: name → meaning, `{task, labels}`, or the `prepared.json` of a run."""
    document = parse(decode(path, content), str(path))
    if document.problems:
        raise JobError(document.describe(document.problems[0]))
    data: Any = document.data
    if isinstance(data, dict) and isinstance(data.get("prepared"), dict):
        data = data["prepared"]
    if not (isinstance(data, dict) and isinstance(data.get("labels"), dict | list)):
        data = {"labels": data}
    try:
        return Schema.model_validate(data)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in error["loc"])
        hint = "Give a mapping of name to meaning, or `labels:` with one, or with a list of names."
        raise JobError(f"{path}: field {place}: {error['msg']}.", hint) from exc


class Classification(Task):
    """A label for each passage, out of a closed set that the job gives or the model proposes once for the run.

    `text` is the text that has the label `class_label`: the passage, then `query` is the label; or with `write` the
    `query` that was written.
    """

    columns: ClassVar[Mapping[str, str]] = {
        "text": "large_string",
        "class_label": "string",
        "misleading_labels": "list<string>",
        "clarity": "string",
    }
    layout: ClassVar[Layout] = Layout(
        kind="classification",
        pairs="texts with labels",
        category="text-classification",
        anchor="text",
        target="class_label",
        negatives=("misleading_labels",),
        labels=True,
    )
    mixes: ClassVar[tuple[str, ...]] = ("class_label", "clarity", "difficulty", "query_language", "passage_language")
    scores: ClassVar[tuple[str, ...]] = ("label_margin",)
    prompt_files: ClassVar[tuple[str, ...]] = ("schema.j2", "label.j2", "write.j2")
    prompt_sets: ClassVar[Mapping[str, str]] = {"default": "classification", "small": "classification-small"}

    labels: Labels | str | None = None
    """Names, or name: meaning, or a YAML or JSON file of it; null: the model proposes 4 to 20 once for the run."""
    instruction: str = "Find the label that the text belongs to"
    """The task in one English sentence, for prompts, query vectors and exports; a proposal brings its own."""
    guidance: str | None = None
    """A sentence or two on what the labels are for, such as `by intent, for routing to a team`; part of the prompts."""
    sample: Annotated[int, Field(ge=1, le=200)] = 24
    """Passages, spread over the corpus, that a proposal is made from."""
    misleading: Annotated[int, Field(ge=0, le=20)] = 3
    """Labels that might mislead, for each text."""
    write: bool = False
    """Write a text for a drawn label, with a passage as a specimen of the texts, in place of labelling the passage."""
    lengths: LengthRanges = Field(default=LENGTHS, validate_default=True)
    """With `write`: inclusive ranges of words, by weight; as many characters where no spaces part words."""
    clarity: Weights = Field(default=CLARITY)
    """With `write`: how plainly a text shows its label, by weight: clear, some_effort, ambiguous."""
    difficulties: Weights = Field(default=DIFFICULTIES)
    """With `write`: how much one must know to read it, by weight: high_school, university, phd."""
    prompts: str = "default"
    """`default`, `small` (short, for models below some four billion parameters), or a folder of your own templates."""

    @model_validator(mode="after")
    def _consistent(self) -> Classification:
        if self.queries_per_passage > 1 and not self.write:
            raise ValueError("a passage has one label: queries_per_passage above 1 goes with `write: true`")
        for name, given, allowed in (
            ("clarity", self.clarity, CLARITY),
            ("difficulty", self.difficulties, DIFFICULTIES),
        ):
            if unknown := [each for each in given if each not in allowed]:
                raise ValueError(f"{name} {unknown[0]!r} is not one of {', '.join(allowed)}")
        return self

    @property
    def own_prompts(self) -> bool:
        return super().own_prompts or isinstance(self.labels, str)

    @property
    def prepares_from(self) -> int:
        return self.sample if self.labels is None else 0

    def load_prompts(self, base: Path) -> PromptFolder:
        """The templates, and the file of labels where the job names one. Raises JobError."""
        prompts = super().load_prompts(base)
        if not isinstance(self.labels, str):
            return prompts
        path = find("prompts", self.labels, base)
        try:
            content = path.read_bytes()
        except OSError as exc:
            raise JobError(f"{path}: {exc.strerror}.", "`task.labels` names a YAML or JSON file.") from exc
        _read_schema(path, content)
        return PromptFolder(prompts.folder, {**prompts.files, _FILE: content})

    def begin(self, prompts: PromptFolder, settings: TaskSettings) -> Schema | None:
        """The labels; None while they are proposed."""
        if self.labels is None:
            return None if settings.prepared is None else Schema.model_validate(settings.prepared)
        if isinstance(self.labels, str):
            return _read_schema(prompts.folder / _FILE, prompts.files[_FILE])
        return Schema(labels=self.labels)

    def prepare(self, passages: Sequence[Passage], draw: Draw) -> Preparation:
        """One question: a sentence on the task, and labels that together cover these passages."""
        texts = [draw.text(passage)[:EXCERPT] for passage in passages]
        messages = draw.prompts.messages("schema.j2", {"passages": texts, "guidance": self.guidance or ""})
        shown = echo_keys(content for _, content in messages)

        def read(reply: ChatReply) -> tuple[Schema, bool]:
            return _read_proposal(reply, repair=draw.settings.repair, shown=shown)

        schema: Schema = yield Ask("schema", messages, _PROPOSAL, read, inputs=TextInputs("\n".join(texts)))
        return {"task": schema.task, "labels": {name: each.means for name, each in schema.labels.root.items()}}

    def requests(self, passage: Candidates, draw: Draw) -> Requests:
        """One question: the label and the misleading ones of a passage, or the text for a drawn label."""
        if self.write:
            return (yield from self._text(passage.passage, draw))
        schema: Schema = draw.fixed
        text, names = draw.text(passage.passage), tuple(schema.labels.root)
        wanted = min(self.misleading, len(names) - 1)

        def read(reply: ChatReply) -> tuple[list[str], bool]:
            found, repaired = read_object(reply, ("Label",), repair=draw.settings.repair)
            label = schema.known.get(_loose(str(found.get("Label"))))
            if label is None:
                raise UnusableReply(
                    "enum", f"Label is {str(found.get('Label'))[:100]!r}, not one of the {len(names)} labels"
                )
            return [label, *_misleading(found, schema, label, wanted)], repaired

        values = self._values(schema) | {"passage": text, "title": passage.passage.title or "", "misleading": wanted}
        answer: list[str] = yield Ask(
            "label",
            draw.prompts.messages("label.j2", values),
            _object({"Label": _one_of(names)} | _several_of(names, wanted)),
            read,
            complaint=lambda answer: "misleading" if len(answer) <= wanted else None,
            inputs=TextInputs(text),
        )
        label, *others = answer
        columns = {"text": passage.passage.text, "class_label": label, "misleading_labels": others}
        return Item(label, passage.passage.language, columns=columns)

    def values(self) -> Mapping[str, Sequence[str]]:
        named = {"class_label": tuple(self.labels.root)} if isinstance(self.labels, Labels) else {}
        return named | {"clarity": tuple(CLARITY), "difficulty": tuple(DIFFICULTIES)}

    def asked(self) -> Mapping[str, Mapping[str, float]]:
        """Shares that texts are written in; labels that passages get are nobody's choice."""
        if not self.write:
            return {}
        given = self.labels.root if isinstance(self.labels, Labels) else {}
        labels = {name: option.weight for name, option in given.items()}
        asked = {"class_label": labels, "clarity": self.clarity, "difficulty": self.difficulties}
        return {column: shares(weights) for column, weights in asked.items()}

    def facts(self, prompts: PromptFolder, prepared: Mapping[str, Any] | None) -> Iterable[tuple[str, str]]:
        """The labels, as `synth check` and `synth preview` show them."""
        schema = self.begin(prompts, TaskSettings(0, 0, repair=True, top_k=0, prepared=prepared))
        if schema is None:
            yield "labels", f"{FEWEST} to {MOST}, which the model proposes once from {self.sample} passages"
            return
        if schema.task:
            yield "task", schema.task
        for n, (name, option) in enumerate(schema.labels.root.items()):
            yield "" if n else "labels", f"{name}: {option.means}" if option.means else name

    def _values(self, schema: Schema) -> dict[str, Any]:
        return {
            "task": schema.task or self.instruction,
            "guidance": self.guidance or "",
            "labels": tuple((name, option.means) for name, option in schema.labels.root.items()),
        }

    def _text(self, specimen: Passage, item: Draw) -> Requests:
        schema: Schema = item.fixed
        rng = item.random("text")
        label = draw({name: option.weight for name, option in schema.labels.root.items()}, rng)
        others = tuple(name for name in schema.labels.root if name != label)
        chosen = rng.choices(self.lengths, [each.weight for each in self.lengths])[0]
        clarity, level = draw(self.clarity, rng), draw(self.difficulties, rng)
        spoken = language("en" if specimen.language == "und" else specimen.language)
        asked = Requirement(spoken.code, *in_own_unit(spoken, *chosen.range))
        phrase, wanted = length_phrase(spoken, *chosen.range), min(self.misleading, len(others))
        text = item.text(specimen)[:EXCERPT]
        values = self._values(schema) | {
            "label": label,
            "means": schema.labels.root[label].means,
            "specimen": text,
            "written": tuple(each.text for each in item.written),
            "language": spoken.name,
            "length": phrase,
            "clarity": clarity,
            "difficulty": level,
            "misleading": wanted,
        }
        messages = item.prompts.messages("write.j2", values)
        shown = echo_keys(content for _, content in messages)
        chars = query_chars(asked)

        def read(reply: ChatReply) -> tuple[tuple[str, list[str]], bool]:
            repair, written = item.settings.repair, values["written"]
            fields, repaired = read_fields(reply, {"Text": None}, repair=repair, echoes=shown, written=written)
            if length_error(fields["Text"], asked) > RUN_ON or len(fields["Text"]) >= chars - 1:
                raise UnusableReply("run_on", f"asked for {phrase}: {fields['Text'][:100]!r}")
            if _names(fields["Text"], label, spaced=asked.length_unit == "words"):
                raise UnusableReply("label_in_text", f"the words of {label!r} are in {fields['Text'][:100]!r}")
            found, _ = read_object(reply, ("Text",), repair=repair)
            return (fields["Text"], _misleading(found, schema, label, wanted)), repaired

        answer: tuple[str, list[str]] = yield Ask(
            "text",
            messages,
            _object({"Text": {"type": "string", "maxLength": chars}} | _several_of(others, wanted)),
            read,
            complaint=lambda answer: "misleading" if len(answer[1]) < wanted else None,
            inputs=TextInputs(text),
        )
        columns = {"text": answer[0], "class_label": label, "misleading_labels": answer[1], "clarity": clarity}
        return Item(answer[0], spoken.code, QueryConfig(None, None, level), asked, columns)


def _misleading(found: Mapping[str, object], schema: Schema, label: str, wanted: int) -> list[str]:
    """The labels under `Misleading` that are of the set, each once and without the label itself."""
    given = found.get("Misleading")
    named = (
        [schema.known.get(_loose(each)) for each in given if isinstance(each, str)] if isinstance(given, list) else []
    )
    return list(dict.fromkeys(each for each in named if each is not None and each != label))[:wanted]


def _names(text: str, label: str, *, spaced: bool) -> bool:
    """Whether all words of a label stand in a text; where no spaces part words, the label itself."""
    if not spaced:
        return _loose(label) in _loose(text)
    return {*_WORD.findall(fold(label.replace("_", " ")))} <= {*_WORD.findall(fold(text))}


def _read_proposal(reply: ChatReply, *, repair: bool, shown: frozenset[str]) -> tuple[Schema, bool]:
    """A task and its labels; a label that comes twice counts once. Raises UnusableReply."""
    found, repaired = read_object(reply, ("Task", "Labels"), repair=repair)
    task, given = found.get("Task"), found.get("Labels")
    if not isinstance(task, str) or not task.strip() or not isinstance(given, list):
        raise UnusableReply("key", f"no Task and Labels among {json.dumps(found)[:100]}")
    if len(task) >= ECHO and any(fold(task) in content for content in shown):
        raise UnusableReply("echo", f"the task repeats the prompt: {task[:100]!r}")
    labels: dict[str, tuple[str, str]] = {}
    for each in given:
        if isinstance(each, dict) and isinstance(each.get("Label"), str) and isinstance(each.get("Definition"), str):
            labels.setdefault(_loose(each["Label"]), (each["Label"], each["Definition"].strip()))
    try:
        schema = Schema.model_validate({"task": task.strip(), "labels": dict(labels.values())})
    except ValidationError as exc:
        raise UnusableReply("labels", str(exc.errors(include_url=False, include_input=False)[0]["msg"])) from exc
    if not FEWEST <= len(schema.labels.root) <= MOST or not all(each.means for each in schema.labels.root.values()):
        what = f"{len(schema.labels.root)} different labels: {', '.join(schema.labels.root)[:100]}"
        raise UnusableReply("labels", f"asked for {FEWEST} to {MOST} labels with a definition each, got {what}")
    return schema, repaired


def _one_of(names: Sequence[str]) -> JsonSchema:
    return {"type": "string", "enum": list(names)}


def _several_of(names: Sequence[str], count: int) -> dict[str, JsonSchema]:
    listed = {"type": "array", "items": _one_of(names), "minItems": count, "maxItems": count}
    return {"Misleading": listed} if count else {}


def _object(properties: Mapping[str, JsonSchema]) -> JsonSchema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_PROPOSAL = _object(
    {
        "Task": {"type": "string", "maxLength": 160},
        "Labels": {
            "type": "array",
            "minItems": FEWEST,
            "maxItems": MOST,
            "items": _object(
                {"Label": {"type": "string", "maxLength": 40}, "Definition": {"type": "string", "maxLength": 140}}
            ),
        },
    }
)
