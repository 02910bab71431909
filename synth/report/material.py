"""What the sections of a report are computed from: columns of all scored rows, and vectors of samples."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from synth.batching import encode_all
from synth.errors import JobError, SynthError
from synth.report.measures import Vectors
from synth.results.rows import sound, view_folder
from synth.results.summary import RANK, Summary, files_of, rejected_files, scan, summarise
from synth.runs.run import OpenRun, job_of
from synth.scores.seed_overlap import nearness
from synth.search import usable
from synth.shards import OutputFolder
from synth.stage import Encoder, Role
from synth.steps.keep import View, record_of
from synth.steps.score import vectors_of
from synth.types import Notify

SAMPLE = 500
"""Most kept queries, dropped queries and passages that are compared as texts and as vectors."""
_OUTAGE = 10.0
"""Seconds to wait for an embedder that does not answer."""
_TEXTS = ("query", "source", "query_language", "passage_language", "character", "question_type", "difficulty", "model")
_LENGTHS = ("length_min", "length_max", "length_unit")
_SCORES = (
    "language_ok",
    "cosine",
    "reranker",
    RANK,
    "copied_share",
    "query_cluster",
    "contaminated",
    "contaminated_by",
)


@dataclass(frozen=True, slots=True)
class Material:
    """One view of a run.

    `rows`: all scored rows, kept ones first, with `kept` and `key`, which is the same for rows of one passage text.
    `corpus`: the keys of all distinct passages. `passages`, `queries`: samples with their texts, `passages` with
    `covered` (whether one of its pairs is kept), `queries` as `rows`.
    """

    run: OpenRun
    view: View
    summary: Summary
    rows: pl.DataFrame
    corpus: pl.Series
    passages: pl.DataFrame
    queries: pl.DataFrame

    @property
    def seed(self) -> int:
        return self.run.job.file.seed

    def kept(self) -> pl.DataFrame:
        return self.rows.filter("kept")

    def sampled(self, *, kept: bool) -> pl.DataFrame:
        return self.queries.filter(pl.col("kept") == kept)


def read(folder: OutputFolder, name: str) -> Material:
    """The rows of a view. Raises JobError for an unknown or empty view, OutputError for a damaged shard."""
    run, view = opened(folder, name)
    kept, dropped = files_of(folder.step(view.name)), rejected_files(folder, view.name)
    step = "generated" if run.job.data else "passages"
    files = files_of(folder.step(step))
    rng = np.random.default_rng(run.job.file.seed)
    with sound([*kept, *dropped, *files]):
        wanted = [*_TEXTS, *_LENGTHS, *_SCORES, *(run.job.task.columns if run.job.task else ()), *_thresholds(view)]
        parts = [
            _columns(scan(part), wanted).with_columns(kept=pl.lit(part is kept)) for part in (kept, dropped) if part
        ]
        rows = pl.concat(parts, how="diagonal_relaxed").collect()
        queries = pl.concat([_drawn(part, rng) for part in rows.partition_by("kept", maintain_order=True)])
        text = "passage" if run.job.data else "text"
        texts = scan(files)
        assert texts is not None  # noqa: S101 - a view that is not empty was made from them
        texts = texts.drop_nulls(text).with_columns(key=pl.col(text).hash())
        corpus = texts.select("key").unique(maintain_order=True).collect()["key"]
        drawn = _drawn(corpus.to_frame(), rng)["key"]
        names = {"passage_language": "language"} if run.job.data else {"language": "language"}
        picked = texts.filter(pl.col("key").is_in(drawn.implode())).unique("key", keep="first", maintain_order=True)
        passages = picked.select(
            "key", "source", pl.col(text).alias("text"), *(pl.col(a).alias(b) for a, b in names.items())
        )
        covered = pl.col("key").is_in(rows.filter("kept")["key"].unique().implode())
        sample = passages.with_columns(covered=covered).collect()
    return Material(run, view, summarise(run, view), rows, corpus, sample, queries)


def opened(folder: OutputFolder, name: str) -> tuple[OpenRun, View]:
    """The run with the scorers that it used last, and the view. Raises JobError, OutputError."""
    run = OpenRun.recorded(folder)
    run = replace(run, job=job_of(folder.path)[0])
    place = view_folder(folder, name)
    record = record_of(folder, place)
    if record is None:
        raise JobError(f"{folder.path}: holds no scored pairs yet.", f"Run it first: synth run {folder.path}")
    return run, View(place, record.rules, record.scores)


def _thresholds(view: View) -> list[str]:
    return [each.column for each in view.rules.conditions]


def _columns(frame: pl.LazyFrame | None, wanted: Sequence[str]) -> pl.LazyFrame:
    assert frame is not None  # noqa: S101 - there is a file
    there = frame.collect_schema().names()
    return frame.select(*dict.fromkeys(name for name in wanted if name in there), key=pl.col("passage").hash())


def _drawn(rows: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Up to `SAMPLE` rows in their order, drawn at random."""
    chosen = rng.choice(rows.height, min(SAMPLE, rows.height), replace=False)
    return rows[np.sort(chosen)]


Texts = Mapping[str, tuple[Role, Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Embedded:
    """Unit vectors by name of their texts, and what `nearness` says of made and real queries (empty without any)."""

    vectors: Mapping[str, Vectors]
    near: Mapping[str, Any]


def embed(run: OpenRun, texts: Texts, queries: tuple[Sequence[str], Sequence[str]], notify: Notify) -> Embedded | str:
    """Vectors of each list of texts by the run's embedder, zeros where it refuses one; or why there are none.

    `queries` are made and real ones, to be compared. Passages that `round_trip` has embedded keep their vectors.
    Raises nothing for a server that does not answer.
    """
    stage = run.job.embed
    if stage is None:
        return "the job has no embedder"
    client = replace(run.job.client(notify), outage=_OUTAGE, startup=_OUTAGE, stall=6 * _OUTAGE)

    async def work() -> Embedded:
        encoder = stage.open(client, run.job.instruction)
        try:
            stored = vectors_of(run)
            found = {}
            for name, (role, some) in texts.items():
                known = stored(some) if stored is not None and role == "document" and some else None
                found[name] = await _vectors(encoder, some, role, known)
            return Embedded(found, await nearness(*queries, encoder) if all(queries) else {})
        finally:
            await encoder.close()

    try:
        return asyncio.run(work())
    except SynthError as exc:
        return f"the embedder gives no vectors: {exc}"


async def _vectors(encoder: Encoder, texts: Sequence[str], role: Role, known: NDArray[Any] | None) -> Vectors:
    """As `embed`, of one list; `known` are vectors made before, zeros for a text without."""
    without = list(range(len(texts))) if known is None else np.flatnonzero(~known.any(axis=1)).tolist()
    if not without:
        return usable(known, known.shape[1]) if known is not None else np.zeros((0, 0), np.float32)
    encoded, _ = await encode_all(encoder, [texts[n] for n in without], role)
    width = encoded.vectors.shape[1]
    found = np.zeros((len(texts), width), np.float32) if known is None else usable(known, width)
    found[without] = usable(encoded.vectors, width)
    return found
