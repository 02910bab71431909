"""Several language models in one job: each item is written by one of them, drawn by its share.

    llm: [{share: 0.7, use: vllm_server, …}, {share: 0.3, use: openai, …}]
    llm: {config: {use: …}, query: [{share: 0.5, use: …}, {share: 0.5, use: …}]}

Of one list a model is drawn for the whole item. With `config` and `query` stage one is asked of one model and every
other call of another, each drawn by itself. The draw depends on the run's seed and the item only, so a resumed run
asks whom it would have asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny

from synth.document import KeyPath, Problem
from synth.hashing import item_seed
from synth.registry import read_stage, stage_identity
from synth.stage import ChatModel, ChatReply, ChatRequest, ClientSettings, LlmStage, name_of

ALL, CONFIG, QUERY = "all", "config", "query"


class Generator(BaseModel):
    """One of several models, and its part of the items relative to the others."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    share: Annotated[float, Field(gt=0)]
    llm: SerializeAsAny[LlmStage]
    path: tuple[str, ...]
    """Its keys in the job, such as `llm`, `config`, `0`."""


class Generators(LlmStage):
    """Several language models in place of one; `lists` has them by the calls that they are asked for."""

    tuning: ClassVar[frozenset[str]] = frozenset({"seed"})

    seed: int
    """The run's."""
    lists: dict[str, tuple[Generator, ...]]
    """All calls (`all`), or those of stage one (`config`) and all others (`query`)."""

    def identity(self) -> dict[str, Any]:
        """Every model with its share, in the order of the job."""
        return {"use": "several"} | {
            name: [{"share": each.share} | stage_identity(each.llm) for each in found]
            for name, found in self.lists.items()
        }

    @cached_property
    def members(self) -> list[tuple[str, LlmStage]]:
        """The distinct models with the place of each in the job, such as `llm.query.0`."""
        found: list[tuple[str, LlmStage]] = []
        for each in (each for listed in self.lists.values() for each in listed):
            if all(each.llm != known for _, known in found):
                found.append((".".join(each.path), each.llm))
        return found

    @property
    def gpus(self) -> int:
        return sum(llm.gpus for _, llm in self.members)

    def urls(self) -> list[str]:
        return [url for _, llm in self.members for url in llm.urls()]

    def writes(self, query: str, passage: str) -> bool:
        return all(llm.writes(query, passage) for _, llm in self.members)

    def drawn(self, position: int, slot: int, stage: str) -> LlmStage:
        """The model that this call of an item is asked of."""
        name = ALL if ALL in self.lists else CONFIG if stage == CONFIG else QUERY
        listed = self.lists[name]
        bounds = list(accumulate(each.share for each in listed))
        point = item_seed(self.seed, f"generators/{name}", position, slot) / 2**63 * bounds[-1]
        return next(
            each.llm for each, bound in zip(listed, bounds, strict=True) if point < bound or bound == bounds[-1]
        )

    def open(self, client: ClientSettings) -> ChatModel:
        return Routed(self, [llm.open(client) for _, llm in self.members])


class Routed:
    """A ChatModel that hands each request to the one of `opened`, in the order of `members`, that is drawn for it."""

    def __init__(self, generators: Generators, opened: Sequence[ChatModel]) -> None:
        self._generators, self._opened = generators, opened
        self._stages = [llm for _, llm in generators.members]

    @property
    def slots(self) -> int:
        return sum(chat.slots for chat in self._opened)

    @property
    def troubled(self) -> bool:
        return any(chat.troubled for chat in self._opened)

    async def complete(self, request: ChatRequest) -> ChatReply:
        """The reply of the model that is drawn. Raises what that model raises."""
        key = request.key
        drawn = self._generators.drawn(key.position, key.slot, key.stage)
        return await self._opened[self._stages.index(drawn)].complete(request)

    async def close(self) -> None:
        for chat in self._opened:
            await chat.close()


def label(llm: LlmStage) -> str:
    """What tables call a model."""
    return llm.model or name_of(llm)


def read_llm(value: Any, path: KeyPath, seed: int) -> tuple[LlmStage | None, list[Problem]]:
    """The section `llm` of a job: one model, or several; or None and every mistake in it."""
    if isinstance(value, Mapping) and not value.keys() & {CONFIG, QUERY}:
        stage, problems = read_stage("llm", value, path, LlmStage)
        return stage, problems
    given = value if isinstance(value, Mapping) else {ALL: value}
    problems = [Problem((*path, key), "is required beside the other stage", f"Add `{key}:`.")
                for key in (CONFIG, QUERY) if ALL not in given and key not in given]  # fmt: skip
    lists: dict[str, tuple[Generator, ...]] = {}
    for key, listed in given.items():
        if key not in (ALL, CONFIG, QUERY):
            problems.append(Problem((*path, key), "unknown key", "`llm` has `config` and `query`, or is one list."))
            continue
        found, wrong = _read_list(listed, path if key == ALL else (*path, key))
        lists[key], problems = found, problems + wrong
    if problems:
        return None, problems
    every = [each.llm for listed in lists.values() for each in listed]
    return Generators(
        seed=seed,
        lists=lists,
        model=", ".join(dict.fromkeys(map(label, every))),
        max_tokens=max(each.max_tokens for each in every),
        repair=any(each.repair for each in every),
    ), []


def _read_list(value: Any, path: KeyPath) -> tuple[tuple[Generator, ...], list[Problem]]:
    """One model, or several with shares."""
    alone = isinstance(value, Mapping)
    entries = [value] if alone else value
    if not isinstance(entries, list) or not entries or not all(isinstance(each, Mapping) for each in entries):
        return (), [
            Problem(path, "expects one model or a list of them", "As [{share: 0.7, use: …}, {share: 0.3, use: …}]")
        ]
    found, problems = [], []
    for n, entry in enumerate(entries):
        where = path if alone else (*path, str(n))
        share = entry.get("share", 1 if len(entries) == 1 else None)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < float("inf"):
            problems.append(
                Problem((*where, "share"), "expects a number above 0", "For example 0.7: its part of the items.")
            )
            continue
        llm, wrong = read_stage("llm", {k: v for k, v in entry.items() if k != "share"}, where, LlmStage)
        problems += wrong
        found += [Generator(share=float(share), llm=llm, path=where)] if llm is not None else []
    return tuple(found), problems
