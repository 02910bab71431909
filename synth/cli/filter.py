"""`synth filter`: the quality pass over existing pairs, from paths and flags, as the job that they describe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synth.cli import app as options
from synth.cli.app import AsJson, Settings, command
from synth.cli.run import run_target
from synth.errors import JobError
from synth.names import path_of

if TYPE_CHECKING:
    from synth.pipeline import Target


@command(
    "synth filter pairs.parquet -o out",
    "synth filter clicks.jsonl -o out --query-column q --above cosine=0.6",
    "synth filter beir/ -o out --embed-url http://gpu7:8100/v1 --embed-model NAME",
    "synth filter -c configs/filter.yaml",
)
def filter(  # noqa: A001 - the command's name
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA...",
            help="Files and patterns of one layout, folders of data sets, folders of runs.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Output folder.")] = None,
    job: Annotated[Path | None, typer.Option("-c", metavar="FILTER.yaml", help="A job file with `data:`.")] = None,
    query_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The query; default: the usual names are tried.")
    ] = None,
    passage_column: Annotated[str | None, typer.Option(metavar="COLUMN", help="The passage; as above.")] = None,
    label_column: Annotated[str | None, typer.Option(metavar="COLUMN", help="Which pairs are relevant.")] = None,
    embed_url: Annotated[str | None, typer.Option(metavar="URL", help="A vLLM server with an embedder.")] = None,
    embed_model: Annotated[str | None, typer.Option(metavar="MODEL", help="The model there, or a local one.")] = None,
    above: options.Above = [],
    below: options.Below = [],
    at_least: options.Min = [],
    at_most: options.Max = [],
    equal: options.Is = [],
    settings: Settings = [],
    sample: Annotated[int | None, typer.Option(min=1, help="Only this many rows, into OUT.sample-N.")] = None,
    workers: options.Workers = None,
    shard: options.Shard = None,
    deadline: options.Deadline = None,
    continue_edited: options.Continue = False,
    as_json: AsJson = False,
) -> None:
    """Score existing pairs and keep the good ones.

    The layout is detected and printed before anything starts; every column of the data stays with its pair. The same
    command again, or `synth run OUT`, resumes where it stopped.
    """
    from synth.process import economise

    economise()
    from synth.pipeline import RunArgs

    flags = {
        "--query-column": query_column,
        "--passage-column": passage_column,
        "--label-column": label_column,
        "--embed-url": embed_url,
        "--embed-model": embed_model,
    }
    given = {flag: value for flag, value in flags.items() if value is not None}
    rules = {"above": above, "below": below, "min": at_least, "max": at_most, "is": equal}
    index, of = options.parse_shard(shard)
    args = RunArgs(workers, index, of, continue_edited=continue_edited)
    run_target(target(data or [], given, job, out, rules, settings, sample), args, deadline=deadline, as_json=as_json)


def target(
    data: Sequence[str],
    flags: Mapping[str, str],
    job: Path | None,
    out: Path | None,
    rules: Mapping[str, Sequence[str]],
    settings: Sequence[str],
    sample: int | None,
) -> Target:
    """The job of a command line: that of the file `job`, or one made of paths and flags.

    Raises JobError naming every mistake, as for a job file.
    """
    from synth.document import Document
    from synth.job import build_job
    from synth.pipeline import EMBEDDER, Target, resolve, sample_folder
    from synth.rules.ruleset import mapping

    if job is not None:
        if given := [*data, *flags, *(f"--{name}" for name, texts in rules.items() if texts)]:
            raise JobError(f"-c {job} and {given[0]} do not go together.", "Write it into the file, or set it with -s.")
        found = resolve(job, out, settings, sample)
        if not found.job.data:
            raise JobError(f"{job}: names no `data`.", f"A job that generates is run with: synth run {job}")
        return found
    if not data:
        raise JobError("no data given.", "Name files or a folder, or a job file with -c.")
    if out is None:
        raise JobError("no output folder given.", "Name one with -o.")
    model = {"model": flags["--embed-model"]} if "--embed-model" in flags else {}
    embed: dict[str, Any] = EMBEDDER | model
    if "--embed-url" in flags:
        if not model:
            raise JobError("--embed-url names no model.", "Add --embed-model, as the server calls it.")
        embed = {"use": "vllm_server", "base_urls": [flags["--embed-url"]], **model}
    columns = {name: flags[f"--{name}-column"] for name in _COLUMNS if f"--{name}-column" in flags}
    spec: dict[str, Any] = {"data": _entries(data, columns), "embed": embed}
    if keep := mapping(rules):
        spec["keep"] = keep
    document = Document("synth filter", spec, {}, ())
    return Target(build_job(document, settings, base=Path.cwd()), sample_folder(out, sample), sample)


_COLUMNS = ("query", "passage", "label")


def _entries(data: Sequence[str], columns: Mapping[str, str]) -> dict[str, Any] | list[dict[str, Any]]:
    """The section `data:`: one entry for each folder, which has a layout of its own, one for all files together."""
    paths: dict[str | None, list[str]] = {}
    for path in data:
        paths.setdefault(path if path_of(path).is_dir() else None, []).append(path)
    if len(paths) == 1:
        return {"path": list(data), **columns}
    from synth.sources import PairData

    named: dict[str, list[str]] = {}
    for each in paths.values():
        stem = PairData(path=(each[0],)).source
        name = next(name for name in chain([stem], (f"{stem}-{n}" for n in count(2))) if name not in named)
        named[name] = each
    return [{"name": name, "path": each, **columns} for name, each in named.items()]
