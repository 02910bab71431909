"""The retrieval task: for each slot of a passage, one call chooses who asks what, a second writes the query.

Slots of a passage run one after the other: stage one of a slot may not repeat a configuration, stage two sees the
queries already written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from synth.prompts import Prompts
from synth.replies import echo_keys
from synth.stage import Stage
from synth.tasks._generator import Generator, GeneratorSettings
from synth.tasks._options import Languages, Lengths, QuestionTypes, Weights

__all__ = ["Retrieval"]

QUESTION_TYPES = ("keywords", "acquire_knowledge", "summary", "yes_or_no", "background")
DIFFICULTIES = ("high_school", "university", "phd")


class Retrieval(Stage):
    """Search queries for passages, in two calls: first who asks what kind of question, then the query itself."""

    queries_per_passage: Annotated[int, Field(ge=1, le=1000)] = 1
    """How many queries each passage gets (its slots)."""
    question_types: Literal["auto"] | QuestionTypes = "auto"
    """`auto`: the model chooses. Or weights by type; a type of your own needs `means: "..."`."""
    difficulties: Literal["auto"] | Weights | None = "auto"
    """`auto`: the model chooses. Or weights by level. null: none is asked."""
    languages: Languages = Languages.model_validate({"same": 1.0})
    """Query languages by weight, flat or by passage language; `same` is the passage's own."""
    lengths: Lengths = Lengths.model_validate({"default": [{"range": [3, 7]}, {"range": [8, 24], "weight": 3.0}]})
    """Inclusive length ranges by question type, in the query language's unit."""
    instruction: str = "Given a question, retrieve passages that answer it"
    """One English sentence on the retrieval task: for query vectors, rerankers and exports."""
    guidance: str | None = None
    """A sentence or two on who searches here and why; becomes part of the prompt."""
    examples: str | None = None
    """A JSONL file of your own worked examples in place of the shipped three."""
    prompts: str | None = None
    """A folder of your own templates in place of prompts/retrieval."""
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    """Replies asked for per stage before an item is rejected."""
    retry_on: list[Literal["language", "length", "copying"]] = Field(default=[])
    """Ask again before accepting a query in the wrong language, of the wrong length, or copied."""

    @model_validator(mode="after")
    def _explained(self) -> Retrieval:
        if self.question_types != "auto":
            own = self.question_types.meanings()
            for name in self.question_types.weights():
                if name not in (*QUESTION_TYPES, *own):
                    raise ValueError(
                        f"question type {name!r} is not one of {', '.join(QUESTION_TYPES)}; "
                        f'explain your own: {name}: {{weight: 1, means: "..."}}'
                    )
        kinds = ("default", *QUESTION_TYPES, *self.type_names())
        if strangers := [name for name in self.lengths.root if name not in kinds]:
            raise ValueError(f"lengths names {strangers[0]!r}, which is not one of {', '.join(dict.fromkeys(kinds))}")
        unknown = [level for level in self.levels() if level not in DIFFICULTIES]
        if unknown:
            raise ValueError(f"difficulty {unknown[0]!r} is not one of {', '.join(DIFFICULTIES)}")
        return self

    def type_names(self) -> tuple[str, ...]:
        """The question types in play, in the job's order."""
        return QUESTION_TYPES if self.question_types == "auto" else tuple(self.question_types.weights())

    def levels(self) -> tuple[str, ...]:
        """The difficulties in play; none where the job asks for none."""
        if self.difficulties is None:
            return ()
        return DIFFICULTIES if self.difficulties == "auto" else tuple(self.difficulties)

    def open(self, prompts: Prompts, settings: GeneratorSettings) -> Generator:
        """Ready to generate: the part of the prompt that a run fixes is rendered here, once."""
        own = {} if self.question_types == "auto" else self.question_types.meanings()
        meanings: Mapping[str, str] = {**prompts.definitions.question_types, **own}
        system = prompts.system(
            types={name: meanings[name] for name in self.type_names()},
            difficulties={level: prompts.definitions.difficulties[level] for level in self.levels()},
            guidance=self.guidance,
            examples=prompts.examples,
            personas=settings.top_k > 0,
        )
        echoes = echo_keys(example.query for example in prompts.examples)
        return Generator(self, prompts, system, settings, frozenset(echoes))
