"""The task of semantic textual similarity: a text of the corpus and a partner that is about as alike as asked.

Grade and relation are drawn for each item, in combinations that exist (a paraphrase is not graded 1). The grade is
what was asked; what came is for the scorers to measure. An item may be a triple: then a second text, `far`, is asked
for that is less alike than the partner.

`write.j2` and `system.j2` see `text`, `language`, `length`, `relation`, `grade`, `substitute` (what to do where the
relation is impossible, empty without), `far_relation` and `far_grade` (empty and 0 in a pair), and `examples`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from synth.errors import UnusableReply
from synth.languages import count_words, language, length_phrase
from synth.languages.words import in_own_unit
from synth.measures import length_error
from synth.prompts import PromptFolder, neutralise, object_schema, query_chars
from synth.replies import echo_keys, read_fields
from synth.stage import ChatReply, TextInputs
from synth.tasks._options import UNITS, Weights, shares, unit_of
from synth.tasks._options import draw as choose
from synth.tasks._task import Ask, Draw, Item, Requests, Task, TaskSettings
from synth.types import Candidates, Layout, Requirement

__all__ = ["Sts"]

Relation = Literal["paraphrase", "specialise", "generalise", "change_detail", "negate", "swap_roles", "same_topic"]
Combinations = dict[tuple[str, float], float]
"""Relation and grade → share of the items."""
GRADES: Mapping[str, tuple[float, ...]] = {
    "paraphrase": (4.0, 4.5, 5.0),
    "specialise": (3.0, 3.5, 4.0, 4.5),
    "generalise": (3.0, 3.5, 4.0, 4.5),
    "change_detail": (2.5, 3.0, 3.5),
    "negate": (2.0, 2.5, 3.0),
    "swap_roles": (2.0, 2.5, 3.0),
    "same_topic": (1.0, 1.5, 2.0, 2.5),
}
"""The grades that a partner in each relation can have."""
ALWAYS = frozenset({"paraphrase", "specialise", "generalise", "same_topic"})
"""Relations that every text allows; the others need a claim, a detail, or two parties."""
NEAR, FAR = 4.0, 3.0
"""The least grade of the nearer text of a triple, and the most of the further one."""
_NUMBER = re.compile(r"\d+(\.\d+)?")
_FEWEST = 4
"""Words that a length is reckoned from at least."""
RUN_ON = 1.0
"""Beyond this length error, twice the most that was asked, a text cannot be used."""


class Example(BaseModel):
    """One worked example: a text with its partner, in a triple with the further text too."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str
    language: str
    relation: Relation
    grade: float
    partner: str
    far: str = ""
    far_relation: Relation | Literal[""] = ""
    far_grade: float = 0.0


@dataclass(frozen=True, slots=True)
class _Drawn:
    relation: str
    grade: float
    substitute: str = ""
    far_relation: str = ""
    far_grade: float = 0.0

    def values(self, text: str, spoken: str, length: str) -> dict[str, Any]:
        """What a template sees of it."""
        return {**asdict(self), "text": text, "language": spoken, "length": length}


@dataclass(frozen=True, slots=True)
class _Fixed:
    pairs: Combinations
    nears: Combinations
    fars: Combinations
    examples: tuple[Mapping[str, Any], ...]
    echoes: frozenset[str]
    substitutes: bool
    """Whether the templates say what to do where a relation is impossible."""


def _named(grades: object) -> object:
    """Weights by grade as text, whether a job file writes 4, 4.0 or "4"."""
    if not isinstance(grades, dict):
        return grades
    return {f"{float(key):g}" if _NUMBER.fullmatch(str(key)) else key: weight for key, weight in grades.items()}


