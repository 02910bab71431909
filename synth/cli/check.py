"""`synth check`: everything that can be known of a job before it runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synth.cli.app import AsJson, JobFile, Settings, command
from synth.errors import SynthError
from synth.terminal import facts, heading, say, show, tell

if TYPE_CHECKING:
    from synth.check.costs import Costs
    from synth.check.data import DataReport, PairsReport
    from synth.check.job import Report
    from synth.check.servers import Asked
    from synth.job import Job
    from synth.stage import ProbeResult

_FILES_SHOWN = 10


@command(
    "synth check job.yaml",
    "synth check job.yaml --offline",
    "synth check job.yaml -s llm.base_urls.0=http://node7:8000/v1",
)
def check(
    path: JobFile,
    settings: Settings = [],
    offline: Annotated[bool, typer.Option("--offline", help="Ask no server.")] = False,
    as_json: AsJson = False,
) -> None:
    """Name all mistakes of a job before it runs, and its costs.

    Looks at the job file, the files it names, a sample of the data and each server; writes nothing.
    """
    from synth.check.job import examine
    from synth.document import load_document
    from synth.job import draft_job
    from synth.mixture import entries

    document = load_document(path)
    tasks = entries(document, settings)
    drafts = tasks or {"": draft_job(document, settings)}
    reports, told = {}, (lambda _: None) if as_json else tell
    for name, draft in drafts.items():
        report = reports[name] = examine(draft, Path.cwd(), offline=offline, notify=told)
        if not as_json:
            show(*[heading(name, "═")] if name else [])
            _print(report, draft.job(Path.cwd()))
    if as_json:
        ok = not any(each.findings.code for each in reports.values())
        several = {"ok": ok, "tasks": {name: each.as_json() for name, each in reports.items()}}
        say(json.dumps(several if tasks else reports[""].as_json(), ensure_ascii=False, default=str))
    found = [each.findings for each in reports.values()]
    if count := sum(len(each.mistakes) for each in found):
        error = SynthError(f"{count} {'mistake' if count == 1 else 'mistakes'} found.", "Fix the problems above.")
        error.exit_code = next(each.code for each in found if each.code)
        raise error
    if not as_json:
        say(f"\n{'apart from the warnings ' if any(each.warnings for each in found) else ''}all is well; next:")
        for command in ("run",) if drafts.popitem()[1].data.get("data") else ("preview", "run"):
            say(f"  synth {command} {document.name}")


def _print(report: Report, job: Job | None) -> None:
    if rows := list(_facts(report, job)):
        show(facts(rows))
    for number, text in enumerate(report.findings.mistakes, 1):
        say(f"\nmistake {number}: {text}", wrap=True)
    for text in report.findings.warnings:
        say(f"\nwarning: {text}", wrap=True)


def _facts(report: Report, job: Job | None) -> Iterator[tuple[str, str]]:
    from synth.check.data import PairsReport

    data, pairs = report.data, report.costs.items if report.costs else 0
    if isinstance(data, PairsReport):
        yield from _pairs_facts(data) if data.rows else ()
        pairs = data.expected
    elif data is not None and data.files:
        yield from _data_facts(data)
    yield from report.task
    for asked in report.servers:
        yield from _server_facts(asked)
    if job is not None:
        yield from cost_facts(job, report.costs) if report.costs else ()
        yield from _index_facts(job, report.servers, pairs)


def _pairs_facts(data: PairsReport) -> Iterator[tuple[str, str]]:
    from synth.steps.ingest import describe_renamed

    yield from (("data", layout) for layout in data.layouts)
    how = f"{data.read:,} looked at, spread evenly" if data.sampled else "all looked at"
    yield "rows", f"{data.rows:,}, {how}: {data.pairs:,} pairs"
    if data.renamed:
        yield "renamed", describe_renamed(data.renamed)
    if data.rejected:
        yield "rejected", f"{data.rejected.total():,} ({data.reasons})"
    yield "languages", f"{_shares(data.languages, data.pairs)} (query > passage)"


def _data_facts(data: DataReport) -> Iterator[tuple[str, str]]:
    for file in data.files[:_FILES_SHOWN]:
        rows = "unknown number of rows" if file["rows"] is None else f"{file['rows']:,} rows"
        yield "file", f"{file['path']}: {rows}"
    if len(data.files) > _FILES_SHOWN:
        yield "", f"and {len(data.files) - _FILES_SHOWN:,} more files"
    rows = "an unknown number of" if data.rows is None else f"{data.rows:,}"
    sample = f"{data.read:,} of {rows} rows looked at, spread evenly"
    yield "rows", sample if data.sampled else f"{data.read:,}, all looked at"
    if data.rejected:
        yield "rejected", f"{data.rejected.total():,} ({data.reasons})"
        if data.sampled:
            yield "", "duplicates show only where both rows are in the sample"
    if not data.passages:
        return
    about, mean = "about " if data.sampled else "", data.characters / data.passages
    yield "passages", f"{about}{data.expected:,}, of {mean:,.0f} characters on average, the longest {data.longest:,}"
    if data.chunked or data.cut:
        yield "", f"{data.chunked:,} rows too long and chunked, {data.cut:,} truncated"
    yield "languages", _shares(data.languages, data.passages)


def _shares(languages: Counter[str], of: int) -> str:
    return ", ".join(f"{code} {count / of:.0%}" for code, count in languages.most_common(12))


def _server_facts(asked: Asked) -> Iterator[tuple[str, str]]:
    name = f"{asked.use} {asked.model}".strip()
    for result in asked.results:
        place = "in this process" if result.server == asked.model else f"at {result.server}"
        yield asked.section, f"{name} {place}: {_state(result)}"
    if not asked.results:
        where = [f"at {url}: not asked" for url in asked.servers] or ["in this process"]
        yield from ((asked.section, f"{name} {each}") for each in where)
    if asked.hosts:
        yield "", f"passages leave this machine for {', '.join(asked.hosts)}"
    yield from (("", proxy) for proxy in asked.proxies)


def _state(result: ProbeResult) -> str:
    if not result.reachable:
        return "NOT REACHED"
    facts = [
        f"vLLM {result.version}" if result.version else "",
        f"{result.max_model_len:,} tokens of context" if result.max_model_len else "",
        f"{result.engines} engines, each passage stays with one" if (result.engines or 1) > 1 else "",
        "replies held to the schema" if result.constrained else "",
        "REPLIES NOT HELD TO THE SCHEMA" if result.constrained is False else "",
        f"{result.dimension} dimensions" if result.dimension else "",
        f"question and answer {result.paraphrase:.2f}, unrelated {result.unrelated:.2f}"
        if result.paraphrase is not None and result.unrelated is not None
        else "",
    ]
    return ", ".join(fact for fact in facts if fact) or ("CANNOT BE USED" if result.problems else "answers")


def cost_facts(job: Job, costs: Costs) -> Iterator[tuple[str, str]]:
    """Calls, tokens, texts and disk of a whole run, also for `synth plan`."""
    from rich.filesize import decimal

    from synth.check.costs import BYTES_PER_TOKEN, REPLY_TOKENS

    slots, target = job.require_task().items_per_passage, job.file.target
    if target is not None:
        yield "target", f"{target.kept:,} kept pairs, in at most {target.stop.rounds} rounds"
        yield "", "how many items that takes depends on the rules; below is a run without it"
    calls = round(costs.calls / max(1, costs.items))
    each = f", {calls} {'call' if calls == 1 else 'calls'} each"
    yield "expected", f"{costs.items:,} items ({costs.passages:,} passages × {slots}){each}"
    yield "calls", f"{costs.calls:,} and what is asked again"
    if costs.prompt_tokens is not None:
        computed = f"{costs.computed_tokens or 0:,} of them computed with a prefix cache"
        yield "tokens", f"about {costs.prompt_tokens:,} in, {computed}; {costs.completion_tokens or 0:,} out"
        counted = {"tokenizer": "with the model's tokenizer", "bytes": f"at {BYTES_PER_TOKEN} bytes a token"}
        own = f"prompts counted {counted.get(costs.counted)}, replies at {REPLY_TOKENS} tokens"
        yield "", "as the model counted them in the pilot" if costs.counted == "pilot" else own
    yield "texts", f"{costs.embeddings:,} to embed"
    yield "disk", f"about {decimal(costs.disk_bytes)}, {decimal(costs.disk_free)} free"
    yield "kept", f"pairs with {job.rules.describe()}"


def _index_facts(job: Job, servers: Sequence[Asked], pairs: int) -> Iterator[tuple[str, str]]:
    """What scorers that compare all pairs keep on disk."""
    from rich.filesize import decimal

    widths = [found.dimension for each in servers if each.section == "embed" for found in each.results]
    width = next((each for each in widths if each), None)
    for scorer in job.scores:
        size = scorer.index_bytes(pairs, width or 0)
        if "encoder" in scorer.needs and size and width is None:
            yield "index", f"{scorer.name}: a vector in half precision of each passage on disk, 2 bytes a dimension"
        elif size:
            yield "index", f"{scorer.name}: up to {decimal(size)} on disk"
