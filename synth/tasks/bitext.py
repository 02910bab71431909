"""The bitext task: a part of a passage and its translation, for some with a second one that is wrong in one point.

Drawn for each item: the part, the language by that of the passage, how closely the translation keeps to the wording,
and the type of the error, if any. Where the prompts have a `config.j2`, stage one settles what the error is about.
Stage two writes the texts.

`system.j2` sees `examples`, `config.j2` and `texts.j2` also `text`, `source` and `target` (languages), `rendering`,
`error_type` (empty without an error), `substitute` (another type, where the text has nothing for the first) and
`change` (what stage one decided).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from synth.errors import UnusableReply
from synth.languages import count_words, language, numbers
from synth.languages.translation import most_characters
from synth.languages.words import fold
from synth.prompts import PromptFolder, neutralise, object_schema
from synth.replies import echo_keys, read_fields
from synth.stage import ChatReply, TextInputs
from synth.tasks._options import OTHER, SAME, UNITS, Languages, Weights, shares, unit_of
from synth.tasks._options import draw as choose
from synth.tasks._task import Ask, Draw, Item, Requests, Task, TaskSettings
from synth.types import Candidates, Layout

__all__ = ["Bitext"]

Error = Literal["number", "entity", "negation", "omission", "addition", "term"]
ERRORS = ("number", "entity", "negation", "omission", "addition", "term")
ALWAYS = frozenset({"negation", "addition", "term"})
"""Errors that every text allows."""
RENDERINGS = ("close", "free")
_WORDS = 8
"""Words of a text from which something can be left out."""
_CASED = frozenset({"Latn", "Cyrl", "Grek", "Armn"})
_NAME = re.compile(r"(?<=\w\W)[^\W\d_]\w*|(?<=\w\W\W)[^\W\d_]\w*")
"""A word that is not the first; names among them have capitals in scripts that have any."""
_CHANGE = 200
"""Most characters of what stage one says of the error."""


class Example(BaseModel):
    """One worked example; without `error_type` it has no wrong translation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    target: str
    rendering: Literal["close", "free"] = "close"
    text: str
    translation: str
    error_type: Error | Literal[""] = ""
    change: str = ""
    wrong: str = ""

    def values(self) -> Mapping[str, str]:
        """What a template sees of it: languages by name, and the replies of both stages as they are to look."""
        texts = {"Translation": self.translation} | ({"Wrong": self.wrong} if self.error_type else {})
        shown = {
            **self.model_dump(),
            "source": language(self.source).name,
            "target": language(self.target).name,
            "change_reply": json.dumps({"Change": self.change}, ensure_ascii=False),
            "reply": json.dumps(texts, ensure_ascii=False),
        }
        return {name: neutralise(value)[0] for name, value in shown.items()}


@dataclass(frozen=True, slots=True)
class _Fixed:
    examples: tuple[Mapping[str, str], ...]
    echoes: frozenset[str]
    asks_change: bool
    """Whether the prompts have a stage one."""