class Sts(Task):
    """Similar texts: a sentence of a passage and a partner at a drawn grade from 1 to 5; some with a text further away.

    `grade` and `relation` say what was asked, scores what came: cosine, a reranker, a judge; `triple_order` whether the
    partner is nearer than the further text.
    """

    columns: ClassVar[Mapping[str, str]] = {
        "unit": "string",
        "relation": "string",
        "grade": "double",
        "far": "string",
        "far_relation": "string",
        "far_grade": "double",
    }
    layout: ClassVar[Layout] = Layout(
        kind="sts",
        pairs="pairs of similar texts",
        category="sentence-similarity",
        anchor="passage",
        negatives=("far",),
        score="grade",
        positive_from=NEAR,
        symmetric=True,
    )
    scores: ClassVar[tuple[str, ...]] = ("cosine", "triple_order", "language", "length", "copying")
    keep: ClassVar[Mapping[str, Any]] = {"triple_order": {"above": 0}}
    mixes: ClassVar[tuple[str, ...]] = ("relation", "grade", "unit", "passage_language")
    prompt_files: ClassVar[tuple[str, ...]] = ("write.j2", "examples.jsonl")
    prompt_sets: ClassVar[Mapping[str, str]] = {"default": "sts", "small": "sts-small"}

    relations: Weights = Field(
        default={
            "paraphrase": 4.0,
            "specialise": 2.0,
            "generalise": 2.0,
            "change_detail": 2.0,
            "negate": 1.0,
            "swap_roles": 1.0,
            "same_topic": 3.0,
        }
    )
    """How the partner relates to the text, by weight."""
    grades: Annotated[Weights, BeforeValidator(_named)] = Field(default={f"{n / 2:g}": 1.0 for n in range(2, 11)})
    """Similarity by weight, 1 to 5 in halves, among the grades that the relation allows."""
    triples: Annotated[float, Field(ge=0, le=1)] = 0.3
    """The share of items with a further text: the partner then has a grade of 4 or more, the further one 3 or less."""
    units: Weights = Field(default={"sentence": 0.85, "opening": 0.15})
    """What of a passage is compared, by weight: a `sentence`, its `opening` (60 words at most), or the `passage`."""
    instruction: str = "Retrieve semantically similar text"
    """One English sentence on what is similar: for query vectors, rerankers and exports."""
    prompts: str = "default"
    """`default`, `small` (short, for models below some four billion parameters), or a folder of your own templates."""

    @model_validator(mode="after")
    def _feasible(self) -> Sts:
        for what, given, known in (
            ("relation", self.relations, GRADES),
            ("unit", self.units, UNITS),
            ("grade", self.grades, [f"{n / 2:g}" for n in range(2, 11)]),
        ):
            if unknown := [name for name in given if name not in known]:
                raise ValueError(f"{what} {unknown[0]!r} is not one of {', '.join(known)}")
        wanted = {name for name, weight in self.relations.items() if weight > 0}
        if stranded := sorted(wanted - {relation for relation, _ in self._combinations()}):
            possible = ", ".join(f"{grade:g}" for grade in GRADES[stranded[0]])
            raise ValueError(f"no grade for {stranded[0]}: it needs one of {possible}")
        if self.triples and not (self._combinations(least=NEAR) and self._combinations(most=FAR)):
            raise ValueError(
                f"triples need relations and grades of {NEAR:g} or more, and of {FAR:g} or less; or set triples: 0"
            )
        return self

    def begin(self, prompts: PromptFolder, settings: TaskSettings) -> _Fixed:  # noqa: ARG002 - the seam's signature
        """What can be drawn, and the worked examples. Both forms are rendered once: a mistake shows at the start."""
        examples = prompts.rows("examples.jsonl", Example)
        texts = (text for each in examples for text in (each.text, each.partner, each.far) if text)
        fixed = _Fixed(
            pairs=self._combinations(),
            nears=self._combinations(least=NEAR),
            fars=self._combinations(most=FAR),
            examples=tuple(_shown(each) for each in examples),
            echoes=echo_keys(texts),
            substitutes=prompts.uses("write.j2", "substitute"),
        )
        for drawn in (_Drawn("swap_roles", 2.5, "same_topic"), _Drawn("paraphrase", 4.5, "", "same_topic", 1.5)):
            prompts.messages("write.j2", drawn.values("text", "English", "3 to 9 words") | {"examples": fixed.examples})
        return fixed

    def requests(self, passage: Candidates, draw: Draw) -> Requests:
        """One call: the partner, in a triple the further text too."""
        rng, record, fixed = draw.random("sts"), passage.passage, draw.fixed
        drawn = self._draw(fixed, rng)
        unit = choose(self.units, rng)
        text = unit_of(record, unit, draw)
        row = language("en" if record.language == "und" else record.language)
        words = max(_FEWEST, count_words(text, row.code))
        low, high = words // 2, 2 * words
        asked = Requirement(record.language, *in_own_unit(row, low, high))
        fields: dict[str, Sequence[str] | None] = {"Relation": (drawn.relation, drawn.substitute)}
        texts = ("Partner", "Far") if drawn.far_relation else ("Partner",)
        fields = (fields if drawn.substitute else {}) | dict.fromkeys(texts)
        length, chars = length_phrase(row, low, high), query_chars(asked)
        spoken = "" if record.language == "und" else row.name
        values = drawn.values(draw.text(replace(record, text=text)), spoken, length) | {"examples": fixed.examples}

        def read(reply: ChatReply) -> tuple[dict[str, str], bool]:
            taken = [text, *(each.text for each in draw.written)]
            repair = draw.settings.repair
            found, repaired = read_fields(reply, fields, repair=repair, echoes=fixed.echoes, written=taken)
            for name in texts:
                if length_error(found[name], asked) > RUN_ON or len(found[name]) >= chars - 1:
                    raise UnusableReply("run_on", f"{name}: asked for {length}: {found[name][:100]!r}")
            return found, repaired

        found: dict[str, str] = yield Ask(
            stage="write",
            messages=draw.prompts.messages("write.j2", values),
            schema=object_schema(
                {
                    name: {"type": "string", **({"enum": list(choices)} if choices else {"maxLength": chars})}
                    for name, choices in fields.items()
                }
            ),
            read=read,
            inputs=TextInputs(text),
        )
        columns = {
            "unit": unit,
            "relation": found.get("Relation", drawn.relation),
            "grade": drawn.grade,
            "far": found.get("Far"),
            "far_relation": drawn.far_relation or None,
            "far_grade": drawn.far_grade or None,
        }
        return Item(found["Partner"], record.language, requirement=asked, columns=columns, part=text)

    def values(self) -> Mapping[str, Sequence[str]]:
        return {"relation": tuple(GRADES), "far_relation": tuple(GRADES), "unit": UNITS}

    def asked(self) -> Mapping[str, Mapping[str, float]]:
        """Shares of relations and grades over pairs and triples, and of units."""
        relations, grades = dict.fromkeys(GRADES, 0.0), {str(n / 2): 0.0 for n in range(2, 11)}
        for part, least in ((1 - self.triples, 1.0), (self.triples, NEAR)):
            for (relation, grade), share in self._combinations(least=least).items():
                relations[relation] += part * share
                grades[str(grade)] += part * share
        return {"relation": shares(relations), "grade": shares(grades), "unit": shares(self.units)}

    def _combinations(self, least: float = 1.0, most: float = 5.0) -> Combinations:
        """The relations by their weights, each with those of its grades that lie in the range, by theirs."""
        found: Combinations = {}
        for relation, weight in self.relations.items():
            fitting = {grade: self.grades.get(f"{grade:g}", 0.0) for grade in GRADES[relation]}
            fitting = {grade: each for grade, each in fitting.items() if least <= grade <= most and each > 0}
            found |= {(relation, grade): weight * each / sum(fitting.values()) for grade, each in fitting.items()}
        total = sum(found.values())
        return {each: share / total for each, share in found.items() if share > 0}

    def _draw(self, fixed: _Fixed, rng: Random) -> _Drawn:
        triple = rng.random() < self.triples
        among = fixed.nears if triple else fixed.pairs
        ((relation, grade),) = rng.choices(list(among), list(among.values()))
        if triple:
            ((far_relation, far_grade),) = rng.choices(list(fixed.fars), list(fixed.fars.values()))
            return _Drawn(relation, grade, "", far_relation, far_grade)
        others = {name: share for (name, near), share in among.items() if name in ALWAYS and near == grade}
        wanted = fixed.substitutes and relation not in ALWAYS and others
        return _Drawn(relation, grade, choose(others, rng) if wanted else "")


def _shown(example: Example) -> Mapping[str, Any]:
    """An example as a template sees it, with the `reply` that it shows."""
    texts = {"Partner": example.partner} | ({"Far": example.far} if example.far else {})
    values = example.model_dump() | {"reply": json.dumps(texts, ensure_ascii=False)}
    return {name: neutralise(value)[0] if isinstance(value, str) else value for name, value in values.items()}
