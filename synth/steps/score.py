"""Scores of one shard: the columns of each scorer in a folder of its own, named after the scorer's options.

Scores never change a pair. A scorer added later computes only its own folder, and a rule reads columns only.
"""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from synth.errors import SynthError
from synth.job import Job
from synth.registry import stage_identity
from synth.runs import identity
from synth.runs.run import OpenRun
from synth.scores import PairBatch, Scorer
from synth.scores.round_trip import RoundTrip, stored_vectors
from synth.search import Index, part
from synth.shards import Journal, Origin, OutputFolder, Shard, StepFolder, disk
from synth.stage import Services
from synth.steps.generate import JournaledChat
from synth.types import SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class ScoreStep:
    """A scorer and the folder that its options give it."""

    scorer: Scorer
    fingerprint: str

    @property
    def name(self) -> str:
        return f"scores/{self.scorer.name}-{self.fingerprint}"

    @property
    def per_shard(self) -> bool:
        return self.scorer.scope == "shard"

    @property
    def journaled(self) -> bool:
        """Whether its models give answers that are worth a journal; vectors are not."""
        return bool(self.scorer.needs & {"chat", "reranker"})

    def folder(self, folder: OutputFolder) -> StepFolder:
        return folder.step(self.name)


def steps(job: Job, instruction: str, whole: int | None = None) -> list[ScoreStep]:
    """The job's scorers, each with a fingerprint of its options and of the models and the instruction it scores with.

    `whole`: the number of shards, where some were appended. A scorer that looks at all of them then gives other values
    than before, and other values have a folder of their own.
    """
    found = []
    for scorer in job.scores:
        wanted = scorer.needs - scorer.brings
        what = {
            "name": scorer.name,
            "scorer": stage_identity(scorer),
            "embed": stage_identity(job.embed) if job.embed and "encoder" in wanted else None,
            "instruction": instruction if scorer.needs & {"encoder", "reranker"} else None,
            "schema": SCHEMA_VERSION,
        }
        if job.llm and "chat" in wanted:
            what["chat"] = stage_identity(job.llm)
        fingerprint = identity.sha256(what)[:8]
        if whole is not None and scorer.scope == "pass":
            fingerprint = identity.sha256({"scorer": fingerprint, "shards": whole})[:8]
        found.append(ScoreStep(scorer, fingerprint))
    return found


def steps_of(run: OpenRun) -> list[ScoreStep]:
    """The scorers of a run with their folders. Raises OutputError."""
    found = run.history.parts()
    return steps(run.job, run.job.instruction, found.shards if found.several else None)


@dataclass(frozen=True, slots=True)
class PassIndex:
    """A finished index, and for every shard the number of pairs in the shards before it."""

    folder: Path
    firsts: dict[int, int]


def index_of(run: OpenRun, step: ScoreStep, shards: Collection[int] | None = None) -> PassIndex:
    """Where the index of a scorer of scope `pass` over these shards, by default all, is, or will be."""
    generated = run.folder.step("generated")
    firsts: dict[int, int] = {}
    inputs = hashlib.sha256()
    count = 0
    for index in sorted(generated.done() if shards is None else shards):
        firsts[index] = count
        count += generated.meta(index).rows_out
        inputs.update(f"{index}:{generated.checksum(index)}\n".encode())
    return PassIndex(run.folder.path / "index" / f"{step.fingerprint}-{inputs.hexdigest()[:8]}", firsts)


async def build(run: OpenRun, step: ScoreStep, services: Services) -> PassIndex:
    """Build the index of a scorer of scope `pass`, or find it built.

    Call it when every shard of the pass is generated. Raises what the scorer raises.
    """
    found, generated = index_of(run, step), run.folder.step("generated")
    disk.make_folder(found.folder.parent)
    _take_over(run, step, found)
    shards = (
        PairBatch(generated.read(index).table, _passages(run, index), first=first, shard=index)
        for index, first in found.firsts.items()
    )
    await step.scorer.build(shards, found.folder, services)
    return found


def _earlier(run: OpenRun) -> list[tuple[int, list[ScoreStep]]]:
    """The scorers as they were before each time that shards were appended, with the number of shards then."""
    ends = [part.shards.stop for part in run.history.parts().parts if part.shards]
    return [(end, steps(run.job, run.job.instruction, end if n else None)) for n, end in enumerate(ends[:-1])]


def superseded(run: OpenRun) -> set[str]:
    """Names of the scores that scorers of the pass gave over the shards of earlier rounds."""
    found = {step.name for _, earlier in _earlier(run) for step in earlier if not step.per_shard}
    return found - {step.name for step in steps_of(run)}


def _take_over(run: OpenRun, step: ScoreStep, found: PassIndex) -> None:
    """Link what the index before the last shards came has of the others, so that no passage is embedded twice."""
    index = Index(found.folder)
    if not step.scorer.index_parts or index.manifest() is not None:
        return
    for end, earlier in reversed(_earlier(run)):
        before = next(each for each in earlier if each.scorer is step.scorer)
        folder = index_of(run, before, range(end)).folder
        if disk.exists(folder / "manifest.json"):
            index.open_for_build()
            for name in (part(each, shard) for shard in range(end) for each in step.scorer.index_parts):
                if disk.exists(folder / name):
                    disk.link_once(index.folder / "tmp", folder / name, index.folder / name)
            return


