"""What a run will ask and store: calls, tokens and bytes, from prompts rendered for a few real passages."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from synth import run_folder
from synth.config import Job
from synth.languages import language, length_phrase
from synth.preflight.data import DataReport
from synth.preflight.findings import Findings
from synth.preflight.mistakes import Material
from synth.prompts import neutralise
from synth.sources import PassageRow
from synth.stage import ConfigInputs, QueryInputs
from synth.tasks._generator import Generator
from synth.tasks.retrieval import Retrieval
from synth.types import Candidates, Passage, QueryConfig, Requirement

BYTES_PER_TOKEN = 4
"""Of UTF-8 text; right for English within a fifth, generous elsewhere."""
REPLY_TOKENS = (45, 35)
"""Usual length of the two stages' replies."""
_COMPRESSED = 0.5
"""Text in zstd, as a share of its bytes."""
_PAIR_BYTES = 400
"""Columns of a pair beside its passage, in two copies (generated/ and kept/), with its scores."""
_PERSONA = "A person of some profession who has a reason to look for what this passage tells"


@dataclass(frozen=True, slots=True)
class Costs:
    """Expected totals over the whole corpus. Tokens are None where no prompt could be rendered."""

    passages: int
    items: int
    calls: int
    prompt_tokens: int | None
    completion_tokens: int | None
    longest_prompt: int | None
    """Tokens of the longest of the prompts rendered."""
    disk_bytes: int
    disk_free: int | None


def expect(job: Job, material: Material, data: DataReport, out: Path) -> Costs:
    """Add up what all passages will cost if every first reply is accepted."""
    task = job.task
    assert isinstance(task, Retrieval)  # noqa: S101 - `check` goes on only with such a task
    items = data.expected * task.queries_per_passage
    stages = 1 if skips_stage_one(job, task) else 2
    sizes: Sequence[tuple[int, int]] = []
    if material.prompts is not None and data.sample:
        generator = run_folder.generator(job, material.prompts)
        names = material.library.sentences if material.library else ()
        sizes = [_prompt_bytes(generator, row, names) for row in data.sample]
    mean = [sum(size) / len(sizes) / BYTES_PER_TOKEN for size in zip(*sizes, strict=True)] if sizes else []
    text = data.expected_bytes * _COMPRESSED
    per_passage = 1 + 2 * min(task.queries_per_passage, 2)  # a repeated text compresses well within a shard
    return Costs(
        passages=data.expected,
        items=items,
        calls=items * stages,
        prompt_tokens=round(sum(mean[-stages:]) * items) if mean else None,
        completion_tokens=sum(REPLY_TOKENS[-stages:]) * items if mean else None,
        longest_prompt=max(max(size) for size in sizes) // BYTES_PER_TOKEN if sizes else None,
        disk_bytes=round(text * per_passage + items * _PAIR_BYTES),
        disk_free=_free(out),
    )


def skips_stage_one(job: Job, task: Retrieval) -> bool:
    """Whether nothing is left for the model to choose, so that an item costs a single call."""
    personas = job.file.personas
    chosen_type = task.question_types != "auto" or len(task.type_names()) == 1
    chosen_level = isinstance(task.difficulties, dict) or len(task.levels()) <= 1
    return (personas is None or personas.top_k == 1) and chosen_type and chosen_level


def check_fit(job: Job, costs: Costs, max_model_len: int | None, findings: Findings) -> None:
    """Warn where prompts will not fit a server's context, or shards not the disk."""
    reply = getattr(job.llm, "max_tokens", 0)
    if max_model_len is not None and costs.longest_prompt and costs.longest_prompt + reply > max_model_len:
        findings.warn(
            f"the longest prompt of the sample has about {costs.longest_prompt:,} tokens, a reply up to {reply:,}; "
            f"the server takes {max_model_len:,} in all. Such items will be rejected as too_long: lower "
            "corpus.max_chars, or start the server with a larger --max-model-len."
        )
    if costs.disk_free is not None and costs.disk_bytes > costs.disk_free:
        findings.warn(
            f"the run needs about {costs.disk_bytes / 1e9:,.1f} GB, the disk has {costs.disk_free / 1e9:,.1f} GB left. "
            "Choose another folder with -o."
        )


def _prompt_bytes(generator: Generator, row: PassageRow, personas: Sequence[str]) -> tuple[int, int]:
    """UTF-8 bytes of both stages' prompts for one passage; which personas are candidates hardly matters for that."""
    task = generator.task
    passage = Passage(0, row.id, row.text, row.language, row.source, row.title)
    count = generator.settings.top_k
    names = (*personas[:count], *[_PERSONA] * count)[:count]
    candidates = Candidates(passage, tuple(names), (0.0,) * len(names))
    types, levels = task.type_names(), task.levels()
    config = QueryConfig(names[0] if names else None, types[0], levels[0] if levels else None)
    code = row.language if row.language != "und" else "en"
    wanted = language(code)
    requirement = Requirement(code, 8, 24, wanted.unit)
    plain = row.source in generator.settings.plain_sources
    text = row.text if plain else neutralise(row.text)[0]
    first = generator.prompts.config_messages(generator.system, ConfigInputs(candidates, types, levels, ()), text)
    second = generator.prompts.query_messages(
        generator.system,
        QueryInputs(candidates, config, requirement, ()),
        text,
        length_phrase(wanted, requirement.length_min, requirement.length_max),
        wanted.name,
    )
    return _size(first), _size(second)


def _size(messages: Sequence[tuple[str, str]]) -> int:
    return sum(len(content.encode("utf-8", "replace")) for _, content in messages)


def _free(out: Path) -> int | None:
    """Bytes free where `out` will lie."""
    here = out.absolute()
    while not here.exists() and here != here.parent:
        here = here.parent
    try:
        return shutil.disk_usage(here).free
    except OSError:
        return None
