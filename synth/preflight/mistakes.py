"""What is wrong with a job, in itself and with the files it names, all of it at once."""

from __future__ import annotations

import resource
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from synth import run_folder
from synth.config import Draft, Job
from synth.errors import JobError, SynthError
from synth.personas import Library, load_library
from synth.preflight.findings import Finding, Findings
from synth.prompts import Prompts
from synth.rules import Rules
from synth.rules.conditions import Grouped
from synth.sections import SPARE_DESCRIPTORS, PersonaOptions
from synth.shipped import find
from synth.sources import Corpus, InputFile, ReadLimits, inspect
from synth.tables import PAIRS, PASSAGES
from synth.tasks.retrieval import Retrieval
from synth.validation import validate
from synth.yamlfile import Problem


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
    limits = ReadLimits() if draft.file is None else ReadLimits(line=draft.file.limits.line, strict=False)
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
        prompts = run_folder.load_prompts(task, base)
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
