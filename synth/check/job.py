"""What is wrong with a job, in itself and with the files it names, all of it at once."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from synth.check.data import DataReport
from synth.check.findings import Finding, Findings
from synth.document import Problem
from synth.errors import JobError, SynthError
from synth.job import SPARE_DESCRIPTORS, Draft, Job, PersonaOptions
from synth.languages import language, length_phrase
from synth.personas import Library, load_library
from synth.prompts import Prompts, neutralise
from synth.rules import Rules
from synth.rules.conditions import Grouped
from synth.run import run as runs
from synth.shipped import find
from synth.sources import Corpus, InputFile, PassageRow, ReadLimits, inspect
from synth.stage import ConfigInputs, QueryInputs
from synth.tables import PAIRS, PASSAGES
from synth.tasks.retrieval import Generator, Retrieval
from synth.types import Candidates, Passage, QueryConfig, Requirement
from synth.validation import validate


@dataclass(slots=True)
class Material:
    """What a job reads, as far as it can be read: None and empty where it cannot."""

    files: Sequence[InputFile] = ()
    prompts: Prompts | None = None
    library: Library | None = None


def read_material(draft: Draft, base: Path, findings: Findings) -> Material:
    """Read all files that a job names beside itself; also of sections whose neighbours have mistakes."""
    return Material(
        files=_files(draft, base, findings),
        prompts=_prompts(draft, base, findings),
        library=_library(draft, base, findings),
    )


def _files(draft: Draft, base: Path, findings: Findings) -> list[InputFile]:
    """The inputs of every corpus that can be understood, each looked at by itself."""
    given = draft.data.get("corpus")
    specs = given if isinstance(given, list) else [given] if isinstance(given, dict) else []
    limits = (
        ReadLimits()
        if draft.file is None
        else ReadLimits(max_line_bytes=draft.file.limits.max_line_bytes, strict=False)
    )
    files: list[InputFile] = []
    names: dict[str, int] = {}
    for index, spec in enumerate(specs):
        path = ("corpus", str(index)) if isinstance(given, list) else ("corpus",)
        corpus, _ = validate(Corpus, spec)
        if corpus is None:
            continue
        if (first := names.setdefault(corpus.source, index)) != index:
            what = f"is called {corpus.source!r}, as corpus.{first} is"
            findings.problem(draft.document, Problem(path, what, "Give each a `name` of its own."))
        try:
            seen = inspect([corpus], base, limits)
        except JobError as exc:
            message = exc.message.removeprefix("corpus.path: ")
            findings.problem(draft.document, Problem((*path, "path"), message, exc.hint))
        except SynthError as exc:
            findings.add(Finding.of(exc))
        else:
            files += [_at(each, index) for each in seen]
    return files


def _at(file: InputFile, index: int) -> InputFile:
    return replace(file, corpus_index=index)


def _prompts(draft: Draft, base: Path, findings: Findings) -> Prompts | None:
    task = draft.stages.get("task") or _only_files(draft.data.get("task"))
    if not isinstance(task, Retrieval):
        return None
    try:
        prompts = runs.load_prompts(task, base)
    except SynthError as exc:
        findings.add(Finding.of(exc, f"{draft.document.name}: task: "))
        return None
    fitting = [e for e in prompts.examples if _fits(task, e.config.question_type, e.config.difficulty)]
    if len(fitting) < len(prompts.examples):
        findings.warn(
            f"{len(prompts.examples) - len(fitting)} of {len(prompts.examples)} worked examples are of question types "
            "or difficulties that the job does not ask for; the prompt goes without them. "
            "Write some of your own: task.examples."
        )
    return prompts


def _only_files(given: object) -> Retrieval | None:
    """Of a task with mistakes elsewhere, the files that it names."""
    named = {key: given[key] for key in ("prompts", "examples") if key in given} if isinstance(given, dict) else {}
    return validate(Retrieval, named)[0]


def _fits(task: Retrieval, question_type: str, difficulty: str | None) -> bool:
    return question_type in task.type_names() and (not task.levels() or difficulty in task.levels())


def _library(draft: Draft, base: Path, findings: Findings) -> Library | None:
    given = draft.data.get("personas", {})
    options = validate(PersonaOptions, given)[0] if isinstance(given, dict) else None
    if options is None:
        return None
    try:
        return load_library(find("personas", options.path, base), options.field)
    except JobError as exc:
        findings.problem(draft.document, Problem(("personas", "path"), exc.message, exc.hint or "Check the path."))
    except SynthError as exc:
        findings.add(Finding.of(exc))
    return None


def check_scorers(draft: Draft, base: Path, findings: Findings) -> None:
    """Files of scorers that cannot be used."""
    for scorer in draft.stages.get("scores", ()):
        try:
            scorer.at(base).require()
        except SynthError as exc:
            findings.add(Finding.of(exc, f"{draft.document.name}: "))


def check_rules(draft: Draft, findings: Findings) -> None:
    """Columns that rules read and nothing makes."""
    if draft.rules is None:
        return
    corpora = draft.file.corpus if draft.file else []
    for problem in draft.rules.absent(_columns(corpora, draft)) if corpora else ():
        findings.problem(draft.document, Problem(("keep", *problem.path), problem.message, problem.cure))


def _columns(corpora: Iterable[Corpus], draft: Draft) -> set[str]:
    """What a pair with its scores will have."""
    ours = {*PAIRS.names, *PASSAGES.names}
    carried = {name for corpus in corpora for name in corpus.carry}
    made = {name for scorer in draft.stages.get("scores", ()) for name, _ in scorer.named_outputs()}
    return {*PAIRS.names, *made, *(f"input_{name}" if name in ours else name for name in carried)}


def check_languages(job: Job, found: Sequence[str], findings: Findings) -> None:
    """Queries in other languages than the backend can write, and groups without a threshold.

    `found` are the passage languages of the sample; empty where none could be read.
    """
    task = job.task
    if not isinstance(task, Retrieval):
        return
    pairs = _language_pairs(task, found)
    crossing = [f"{query} for {passage}" for passage, query in pairs if query != passage]
    crosses = bool(crossing) if found else task.languages.crosses()
    if crosses and not getattr(type(job.llm), "cross_lingual", True):
        shown = f" ({', '.join(crossing[:3])})" if crossing else ""
        findings.add(
            Finding(
                f"{job.source}: task.languages: asks for queries in another language than the passage's{shown}, "
                "which this llm cannot write. Use a real model, or set languages: {same: 1}.",
                2,
            )
        )
    _check_groups(job.rules, task, pairs, job, findings)


def _language_pairs(task: Retrieval, found: Sequence[str]) -> list[tuple[str, str]]:
    """(passage language, query language) that can occur."""
    rules = task.languages.root
    pairs: list[tuple[str, str]] = []
    for passage in found:
        weights = rules.get(passage) or rules.get("other") or {}
        pairs += [(passage, passage if name == "same" else name) for name, weight in weights.items() if weight > 0]
    return pairs


def _check_groups(
    rules: Rules, task: Retrieval, pairs: Sequence[tuple[str, str]], job: Job, findings: Findings
) -> None:
    """Groups that this job's pairs can fall into and that a threshold by group has no value for."""
    known: dict[str, Sequence[str]] = {
        "question_type": task.type_names(),
        "difficulty": task.levels(),
        "source": [corpus.source for corpus in job.corpora],
        "task": ["retrieval"],
    }
    for condition in rules.conditions:
        grouped = condition.value
        languages = ("passage_language", "query_language")
        if not isinstance(grouped, Grouped) or any(name not in (*known, *languages) for name in grouped.by):
            continue
        missing: dict[str, None] = {}
        for passage, query in pairs or [("", "")]:
            values = known | {"passage_language": [passage], "query_language": [query]}
            for key in product(*(values[name] for name in grouped.by)):
                if all(key) and not grouped.covers(key):
                    missing[", ".join(key)] = None
        if missing:
            shown = "; ".join(list(missing)[:5]) + ("; …" if len(missing) > 5 else "")  # noqa: PLR2004 - enough to see
            findings.add(
                Finding(
                    f"{job.source}: keep.{condition.column}.{condition.operator}: no value for {shown}, which this job "
                    "can produce. Add them, or `default:`.",
                    2,
                )
            )


def check_descriptors(slots: int, findings: Findings) -> None:
    """Warn where the requests in flight would need more file descriptors than a process may have."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed != resource.RLIM_INFINITY and slots + SPARE_DESCRIPTORS > allowed:
        findings.warn(
            f"{slots:,} requests in flight need more than the {allowed:,} file descriptors of a process here. "
            f"Run `ulimit -n {2 * (slots + SPARE_DESCRIPTORS)}` first, or lower run.concurrency."
        )


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
        generator = runs.generator(job, material.prompts)
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
