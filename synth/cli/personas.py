"""`synth personas`: which personas the passages of a corpus would be offered; calls no language model."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synth.cli.app import AsJson, Settings, command
from synth.errors import JobError
from synth.terminal import facts, heading, say, shorten, show, tell, words

if TYPE_CHECKING:
    from synth.job import Job
    from synth.types import Candidates

_TEXT = 160
_MOST_OFFERED = 10


@command(
    "synth personas docs/",
    "synth personas docs.jsonl -n 200 -s personas.min_similarity=0.3",
    "synth personas docs/ -s personas.path=mine.jsonl --show 10",
    "synth personas job.yaml",
)
def personas(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS|JOB.yaml", help="Documents, or a job file that names them.")],
    count: Annotated[int, typer.Option("-n", min=1, help="How many passages, spread over the corpus.")] = 50,
    shown: Annotated[int, typer.Option("--show", min=0, help="Of how many to show the personas.")] = 5,
    settings: Settings = [],
    as_json: AsJson = False,
) -> None:
    """Show the personas that a sample of passages would be offered, with their cosines, and the most used ones.

    Passages with none are asked without a character. A low cosine says that the library lacks their field: write
    personas of your own, one JSON object a line with `about` (what is compared) and `persona` (what the model sees).
    """
    from synth.check.trial import Trial, choose

    job = _job(corpus, settings)
    trial = Trial(job, tell)
    if trial.library is None:
        raise JobError(f"{corpus}: the job has no personas.", "Remove `personas: null`.")
    chosen = choose(job, trial.inputs, count, None)
    tell(f"{corpus}: comparing {len(chosen):,} passages with {len(trial.library.sentences):,} personas")
    found = asyncio.run(trial.offers(chosen))
    if as_json:
        say(json.dumps({"passages": [_facts(each) for each in found], "most_offered": _most(found)}))
        return
    for each in found[:shown]:
        passage = each.passage
        show(heading(f"{passage.source}/{passage.id}"))
        show(words(shorten(" ".join(filter(None, (passage.title, passage.text))), _TEXT)))
        offered = zip(each.personas, each.similarities, strict=True)
        show(facts(((f"{cosine:.2f}", persona) for persona, cosine in offered), least=4))
        show(words("" if each.personas else "none is near enough\n"))
    most = list(_most(found).items())[:_MOST_OFFERED]
    show(facts([("share", "most offered"), *((f"{n / len(found):.0%}", who) for who, n in most)], least=5))
    _sum_up(job, found)


def _job(corpus: str, settings: Sequence[str]) -> Job:
    """The job of a file, or one over these documents with the default personas. Raises JobError."""
    from synth.document import Document
    from synth.job import build_job, load_job
    from synth.pipeline import EMBEDDER

    if Path(corpus).suffix in {".yaml", ".yml"}:
        return load_job(Path(corpus), settings)
    spec = {"corpus": {"path": corpus}, "llm": {"use": "extractive"}, "embed": EMBEDDER}
    return build_job(Document("synth personas", spec, {}, ()), settings, base=Path.cwd())


def _most(found: Sequence[Candidates]) -> dict[str, int]:
    return dict(Counter(persona for each in found for persona in each.personas).most_common())


def _facts(each: Candidates) -> dict[str, object]:
    offered = zip(each.personas, each.similarities, strict=True)
    return {"id": each.passage.id, "personas": [{"persona": who, "cosine": round(cos, 4)} for who, cos in offered]}


def _sum_up(job: Job, found: Sequence[Candidates]) -> None:
    options = job.file.personas
    assert options is not None  # noqa: S101 - there is a library
    nearest = sorted(each.similarities[0] for each in found if each.similarities)
    none = len(found) - len(nearest)
    text = f"\n{len(nearest):,} of {len(found):,} passages have a persona"
    if nearest:
        text += f"; cosine of the nearest: median {nearest[len(nearest) // 2]:.2f}, lowest {nearest[0]:.2f}"
    if none:
        text += f"; {none:,} have none of personas.min_similarity = {options.min_similarity:g} or more"
    show(words(text + "."))