def vectors_of(run: OpenRun) -> Callable[[Sequence[str]], NDArray[Any]] | None:
    """Gives passages the vectors that a scorer of the pass has kept of the run's embedder; None where it has not."""
    kept = (each for each in steps_of(run) if isinstance(each.scorer, RoundTrip) and not each.scorer.brings)
    step = next(kept, None)
    return stored_vectors(index_of(run, step).folder) if step else None


@dataclass(frozen=True, slots=True)
class ScoredShard:
    """A generated shard, decoded once for all scorers and for the rules, and the scores made of it so far."""

    pairs: Shard
    checksum: str
    batch: PairBatch
    scores: dict[str, pa.Table] = field(default_factory=dict)
    """By name of the step, as stored."""

    @property
    def index(self) -> int:
        return self.pairs.meta.shard


def open_shard(run: OpenRun, index: int, scorers: Sequence[ScoreStep], *, whole: bool) -> ScoredShard:
    """Read a shard of `generated/` for these scorers, and with `whole` for rules, which copy every column."""
    generated = run.folder.step("generated")
    columns = [step.scorer.reads for step in scorers]
    if whole or None in columns:
        shard = generated.read(index)
    else:
        wanted = {"id", "source", "source_row", *(name for names in columns for name in names or ())}
        known = generated.schema(index).names
        shard = Shard(generated.read_columns(index, [name for name in known if name in wanted]), generated.meta(index))
    return ScoredShard(shard, generated.checksum(index), PairBatch(shard.table, _passages(run, index)))


async def score(
    run: OpenRun, step: ScoreStep, shard: ScoredShard, services: Services, found: PassIndex | None = None
) -> bool:
    """Score a shard unless that is done; `found` is the index of a scorer of scope `pass`.

    Returns whether the scores are there: False while another process makes them. Answers of chat models and rerankers
    are journaled until the shard is committed. Raises SynthError when a scorer loses a row.
    """
    folder = step.folder(run.folder)
    if folder.file(shard.index).exists():
        return True
    batch = shard.batch
    if found is not None:
        batch = replace(batch, index=found.folder, first=found.firsts[shard.index])
    if not step.journaled:
        await _score(run, step, shard, batch, services)
        return True
    journal: Journal | None = folder.claim(shard.index)
    if journal is None:
        return folder.file(shard.index).exists()
    with closing(journal):
        chat = services.chat and JournaledChat(services.chat, journal, lambda: False)
        await _score(run, step, shard, replace(batch, remember=journal), replace(services, chat=chat))
        journal.drop()
    return True


async def _score(run: OpenRun, step: ScoreStep, shard: ScoredShard, batch: PairBatch, services: Services) -> None:
    pairs, promised = shard.pairs, step.scorer.columns()
    table = None
    if run.pairs and step.per_shard:
        table = await asyncio.to_thread(_stored_scores, run, step.name, step.fingerprint, pairs.table)
    if table is not None:
        table = table.select(promised.names)
    else:
        table = await step.scorer.score(batch, services)
    if table.num_rows != pairs.table.num_rows or table.schema.names != promised.names:
        raise SynthError(
            f"{step.name}: returned {table.num_rows} rows of {table.schema.names} for {pairs.table.num_rows} pairs; "
            f"expected one row a pair of {promised.names}."
        )
    schema = pa.schema([("id", pa.string()), *promised])
    table = pa.Table.from_arrays([pairs.table["id"], *table.columns], schema=schema)
    rows, first = table.num_rows, pairs.meta.first
    origin = Origin(identity=step.fingerprint, input=shard.checksum, first=first, rows_in=rows, rows_out=rows)
    # Where another process was first, its copy counts, and the rules read that one.
    if await asyncio.to_thread(step.folder(run.folder).commit, shard.index, table, origin):
        shard.scores[step.name] = table


def _passages(run: OpenRun, index: int) -> pa.ChunkedArray | None:
    """The texts of the shard's passages; None where pairs came from elsewhere, or are of parts of their passages."""
    return (
        None
        if run.pairs or "unit" in run.task.columns
        else run.folder.step("passages").read_columns(index, ["text"])["text"]
    )


def _stored_scores(run: OpenRun, name: str, fingerprint: str, pairs: pa.Table) -> pa.Table | None:
    """The rows of a score folder of an earlier run for pairs that come from it; None unless it has all of them.

    `name` is that of the folder, `scores/cosine-1a2b3c4d`. Scores count only for the exact shard that they were made
    from, by its checksum.
    """
    sets = {each.source: each for each in run.pairs}
    if not any(each.kind == "shards" for each in sets.values()):
        return None
    ends = {source: list(accumulate(file.rows or 0 for file in each.files)) for source, each in sets.items()}
    rows = zip(pairs["source"].to_pylist(), pairs["source_row"].to_pylist(), strict=True)
    parts: list[pa.Table] = []
    for (source, place), group in groupby(rows, lambda row: (row[0], bisect_right(ends[row[0]], row[1]))):
        file = sets[source].files[place]
        path = Path(file.path)
        root = path.parent.parent
        if sets[source].kind != "shards" or path.parent.name != "generated" or not (root / "job.json").is_file():
            return None
        step, index = OutputFolder.open(root).step(name), int(path.stem)
        if not step.file(index).exists():
            return None
        shard, first = step.read(index), ends[source][place] - (file.rows or 0)
        if shard.meta.identity != fingerprint or shard.meta.input != file.sha256:
            return None
        parts.append(shard.table.take(pa.array([row - first for _, row in group], pa.int64())))
    return pa.concat_tables(parts) if parts else None