class Bitext(Task):
    """Translations: a sentence of a passage and the same in another language; for a share also a wrong translation.

    A row has the part of the passage as `passage`, its translation as `query`, and a minimally wrong one as `wrong`,
    with its `error_type`; both are null where none was asked for, or the model wrote the right one again. The score
    `bitext_checks` says what a program can see of all three.
    """

    columns: ClassVar[Mapping[str, str]] = {
        "unit": "string",
        "rendering": "string",
        "wrong": "large_string",
        "error_type": "string",
    }
    layout: ClassVar[Layout] = Layout(
        kind="bitext",
        pairs="translations",
        category="translation",
        anchor="passage",
        negatives=("wrong",),
        symmetric=True,
    )
    scores: ClassVar[tuple[str, ...]] = ("cosine", "bitext_checks", "language")
    keep: ClassVar[Mapping[str, Any]] = {
        "languages_ok": True,
        "length_ratio_ok": True,
        "numbers_ok": True,
        "latin_ok": True,
        "wrong_ok": True,
    }
    mixes: ClassVar[tuple[str, ...]] = ("query_language", "passage_language", "error_type", "rendering", "unit")
    prompt_files: ClassVar[tuple[str, ...]] = ("texts.j2", "examples.jsonl")
    prompt_sets: ClassVar[Mapping[str, str]] = {"default": "bitext", "small": "bitext-small"}

    languages: Languages = Languages.model_validate(
        dict.fromkeys(("en", "zh", "es", "ar", "fr", "de", "ja", "pt", "ru", "hi"), 1.0)
    )
    """Languages to translate into by weight, flat or by passage language; the passage's own is left out."""
    wrong: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The share of items that also get a wrong translation."""
    errors: Weights = Field(default={**dict.fromkeys(ERRORS, 2.0), "omission": 1.0, "addition": 1.0})
    """What is wrong in it, by weight, among the errors that the text allows: a number error needs a number."""
    renderings: Weights = Field(default={"close": 0.6, "free": 0.4})
    """`close` to the wording of the text, or `free`, which is harder to match word by word; by weight."""
    units: Weights = Field(default={"sentence": 0.85, "opening": 0.15})
    """What of a passage is translated, by weight: a `sentence`, its `opening` (60 words at most), or the `passage`."""
    instruction: str = "Retrieve parallel sentences"
    """One English sentence on what is parallel: for query vectors, rerankers and exports."""
    prompts: str = "default"
    """`default`, `small` (short, for models below some four billion parameters), or a folder of your own templates."""

    @model_validator(mode="after")
    def _known(self) -> Bitext:
        named = {
            "error": (self.errors, ERRORS),
            "rendering": (self.renderings, RENDERINGS),
            "unit": (self.units, UNITS),
        }
        for what, (given, known) in named.items():
            if unknown := [name for name in given if name not in known]:
                raise ValueError(f"{what} {unknown[0]!r} is not one of {', '.join(known)}")
        if any(SAME in weights for weights in self.languages.root.values()):
            raise ValueError("languages: `same` cannot be translated into; name other languages")
        return self

    def begin(self, prompts: PromptFolder, settings: TaskSettings) -> _Fixed:  # noqa: ARG002 - the seam's signature
        """The worked examples. Both stages are rendered once: a mistake shows at the start. Raises JobError."""
        numbers.require()
        examples = prompts.rows("examples.jsonl", Example)
        texts = (text for each in examples for text in (each.text, each.translation, each.wrong) if text)
        fixed = _Fixed(tuple(each.values() for each in examples), echo_keys(texts), "config.j2" in prompts.files)
        sample = {**dict.fromkeys(("text", "source", "target", "rendering", "error_type", "substitute", "change"), "x")}
        for name in ("config.j2", "texts.j2") if fixed.asks_change else ("texts.j2",):
            for error in ("", "number"):
                prompts.messages(name, sample | {"error_type": error, "examples": fixed.examples})
        return fixed

    def requests(self, passage: Candidates, draw: Draw) -> Requests:
        """One call for a translation; for a wrong one too, the call before it settles the error."""
        rng, record, fixed = draw.random("bitext"), passage.passage, draw.fixed
        unit, rendering = choose(self.units, rng), choose(self.renderings, rng)
        code = self._target(record.language, unit, draw)
        text = unit_of(record, unit, draw)
        possible = {name: weight for name, weight in self.errors.items() if _allows(text, record.language, name)}
        error = choose(possible, rng) if rng.random() < self.wrong and any(possible.values()) else ""
        values = {
            "text": draw.text(replace(record, text=text)),
            "source": language(record.language).name,
            "target": language(code).name,
            "rendering": rendering,
            "error_type": error,
            "substitute": "",
            "change": "",
            "examples": fixed.examples,
        }
        if error and fixed.asks_change:
            others = {name: weight for name, weight in possible.items() if name in ALWAYS and weight > 0}
            values["substitute"] = choose(others, rng) if error not in ALWAYS and others else ""
            settled: dict[str, str] = yield self._ask_change(values, draw)
            error = values["error_type"] = settled.get("Error_Type", error)
            values["change"] = neutralise(settled["Change"])[0]
        found: dict[str, str] = yield self._ask_texts(text, most_characters(text, record.language, code), values, draw)
        wrong = found.get("Wrong")
        columns = {"unit": unit, "rendering": rendering, "wrong": wrong, "error_type": error if wrong else None}
        return Item(found["Translation"], code, columns=columns, part=text)

    def values(self) -> Mapping[str, Sequence[str]]:
        return {"error_type": ERRORS, "rendering": RENDERINGS, "unit": UNITS}

    def asked(self) -> Mapping[str, Mapping[str, float]]:
        return {"rendering": shares(self.renderings), "unit": shares(self.units)}

    def query_languages(self, passage_language: str) -> Sequence[str]:
        """Languages with a weight above 0 for passages in this one; none for one of no known language."""
        rules = self.languages.root
        weights = rules.get(passage_language) or rules.get(OTHER) or {}
        told = passage_language != "und"
        return [name for name, weight in weights.items() if told and weight > 0 and name != passage_language]

    def _target(self, spoken: str, unit: str, draw: Draw) -> str:
        """The language of this item; the slots of a whole passage get different ones as long as there are some."""
        if spoken == "und":
            raise UnusableReply("no_language", "the passage's language is not known; corpus.language can name it")
        rules = self.languages.root
        weights = rules.get(spoken) or rules.get(OTHER) or {}
        left = {name: weights[name] for name in self.query_languages(spoken)}
        if not left:
            raise UnusableReply("no_language", f"task.languages has no language to translate {spoken!r} into")
        for slot in range(0 if unit == "passage" else draw.slot, draw.slot + 1):
            chosen = choose(left, replace(draw, slot=slot).random("language"))
            left = {name: weight for name, weight in left.items() if name != chosen} or left
        return chosen

    def _ask_change(self, values: Mapping[str, Any], draw: Draw) -> Ask[dict[str, str]]:
        offered = [each for each in (values["error_type"], values["substitute"]) if each]
        fields: dict[str, Sequence[str] | None] = {"Error_Type": offered} if len(offered) > 1 else {}
        fields["Change"] = None
        return Ask(
            stage="config",
            messages=draw.prompts.messages("config.j2", values),
            schema=object_schema(
                {
                    name: {"type": "string", **({"enum": choices} if choices else {"maxLength": _CHANGE})}
                    for name, choices in fields.items()
                }
            ),
            read=lambda reply: read_fields(reply, fields, repair=draw.settings.repair),
            inputs=TextInputs(values["text"]),
        )

    def _ask_texts(self, text: str, chars: int, values: Mapping[str, Any], draw: Draw) -> Ask[dict[str, str]]:
        names = ("Translation", "Wrong") if values["error_type"] else ("Translation",)

        def read(reply: ChatReply) -> tuple[dict[str, str], bool]:
            found, repaired = dict[str, str](), False
            for name in names:
                taken = [*found.values(), *(each.text for each in draw.written)]
                try:
                    more, altered = read_fields(
                        reply, {name: None}, repair=draw.settings.repair, echoes=draw.fixed.echoes, written=taken
                    )
                except UnusableReply as exc:
                    if name == "Wrong" and exc.reason == "duplicate":
                        break  # the right translation once more: the pair is of use without it
                    raise
                if len(more[name]) >= chars - 1:
                    raise UnusableReply("run_on", f"{name} fills all of its {chars} characters: {more[name][:100]!r}")
                found, repaired = found | more, repaired or altered
            return found, repaired

        def complaint(found: dict[str, str]) -> str | None:
            if fold(found["Translation"]) == fold(text):
                return "untranslated"
            return "nothing_wrong" if len(found) < len(names) else None

        return Ask(
            stage="texts",
            messages=draw.prompts.messages("texts.j2", values),
            schema=object_schema({name: {"type": "string", "maxLength": chars} for name in names}),
            read=read,
            complaint=complaint,
            inputs=TextInputs(values["text"]),
        )


def _allows(text: str, code: str, error: str) -> bool:
    if error == "number":
        return numbers.has_number(text, code)
    if error == "omission":
        return count_words(text, code) >= _WORDS
    cased = language(code).script in _CASED
    return error != "entity" or not cased or any(word[0].isupper() for word in _NAME.findall(text))
