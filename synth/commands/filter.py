"""`synth filter`: the quality pass over existing pairs, from paths and flags, as the job file that they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

from synth import job as jobs
from synth.commands.target import Target, resolve
from synth.document import Document
from synth.errors import JobError
from synth.rules.ruleset import mapping
from synth.sources import PairData

SCORES = ("cosine", "language", "length", "copying")
EMBEDDER = {"use": "sentence_transformers", "model": "all-MiniLM-L6-v2"}
"""The quickstart's: on this machine, an English model."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line says about the data and the embedder; None where it says nothing."""

    data: Sequence[str]
    query: str | None = None
    passage: str | None = None
    label: str | None = None
    embed_url: str | None = None
    embed_model: str | None = None

    def flags(self) -> list[str]:
        """What only goes with paths, as it was written."""
        named = {
            "--query-column": self.query,
            "--passage-column": self.passage,
            "--label-column": self.label,
            "--embed-url": self.embed_url,
            "--embed-model": self.embed_model,
        }
        return [*self.data, *(flag for flag, value in named.items() if value is not None)]


def target(
    given: Given,
    job: Path | None,
    out: Path | None,
    rules: Mapping[str, Sequence[str]],
    settings: Sequence[str],
    sample: int | None,
) -> Target:
    """The job of a command line: that of the file `job`, or one made of paths and flags.

    Raises JobError naming every mistake, as for a job file.
    """
    keep = mapping(rules)
    if job is not None:
        if given.flags() or keep:
            what = (given.flags() or [f"--{next(name for name, texts in rules.items() if texts)}"])[0]
            raise JobError(f"-c {job} and {what} do not go together.", "Write it into the file, or set it with -s.")
        found = resolve(job, out, settings, sample)
        if not found.job.data:
            raise JobError(f"{job}: names no `data`.", f"A job that generates is run with: synth run {job}")
        return found
    if not given.data:
        raise JobError("no data are given.", "Name files or a folder, or a job file with -c.")
    if out is None:
        raise JobError("no output folder is given.", "Name one with -o.")
    document = Document("synth filter", _document(given, keep), {}, ())
    folder = out if sample is None else out.with_name(f"{out.name}.sample-{sample}")
    return Target(jobs.build(document, settings, base=Path.cwd()), folder, sample)


def _document(given: Given, keep: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the job file that would say the same."""
    scores = [{"use": name} for name in SCORES]
    entries = _entries(given)
    return {"data": entries if len(entries) > 1 else entries[0], "embed": _embedder(given), "scores": scores} | (
        {"keep": dict(keep)} if keep else {}
    )


def _entries(given: Given) -> list[dict[str, Any]]:
    """The entries of `data:`: one for each folder, which has a layout of its own, one for all files together."""
    columns = {"query": given.query, "passage": given.passage, "label": given.label}
    said = {key: value for key, value in columns.items() if value is not None}
    paths: dict[str | None, list[str]] = {}
    for path in given.data:
        paths.setdefault(path if Path(path).expanduser().is_dir() else None, []).append(path)
    if len(paths) == 1:
        return [{"path": list(given.data)} | said]
    named: dict[str, list[str]] = {}
    for each in paths.values():
        stem = PairData(path=(each[0],)).source
        name = next(name for name in chain([stem], (f"{stem}-{n}" for n in count(2))) if name not in named)
        named[name] = each
    return [{"name": name, "path": each} | said for name, each in named.items()]


def _embedder(given: Given) -> dict[str, Any]:
    if given.embed_url is None:
        return EMBEDDER if given.embed_model is None else EMBEDDER | {"model": given.embed_model}
    if given.embed_model is None:
        raise JobError("--embed-url names no model.", "Add --embed-model, as the server calls it.")
    return {"use": "vllm_server", "model": given.embed_model, "base_urls": [given.embed_url]}
