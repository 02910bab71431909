"""The retrieval task: for each slot of a passage, one call chooses who asks what, a second writes the query.

Slots of a passage run one after the other: stage one of a slot may not repeat a configuration, stage two sees the
queries already written.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from synth import replies
from synth.errors import JobError, UnusableReply
from synth.languages import detect, language, length_phrase
from synth.languages.words import in_own_unit
from synth.measures import copied_share, language_matches, length_error
from synth.names import path_of
from synth.prompts import PromptFolder, Prompts, config_schema, query_chars, query_schema
from synth.prompts.retrieval import ANSWER_CHARS, ANSWERS, MORE, PLAIN, SCENARIO, STYLES, SystemPart
from synth.replies import echo_keys
from synth.shipped import find
from synth.sources.queries import described, rows
from synth.stage import ChatReply, ConfigInputs, QueryInputs
from synth.tasks._options import (
    LONG_LENGTHS,
    OTHER,
    SAME,
    Languages,
    Lengths,
    QuestionTypes,
    Weights,
    draw,
    language_code,
    shares,
)
from synth.tasks._task import Ask, Draw, Item, Requests, Task, TaskSettings
from synth.types import Candidates, Passage, QueryConfig, Requirement

__all__ = ["Retrieval"]

QUESTION_TYPES = ("keywords", "acquire_knowledge", "summary", "yes_or_no", "background")
NAMED_TYPES = (*QUESTION_TYPES, *LONG_LENGTHS)
"""Types that a job may name; `auto` offers the first five."""
DIFFICULTIES = ("high_school", "university", "phd")
_ASKED = frozenset({"acquire_knowledge", "yes_or_no", "background"})
FORMS: Mapping[str, Collection[str]] = {
    PLAIN: QUESTION_TYPES,
    "first_person": _ASKED | {"summary"},
    "conditional": _ASKED,
    "situation": _ASKED,
    "comparison": frozenset({"acquire_knowledge", "yes_or_no"}),
    "negative": frozenset({"acquire_knowledge", "yes_or_no"}),
    "bare_name": frozenset({"keywords"}),
}
"""Ways to put a query, and the built-in question types that can be put so; all types can be put plainly."""
USUAL_FORMS = {
    PLAIN: 0.74,
    "first_person": 0.08,
    "conditional": 0.06,
    "situation": 0.04,
    "comparison": 0.03,
    "negative": 0.02,
    "bare_name": 0.1,
}
USUAL_TYPING = {"written": 0.7, "typed": 0.27, "misspelt": 0.03}

USUAL_ROOM = 512
"""Default of `llm.max_tokens`; what a job grants beyond it is meant for reasoning before the reply."""
FRAME_TOKENS = 24
"""Room for the JSON around a query."""
WORD_TOKENS, CHARACTER_TOKENS, ANSWER_TOKENS = 4, 2, 300
"""Room that a word, a character or a quoted answer needs at most, as a rule: what long queries get beyond a job's
`max_tokens`."""
STYLES_SHOWN = 5
"""Real queries that an item is shown."""

RUN_ON = 1.0
"""Beyond this length error, twice the most that was asked, a query cannot be used; nor when its bound cut it off."""
TOO_FAR = 0.5
"""`retry_on: [length]` asks again beyond this length error."""
TOO_ALIKE = 0.8
"""`retry_on: [copying]` asks again beyond this copied share."""


_COMMENT = re.compile(r"(?:(?<!\S)(?://|#|--|\*|%|;)|/\*|\"\"\").*")
"""A line of comment or documentation in source code, whatever the language."""


def _drawn(weights: Mapping[str, float], rng: random.Random) -> str:
    return draw(weights, rng) if any(weights.values()) else PLAIN if weights else ""


@dataclass(frozen=True, slots=True)
class _Fixed:
    """What a run fixes: the system part, and texts that a query must not repeat: of the prompt, and real queries."""

    system: SystemPart
    echoes: frozenset[str]
    seeds: frozenset[str]
    forms: Mapping[str, float]
    typings: Mapping[str, float]


class Retrieval(Task):
    """Search queries for passages, in two calls: first who asks what kind of question, then the query itself."""

    columns: ClassVar[Mapping[str, str]] = {"form": "string", "typing": "string"}
    mixes: ClassVar[tuple[str, ...]] = ("question_type", "difficulty", "query_language", "passage_language")
    prompts_class: ClassVar[type[PromptFolder]] = Prompts
    prompt_files: ClassVar[tuple[str, ...]] = ("config.j2", "query.j2")
    prompt_options: ClassVar[tuple[str, ...]] = ("question_types", "answer_span", "style_examples")
    prompt_sets: ClassVar[Mapping[str, str]] = {"default": "retrieval", "small": "retrieval-small"}

    question_types: Literal["auto"] | QuestionTypes = "auto"
    """`auto`: the model chooses. Or weights by type; a type of your own needs `means: "..."`."""
    difficulties: Literal["auto"] | Weights | None = "auto"
    """`auto`: the model chooses. Or weights by level. null: none is asked."""
    languages: Languages = Languages.model_validate({"same": 1.0})
    """Query languages by weight, flat or by passage language; `same` is the passage's own."""
    fallback_language: Annotated[str, AfterValidator(language_code)] | None = None
    """Language to take for passages of none that is known, such as source code; null: that of their comments, or en."""
    lengths: Lengths = Lengths.model_validate({})
    """Inclusive length ranges by question type, in words; as many characters where no spaces part words."""
    forms: Weights = Field(default=USUAL_FORMS)
    """How queries are put, by weight, among those that suit the question type."""
    typing: Weights = Field(default=USUAL_TYPING)
    """With capitals and marks as `written`, or `typed` into a search box without them, or `misspelt`, by weight."""
    guidance: str | None = None
    """A sentence or two on who searches here and why; becomes part of the prompt."""
    examples: str | None = None
    """A JSONL file of your own worked examples in place of the shipped three."""
    prompts: str = "default"
    """`default`, `small` (short, for models below some four billion parameters), or a folder of your own templates."""
    retry_on: list[Literal["language", "length", "copying"]] = Field(default=[])
    """Ask again before accepting a query in the wrong language, of the wrong length, or copied."""
    answer_span: bool = False
    """Ask for the exact words of the passage that answer the query, too: the column `answer_span`."""
    style_examples: str | None = None
    """A file of real queries (text, one a line; JSONL, CSV or Parquet): each item takes the manner of five of them."""

    @model_validator(mode="after")
    def _explained(self) -> Retrieval:
        if self.question_types != "auto":
            known = (*NAMED_TYPES, *self.question_types.meanings())
            if new := [name for name in self.question_types.weights() if name not in known]:
                hint = f'explain your own: {new[0]}: {{weight: 1, means: "..."}}'
                raise ValueError(f"question type {new[0]!r} is not one of {', '.join(NAMED_TYPES)}; {hint}")
        kinds = ("default", *NAMED_TYPES, *self.type_names())
        if strangers := [name for name in self.lengths.root if name not in kinds]:
            raise ValueError(f"lengths names {strangers[0]!r}, which is not one of {', '.join(dict.fromkeys(kinds))}")
        named = {"difficulty": (self.levels(), DIFFICULTIES), "form": (self.forms, FORMS)}
        for what, (given, allowed) in {**named, "typing": (self.typing, USUAL_TYPING)}.items():
            if unknown := [name for name in given if name not in allowed]:
                raise ValueError(f"{what} {unknown[0]!r} is not one of {', '.join(allowed)}")
        return self

    def type_names(self) -> tuple[str, ...]:
        return QUESTION_TYPES if self.question_types == "auto" else tuple(self.question_types.weights())

    def levels(self) -> tuple[str, ...]:
        """The difficulties in play; none where the job asks for none."""
        if self.difficulties is None:
            return ()
        return DIFFICULTIES if self.difficulties == "auto" else tuple(self.difficulties)

    @property
    def _scenario(self) -> bool:
        """Whether it asks for the built-in question type `scenario`."""
        return self.question_types != "auto" and "scenario" in {*self.type_names()} - {*self.question_types.meanings()}

    @property
    def item_columns(self) -> Mapping[str, str]:
        return {**self.columns, "answer_span": "large_string"} if self.answer_span else self.columns

    @property
    def own_prompts(self) -> bool:
        return super().own_prompts or self.examples is not None or self.style_examples is not None

    def identity(self) -> dict[str, Any]:
        """Without what it does not use of the options that came later, so that older runs stay what they are."""
        unused = {name for name in ("answer_span", "style_examples") if not getattr(self, name)}
        return {name: value for name, value in super().identity().items() if name not in unused}

    def load_prompts(self, base: Path) -> PromptFolder:
        """Templates, examples and definitions that the job names. Raises JobError."""
        prompts = super().load_prompts(base)
        assert isinstance(prompts, Prompts)  # noqa: S101 - its `prompts_class`
        given: dict[str, bytes] = {}
        if self.examples is not None:
            path = find("prompts", self.examples, base)
            try:
                given["examples.jsonl"] = path.read_bytes()
            except OSError as exc:
                raise JobError(f"{path}: {exc.strerror}.", "`task.examples` names a JSONL file.") from exc
        if self.style_examples is not None:
            key = "task.style_examples"
            (file,) = described([str(base / path_of(self.style_examples))], key)
            seeds = dict.fromkeys(" ".join(text.split()) for _, text in rows(file, None, key))
            given[STYLES] = "\n".join(seeds).encode()
        more = [*(SCENARIO if self._scenario else ()), *(MORE if self.answer_span or self.style_examples else ())]
        more += [ANSWERS] if self.answer_span else []
        return prompts.with_more(more, given) if more or given else prompts

    def choices(self, personas: int) -> tuple[str, ...]:
        """The keys of stage one that the model chooses; the others are drawn, or have a single value."""
        offered = {
            "Character": personas,
            "Question_Type": len(self.type_names()) if self.question_types == "auto" else 1,
            "Difficulty": len(self.levels()) if self.difficulties == "auto" else 1,
        }
        return tuple(key for key, count in offered.items() if count > 1)

    def begin(self, prompts: Prompts, settings: TaskSettings) -> _Fixed:
        """The system part of the prompt, rendered once for a run; templates that ask for no form get none."""
        own = {} if self.question_types == "auto" else self.question_types.meanings()
        meanings: Mapping[str, str] = {**prompts.definitions.question_types, **prompts.more, **own}
        forms, typings = (
            {name: weight for name, weight in weights.items() if weight > 0} if prompts.asks_for(variable) else {}
            for variable, weights in (("form", self.forms), ("typing", self.typing))
        )
        system = prompts.system(
            types={name: meanings[name] for name in self.type_names()},
            difficulties={level: prompts.definitions.difficulties[level] for level in self.levels()},
            guidance=self.guidance,
            forms=forms,
            typings=typings,
            personas=settings.top_k > 0,
            choices=self.choices(settings.top_k),
        )
        echoes = echo_keys(text for example in prompts.examples for text in (example.reply.query, example.passage))
        return _Fixed(system, echoes, echo_keys(prompts.styles), forms, typings)

    def requests(self, passage: Candidates, draw: Draw) -> Requests:
        """Stage one chooses a configuration, unless nothing is left to choose; stage two writes the query.

        The languages are settled before anything is asked of a model.
        """
        rng, register = draw.random("requirement"), draw.random("register")
        spoken = self._spoken(passage.passage)
        code = self.languages.choose(spoken, rng)
        if code is None:
            raise UnusableReply("no_language", f"task.languages has no rule for {spoken!r}")
        typing = _drawn(draw.fixed.typings, register)
        inputs = self._choices(passage, draw)
        scenario = self._scenario and inputs.question_types == ("scenario",)
        typing = "written" if scenario and "written" in draw.fixed.typings else typing
        inputs = replace(inputs, typing=typing)
        personas, types, levels = inputs.candidates.personas, inputs.question_types, inputs.difficulties
        if len(personas) > 1 or len(types) > 1 or len(levels) > 1:
            config: QueryConfig = yield Ask(
                stage="config",
                messages=draw.prompts.config_messages(draw.fixed.system, inputs, draw.text(passage.passage)),
                schema=config_schema(inputs),
                read=lambda reply: replies.read_config(reply, inputs, repair=draw.settings.repair),
                inputs=inputs,
            )
        else:
            config = QueryConfig(personas[0] if personas else None, types[0], levels[0] if levels else None)
        fitting = {name: weight for name, weight in draw.fixed.forms.items() if config.question_type in FORMS[name]}
        form = _drawn({PLAIN: draw.fixed.forms.get(PLAIN, 0.0), **fitting}, register) if draw.fixed.forms else ""
        low, high = self.lengths.choose(config.question_type, rng, long=scenario)
        row = language(code)
        requirement = Requirement(code, *in_own_unit(row, low, high))
        written = tuple(each.text for each in draw.written)
        seeds = draw.prompts.styles if self.style_examples is not None else ()
        styles = tuple(draw.random("styles").sample(seeds, min(STYLES_SHOWN, len(seeds))))
        asked = QueryInputs(passage, config, requirement, written, form, typing, styles, self.answer_span)
        query, answer = yield self._ask_query(asked, draw, length_phrase(row, low, high))
        quote = {"answer_span": answer} if self.answer_span else {}
        return Item(query, code, config, requirement, {"form": form or None, "typing": typing or None} | quote)

    def check(self, prompts: Prompts) -> Iterable[str]:
        """Warns of worked examples that the prompt goes without."""
        if self.answer_span and not prompts.examples:
            yield "no worked example has an `answer` copied from its passage, so the prompt goes without examples."
        types, levels = self.type_names(), self.levels()
        configs = [example.config for example in prompts.examples]
        unfit = [c for c in configs if c.question_type not in types or (levels and c.difficulty not in levels)]
        if unfit:
            yield (
                f"{len(unfit)} of {len(prompts.examples)} worked examples are of question types or difficulties that "
                "the job does not ask for; the prompt goes without them. Write some of your own: task.examples."
            )

    def values(self) -> Mapping[str, Sequence[str]]:
        return {
            "question_type": self.type_names(),
            "difficulty": self.levels(),
            "form": tuple(FORMS),
            "typing": tuple(USUAL_TYPING),
        }

    def asked(self) -> Mapping[str, Mapping[str, float]]:
        """Shares of types and difficulties that are drawn."""
        types = {} if self.question_types == "auto" else self.question_types.weights()
        levels = self.difficulties if isinstance(self.difficulties, dict) else {}
        return {"question_type": shares(types), "difficulty": shares(levels)}

    def plannable(self) -> Mapping[str, Sequence[str]]:
        """Types and difficulties that it may ask for, and any language."""
        levels = {"difficulty": self.levels()} if self.levels() else {}
        return {"question_type": self.type_names(), **levels, "query_language": ()}

    def planned(self, shares: Mapping[str, Mapping[str, float]]) -> Retrieval:
        """The same with weights in place of what the model would choose. Raises ValueError for a language's name."""
        for name in shares.get("query_language", {}):
            if (code := language_code(name)) != name:
                raise ValueError(f"write {code} for {name}")
        update: dict[str, Any] = {}
        if "question_type" in shares:
            own = {} if self.question_types == "auto" else self.question_types.meanings()
            types = {name: {"weight": each, "means": own.get(name)} for name, each in shares["question_type"].items()}
            update["question_types"] = QuestionTypes.model_validate(types)
        if "difficulty" in shares:
            update["difficulties"] = dict(shares["difficulty"])
        if "query_language" in shares:
            update["languages"] = Languages.model_validate(shares["query_language"])
        return self.model_copy(update=update)

    def query_languages(self, passage_language: str) -> Sequence[str]:
        """Languages with a weight above 0 for passages in this one."""
        if passage_language == "und":
            passage_language = self.fallback_language or "en"
        rules = self.languages.root
        weights = rules.get(passage_language) or rules.get(OTHER) or {}
        return [passage_language if name == SAME else name for name, weight in weights.items() if weight > 0]

    def _choices(self, candidates: Candidates, item: Draw) -> ConfigInputs:
        rng = item.random("choices")
        types, levels, offered = self.type_names(), self.levels(), candidates
        if self.question_types != "auto":
            types = (draw(self.question_types.weights(), rng),)
        if isinstance(self.difficulties, dict):
            levels = (draw(self.difficulties, rng),)
        if len(candidates.personas) > item.settings.top_k:  # they stay nearest first
            chosen = sorted(rng.sample(range(len(candidates.personas)), item.settings.top_k))
            people = tuple(candidates.personas[n] for n in chosen)
            offered = Candidates(candidates.passage, people, tuple(candidates.similarities[n] for n in chosen))
        before = (each.config for each in item.written if each.config is not None)
        used = tuple(  # only what this slot could choose as well
            config
            for config in before
            if (config.character is None or config.character in offered.personas)
            and config.question_type in types
            and (not levels or config.difficulty in levels)
        )
        every = max(1, len(offered.personas)) * len(types) * max(1, len(levels))
        named = {config for config in used if config.character is not None or not offered.personas}
        if len(named) == every:
            used = ()  # all were there; from now on any may come again
        return ConfigInputs(offered, types, levels, used, may_end=self.question_types == "auto")

    def _spoken(self, passage: Passage) -> str:
        """The passage's language; for one that none could be told of, that of its comments, else English."""
        if passage.language != "und":
            return passage.language
        if self.fallback_language is not None:
            return self.fallback_language
        found = detect("\n".join(match[0] for match in _COMMENT.finditer(passage.text))).code
        return "en" if found == "und" else found

    def _ask_query(self, inputs: QueryInputs, item: Draw, phrase: str) -> Ask[tuple[str, str | None]]:
        prompts: Prompts = item.prompts
        asked = inputs.requirement
        text = item.text(inputs.candidates.passage)
        chars = query_chars(asked)

        def read(reply: ChatReply) -> tuple[tuple[str, str | None], bool]:
            repair, quote = item.settings.repair, None
            query, repaired = replies.read_query(reply, inputs, repair=repair, echoes=item.fixed.echoes)
            if length_error(query, asked) > RUN_ON or len(query) >= chars - 1:
                raise UnusableReply("run_on", f"asked for {phrase}: {query[:100]!r}")
            if item.fixed.seeds and not echo_keys([query]).isdisjoint(item.fixed.seeds):
                raise UnusableReply("seed", f"the query is one of style_examples: {query[:100]!r}")
            if inputs.answer:
                passage = inputs.candidates.passage.text
                quote, also = replies.read_answer(reply, passage, repair=repair, room=ANSWER_CHARS)
                repaired = repaired or also
            return (query, quote), repaired

        extra = max(0, item.settings.max_tokens - USUAL_ROOM) + (ANSWER_TOKENS if inputs.answer else 0) + FRAME_TOKENS
        least = (WORD_TOKENS if asked.length_unit == "words" else CHARACTER_TOKENS) * asked.length_max + extra
        return Ask(
            stage="query",
            messages=prompts.query_messages(item.fixed.system, inputs, text, phrase, language(asked.language).name),
            schema=query_schema(chars, answer=inputs.answer),
            read=read,
            complaint=lambda found: self._complaint(found[0], inputs),
            max_tokens=chars + extra,
            at_least=least if least > USUAL_ROOM or inputs.answer else 0,
            inputs=inputs,
        )

    def _complaint(self, query: str, inputs: QueryInputs) -> str | None:
        """Why `retry_on` would ask again, or None; the last attempt is accepted all the same."""
        requirement = inputs.requirement
        if "language" in self.retry_on and language_matches(query, requirement.language) is False:
            return "language"
        if "length" in self.retry_on and length_error(query, requirement) > TOO_FAR:
            return "length"
        keywords = inputs.config.question_type == "keywords"
        passage = inputs.candidates.passage.text
        if "copying" in self.retry_on and not keywords and copied_share(query, passage) > TOO_ALIKE:
            return "copying"
        return None
