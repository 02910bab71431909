"""What the arms of a proof train on: pairs of runs, by what the rules did with them, and pairs made without a model."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from synth.errors import JobError
from synth.results.rows import view_folder
from synth.scores.contamination import Holdout
from synth.shards import OutputFolder
from synth.steps.neighbours import RELABELLED, misfit, record_of
from synth.training.testsets import TestSet
from synth.types import Notify

KINDS = ("generated", "kept", "random", "dropped", "no-llm")
"""All pairs; those that pass the rules; as many drawn at random; those that do not; pairs made by rules."""

LEAST = 8
"""Fewer pairs than this make no arm."""
_NGRAM, _JACCARD = 8, 0.8
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？؟।])\s*|\n+")
_SHORTEST = 12
"""Characters of a sentence that can stand for a query."""


@dataclass(frozen=True, slots=True)
class Arms:
    """The pairs of all runs, ready to be drawn from. Frames have the columns query and passage."""

    generated: pl.DataFrame
    views: dict[str, pl.DataFrame]
    """`kept`, others by name, and `relabelled` where every run has it."""
    dropped: pl.DataFrame
    by_rules: pl.DataFrame
    near_test: int
    """Pairs left out because their query nearly equals one of a test, or is held out."""
    tokens: int
    """Prompt and completion tokens that the runs spent on usable pairs."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Arms that cannot be trained, and why."""

    def pairs(self, arm: str, seed: int) -> pl.DataFrame:
        """What an arm trains on. Those that are drawn are drawn anew for each seed."""
        kept = self.views["kept"]
        if arm == "random":
            return self.generated.sample(min(len(kept), len(self.generated)), seed=seed, shuffle=True)
        if arm == "dropped":
            return self.dropped.sample(min(len(kept), len(self.dropped)), seed=seed, shuffle=True)
        return {"generated": self.generated, "no-llm": self.by_rules, **self.views}[arm]

    def names(self, asked: Sequence[str]) -> list[str]:
        """The arms to train: those asked for (none: all) and the views; why others are left out is in `left_out`.

        Raises JobError for an unknown arm, and where none is left.
        """
        possible = list(dict.fromkeys([*KINDS, *self.views]))
        if unknown := [each for each in asked if each not in possible]:
            raise JobError(f"--arm {unknown[0]}: is not an arm.", f"One of: {', '.join(possible)}.")
        found = []
        named = [name for name in self.views if name not in ("kept", RELABELLED)]
        for name in dict.fromkeys([*asked, *named]) if asked else possible:
            count = len(self.pairs(name, 0))
            if count < LEAST:
                self.left_out[name] = f"{count} pairs are too few"
            elif name in {"kept", "random"} and len(self.views["kept"]) == len(self.generated):
                self.left_out[name] = "the rules keep every pair, so it equals generated"
            else:
                found.append(name)
        if not found:
            raise JobError(f"no arm can be trained: {self.left_out}.", f"An arm needs at least {LEAST} pairs.")
        return found


def read_arms(
    runs: Sequence[OutputFolder], views: Sequence[str], tests: Sequence[TestSet], held: frozenset[str], notify: Notify
) -> Arms:
    """The pairs of the runs without those near a query of the tests; `held` are ids that must not be trained on.

    Pairs with a label of 0 or less are not relevant, and in no arm. Raises JobError for a run without pairs or views.
    """
    frames = [_run(folder, ["kept", *views], notify) for folder in runs]
    every = pl.concat(frames, how="diagonal_relaxed").filter(
        pl.col("query").is_not_null() & pl.col("passage").is_not_null() & (pl.col("label").fill_null(1) > 0)
    )
    queries = [(str(n), text) for test in tests for n, text in enumerate(_queries(test))]
    holdout = Holdout(queries, _NGRAM, _JACCARD)
    near = [row[1] in held or holdout.overlap(row[0])[0] for row in every.select("query", "id").iter_rows()]
    clean = every.filter(~pl.Series(near, dtype=pl.Boolean))
    if sum(near):
        notify(f"{sum(near):,} of {len(every):,} pairs are left out: held out, or their query is nearly a test's")
    both = pl.col("query", "passage")
    chosen = {name: clean.filter(pl.col(f"in {name}")).select(both) for name in ["kept", *views]}
    if all(RELABELLED in frame.columns for frame in frames):
        chosen[RELABELLED] = clean.drop_nulls(RELABELLED).select("query", passage=RELABELLED)
    titles = {text: title for folder in runs for text, title in _titles(folder)}
    return Arms(
        generated=clean.select(both),
        views=chosen,
        dropped=clean.filter(~pl.col("in kept")).select(both),
        by_rules=_by_rules(clean["passage"].to_list(), titles, holdout),
        near_test=sum(near),
        tokens=int(every["tokens"].sum()),
    )


