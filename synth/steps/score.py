"""One scorer over one shard: its columns beside the pairs, in a folder named after its options.

Scores never change a pair. A scorer added later computes only its own folder, and a rule reads columns only.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from synth.errors import SynthError
from synth.job import Job
from synth.run import history, identity
from synth.run.run import Run
from synth.scores import PairBatch, PassShard, Scorer
from synth.shards import Journal, Origin, OutputFolder, Shard, StepFolder, disk
from synth.stage import Services
from synth.steps.foreign import stored_scores
from synth.steps.generate import documents
from synth.tables import SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class PassIndex:
    """A finished index, and for every shard how many pairs the shards before it hold."""

    folder: Path
    firsts: dict[int, int]


@dataclass(frozen=True, slots=True)
class GeneratedPass:
    """The shards of `generated/` as a `synth.scores.PassSource`, read one at a time."""

    run: Run
    firsts: dict[int, int]

    def shards(self) -> Iterator[PassShard]:
        """Every shard in the order of its index, with the distinct passages that its pairs may come from."""
        generated, passages = self.run.folder.step("generated"), self.run.folder.step("passages")
        for index, first in self.firsts.items():
            pairs = generated.read(index).table
            texts = pairs["passage"] if self.run.pairs else passages.read_columns(index, ["text"])["text"]
            yield PassShard(index, first, pairs, documents(texts.to_pylist()))


async def build(run: Run, scorer: Scorer, fingerprint: str, services: Services) -> PassIndex:
    """Build the index of a scorer of scope `pass`, or find it built; its folder names scorer and shards.

    Call it when every shard of the pass is generated. Raises what the scorer raises.
    """
    generated = run.folder.step("generated")
    firsts: dict[int, int] = {}
    inputs = hashlib.sha256()
    count = 0
    for index in sorted(generated.done()):
        firsts[index] = count
        count += generated.meta(index).rows_out
        inputs.update(f"{index}:{generated.checksum(index)}\n".encode())
    root = run.folder.path / "index"
    disk.make_folder(root)
    folder = root / f"{fingerprint}-{inputs.hexdigest()[:8]}"
    await scorer.build(GeneratedPass(run, firsts), folder, services)
    return PassIndex(folder, firsts)


_INSTRUCTED = frozenset({"encoder", "reranker"})
"""Services that are told what the searches are for, and answer accordingly."""
_REMEMBERED = frozenset({"chat", "reranker"})
"""Services whose answers are worth a journal; embeddings are not."""


@dataclass(frozen=True, slots=True)
class ScoreStep:
    """A scorer and the folder that its options give it."""

    scorer: Scorer
    fingerprint: str

    @property
    def name(self) -> str:
        return f"scores/{scorer_name(self.scorer)}-{self.fingerprint}"

    @property
    def remembers(self) -> bool:
        """Whether what its models answer is journaled."""
        return bool(self.scorer.needs & _REMEMBERED)

    def folder(self, folder: OutputFolder) -> StepFolder:
        return folder.step(self.name)


@dataclass(frozen=True, slots=True)
class _Beside:
    """What a scorer gets beside the pairs."""

    found: PassIndex | None = None
    journal: Journal | None = None

    def of(self, batch: PairBatch, index: int) -> PairBatch:
        if self.found is not None:
            batch = replace(batch, index=self.found.folder, first=self.found.firsts[index])
        return replace(batch, remember=self.journal)


def scorer_name(scorer: Scorer) -> str:
    """Its `as` name, else that of its module, or of its class where that lies outside of synth."""
    module = type(scorer).__module__
    return scorer.as_ or (module.rsplit(".", 1)[-1] if module.startswith("synth.") else type(scorer).__name__.lower())


def steps(job: Job, instruction: str, whole: int | None = None) -> list[ScoreStep]:
    """The job's scorers with their folders, in the job's order.

    `whole`: how many shards there are, where some were appended. A scorer that looks at all of them then gives other
    values than before, and other values have a folder of their own.
    """
    return [ScoreStep(scorer, _fingerprint(job, scorer, instruction, whole)) for scorer in job.scores]


def steps_of(run: Run) -> list[ScoreStep]:
    """The scorers of a run with their folders. Raises OutputError."""
    found = history.read_parts(run.folder)
    return steps(run.job, run.job.instruction, found.shards if found.several else None)


def _fingerprint(job: Job, scorer: Scorer, instruction: str, whole: int | None) -> str:
    own = identity.fingerprint(
        scorer,
        name=scorer_name(scorer),
        embed=job.embed if "encoder" in scorer.needs - scorer.brings else None,
        chat=job.llm if "chat" in scorer.needs - scorer.brings else None,
        instruction=instruction if scorer.needs & _INSTRUCTED else None,
    )
    return own if whole is None or scorer.scope == "shard" else identity.sha256({"scorer": own, "shards": whole})[:8]


async def score(run: Run, step: ScoreStep, index: int, services: Services, found: PassIndex | None = None) -> bool:
    """Score shard `index` of `generated/` unless it is done; `found` is the index of a scorer of scope `pass`.

    Returns whether the scores are there: not so while another process makes them. What chat models and rerankers answer
    is journaled until the shard is committed. Raises SynthError when a scorer loses a row.
    """
    folder = step.folder(run.folder)
    if folder.file(index).exists():
        return True
    if not step.remembers:
        await _score(run, step, index, services, _Beside(found))
        return True
    journal = folder.claim(index)
    if journal is None:
        return folder.file(index).exists()
    try:
        await _score(run, step, index, services, _Beside(found, journal))
        journal.drop()
    finally:
        journal.close()
    return True


async def _score(run: Run, step: ScoreStep, index: int, services: Services, beside: _Beside) -> None:
    folder = step.folder(run.folder)
    source = run.folder.step("generated")
    shard, digest = await asyncio.to_thread(lambda: (_read(source, step.scorer, index), source.checksum(index)))
    table = None
    if run.pairs and step.scorer.scope == "shard":
        table = stored_scores(run, step.name, step.fingerprint, shard.table)
    if table is not None:
        table = table.select(step.scorer.columns().names)
    else:
        table = await step.scorer.score(beside.of(_batch(run, index, shard.table), index), services)
    if table.num_rows != shard.table.num_rows or table.schema.names != step.scorer.columns().names:
        raise SynthError(
            f"{step.name}: gave {table.num_rows} rows of {table.schema.names} for {shard.table.num_rows} pairs; "
            f"it promised {step.scorer.columns().names}."
        )
    table = pa.Table.from_arrays([shard.table["id"], *table.columns], schema=_schema(step.scorer))
    origin = Origin(
        identity=step.fingerprint,
        input=digest,
        first=shard.meta.first,
        rows_in=table.num_rows,
        rows_out=table.num_rows,
        schema=SCHEMA_VERSION,
    )
    await asyncio.to_thread(folder.commit, index, table, origin)


def _read(source: StepFolder, scorer: Scorer, index: int) -> Shard:
    """A shard, or the columns of it that a scorer looks at."""
    if scorer.reads is None:
        return source.read(index)
    known = source.schema(index).names
    wanted = ("id", "source", "source_row", *scorer.reads)
    return Shard(source.read_columns(index, [name for name in known if name in wanted]), source.meta(index))


def _batch(run: Run, index: int, pairs: pa.Table) -> PairBatch:
    if run.pairs:
        return PairBatch.of(pairs)
    return PairBatch(pairs, documents(run.folder.step("passages").read(index).table["text"].to_pylist()))


def _schema(scorer: Scorer) -> pa.Schema:
    return pa.schema([("id", pa.string()), *scorer.columns()])