def _run(folder: OutputFolder, views: Sequence[str], notify: Notify) -> pl.DataFrame:
    """The generated pairs of a run, each with the views it is in (`in kept`), its label and tokens.

    Where `synth relabel` chose positives, the column `relabelled` has the passage of each pair that kept one.
    """
    step = folder.step("generated")
    shards = sorted(step.done())
    if not shards:
        raise JobError(f"{folder.path}: has no pairs.", f"Run it first: synth run {folder.path}")
    kept = {name: _ids(folder, name) for name in views}
    names = [name for name in ("label", "prompt_tokens", "completion_tokens") if name in step.schema(shards[0]).names]
    tables = [pl.DataFrame(step.read_columns(index, ["id", "query", "passage", *names])) for index in shards]
    frame = pl.concat(tables, how="diagonal_relaxed")
    if (chosen := _relabelled(folder, notify)) is not None:
        frame = frame.join(chosen, on="id", how="left")
    tokens = [pl.col(name).fill_null(0) for name in names if name != "label"]
    label = pl.col("label").cast(pl.Float64) if "label" in names else pl.lit(None, pl.Float64).alias("label")
    return frame.select(
        pl.col("id", "query", "passage"),
        label,
        pl.sum_horizontal(pl.lit(0), *tokens).alias("tokens"),
        *(pl.col("id").is_in(ids).alias(f"in {name}") for name, ids in kept.items()),
        *(pl.col(name) for name in frame.columns if name == RELABELLED),
    )


def _relabelled(folder: OutputFolder, notify: Notify) -> pl.DataFrame | None:
    """Ids of pairs with the passages of `synth relabel`; None without it, or where the pairs have changed since."""
    step = folder.step(RELABELLED)
    if not step.done():
        return None
    view = record_of(step)["view"]
    if (wrong := misfit(step, folder.step(view))) is not None:
        notify(f"no arm {RELABELLED}: {folder.path}: it does not fit {view}: {wrong}; synth relabel makes it anew")
        return None
    rows = [pl.DataFrame(step.read_columns(index, ["id", "passage"])) for index in sorted(step.done())]
    return pl.concat(rows).rename({"passage": RELABELLED})


def _ids(folder: OutputFolder, view: str) -> list[str]:
    step = folder.step(view_folder(folder, view))
    return [each for index in sorted(step.done()) for each in step.read_columns(index, ["id"])["id"].to_pylist()]


def _titles(folder: OutputFolder) -> list[tuple[str, str]]:
    """Texts of passages with their titles, where no other passage has the same."""
    step = folder.step("passages")
    found: list[tuple[str, str]] = []
    for index in sorted(step.done()):
        table = step.read_columns(index, ["text", "title"])
        found += zip(table["text"].to_pylist(), table["title"].to_pylist(), strict=True)
    counts = Counter(title for _, title in found)
    return [(text, title) for text, title in found if title and counts[title] == 1]


def _by_rules(passages: Sequence[str], titles: dict[str, str], holdout: Holdout) -> pl.DataFrame:
    """For each passage as many pairs as were generated, if it has that many: title → text, then sentence → the rest."""
    rows = []
    for passage, count in Counter(passages).items():
        options = [(titles[passage], passage)] if passage in titles else []
        sentences = [each.strip() for each in _SENTENCE.split(passage) if each.strip()]
        order = random.Random(passage).sample(range(len(sentences)), len(sentences))  # noqa: S311 - sampling, not secrets
        for place in order:
            rest = " ".join(sentences[:place] + sentences[place + 1 :])
            if len(sentences[place]) >= _SHORTEST and rest:
                options.append((sentences[place], rest))
        rows += [each for each in options if not holdout.overlap(each[0])[0]][:count]
    return pl.DataFrame(rows, schema={"query": pl.String, "passage": pl.String}, orient="row")


def _queries(test: TestSet) -> list[str]:
    """The texts of a test that must not be trained on."""
    queries = getattr(test, "queries", None)
    if queries is not None:
        return list(queries.values())
    first = getattr(test, "first", None)
    return list(first) if first is not None else list(test.test[0])  # type: ignore[union-attr] # the third kind
