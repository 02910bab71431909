"""A job: one YAML file, checked as a whole before any model is called, and the identity that resume compares.

`load_job` gives either a `Job` made of stages, or one JobError that lists every mistake with its line and its cure.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from synth import registry
from synth.document import Document, Problem, load_document
from synth.errors import JobError
from synth.generators import Generators, read_llm
from synth.names import note
from synth.rules import Rules
from synth.scores import Scorer
from synth.sources import INSTRUCTION, Corpus, PairData, Part, ReadLimits
from synth.sources.options import HUB
from synth.stage import ClientSettings, EmbedStage, LlmStage, Stage, name_of
from synth.tables import PAIRS, carried_name
from synth.target import TargetOptions
from synth.tasks import Task
from synth.terminal import tell
from synth.types import Layout, Notify
from synth.validation import Duration, Size, as_written, override, plain, validate

SPARE_DESCRIPTORS = 64
"""For files, pipes and what libraries keep open."""


Spec = dict[str, Any]


class PersonaOptions(Stage):
    """The persona library, and which of its personas each passage is offered."""

    path: str = "personas/general.jsonl"
    """JSONL, Parquet or plain text, one persona a row; a column `about` is embedded in place of the persona."""
    field: str = "persona"
    """The column that holds the sentence that the model sees."""
    top_k: Annotated[int, Field(ge=1, le=50)] = 5
    """Candidates per passage."""
    min_similarity: Annotated[float, Field(ge=-1, le=1)] = 0.25
    """Leave out personas whose cosine with the passage is lower; a passage may end with none."""
    max_share: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Offer one persona to at most this share of a shard's passages; the nearest ones get it."""
    embed: Spec | None = None
    """An embedder of its own, such as a multilingual one; null: that of the job."""
    pool: Annotated[int, Field(ge=1, le=1000)] = 5
    """Draw the candidates from this many nearest personas, with the item's seed."""


class Limits(Stage):
    """When to wait, when to stop, when to call a run failed."""

    max_unusable_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Exit 6 when a larger share of items ends without a usable pair."""
    outage: Duration = 1800.0
    """How long servers may stay away before the run stops, resumable, with exit 75."""
    startup: Duration = 900.0
    """How long to wait for servers that are still loading at the start."""
    stall: Duration = 900.0
    """How long nothing may complete before the run names what is in flight and stops."""
    max_line_bytes: Size = 64_000_000
    """Longest line of a JSONL or CSV file, and most bytes of one batch of rows."""
    strict: bool = False
    """Stop with exit 3 at the first rejected input row."""


_Amount = Annotated[float, Field(ge=0)]
Price = tuple[_Amount, _Amount, _Amount]
"""Of a million tokens: in prompts, in prompts that the provider had cached, in replies."""


class Budget(Stage):
    """What a run may spend, over all processes of its folder; it stops with exit 75 before a limit is exceeded."""

    tokens: Annotated[int, Field(gt=0)] | None = None
    """Tokens of prompts and replies together."""
    cost: Annotated[float, Field(gt=0)] | None = None
    """Money, in the currency of `price`."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """Hours of work, of all commands together that ran under a budget."""
    price: Price | None = None
    """What a million tokens cost: of prompts, of prompts from the provider's cache, of replies."""

    @model_validator(mode="after")
    def _complete(self) -> Budget:
        if self.cost is not None and self.price is None:
            raise ValueError("cost needs `price: [0.15, 0.075, 0.6]`, of a million tokens in, cached and out")
        return self

    def money(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What tokens cost at most: nothing counts as cached. 0 without a price."""
        into, _, out = self.price or (0.0, 0.0, 0.0)
        return (prompt_tokens * into + completion_tokens * out) / 1e6


class RunOptions(Stage):
    """How a run is carried out; free to change between runs, but for `shard_size`."""

    shard_size: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Passages per shard."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes."""
    concurrency: Annotated[int, Field(ge=1, le=65_536)] | Literal["auto"] = "auto"
    """Requests in flight."""
    request_timeout: Duration = 600.0
    """Seconds one request may take, all in all."""
    keep_replies: Literal["none", "rejected", "all"] = "rejected"
    """Which items keep the model's raw replies."""

    def in_flight(self, notify: Callable[[str], None]) -> int | None:
        """`concurrency` as far as the file descriptors of a process allow, which `notify` is told; None for auto."""
        if self.concurrency == "auto":
            return None
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        room = max(1, allowed - SPARE_DESCRIPTORS)
        if allowed == resource.RLIM_INFINITY or self.concurrency <= room:
            return self.concurrency
        notify(
            f"run.concurrency is {self.concurrency:,}, but a process here has {allowed:,} file descriptors: going on "
            f"with {room:,}. For more run `ulimit -n {self.concurrency + SPARE_DESCRIPTORS}` first."
        )
        return room


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, dict) else value


def _ascending(value: tuple[float, float] | None) -> tuple[float, float] | None:
    if value is not None and not value[0] < value[1]:
        raise ValueError(f"ends at {value[1]:g}, which is not above its start, {value[0]:g}")
    return value


def _plain_folder(value: str) -> str:
    if not value.strip() or value.startswith("~") or ".." in Path(value).parts:
        raise ValueError("names a folder, without `~` or `..`")
    return value


_Bound = Annotated[float, Field(ge=0, le=1)]


class JobFile(Stage):
    """The keys of a job file; what `use:` names is still unresolved."""

    seed: int = 0
    corpus: Annotated[list[Corpus], BeforeValidator(_one_or_many), Field(min_length=1)] | None = None
    data: Annotated[list[PairData], BeforeValidator(_one_or_many), Field(min_length=1)] | None = None
    part: Annotated[tuple[_Bound, _Bound] | None, AfterValidator(_ascending)] = None
    """Only this part of the corpus's rows, such as [0, 0.3]; jobs whose parts do not overlap share none."""
    personas: PersonaOptions | None = PersonaOptions()
    llm: Spec | list[Spec] | None = None
    """One model, a list with shares, or `config` and `query` of either."""
    embed: Spec | None = None
    task: Spec = Field(default={"use": "retrieval"})
    scores: list[Spec] = Field(default=[{"use": name} for name in Task.scores])
    keep: dict[str, Any] | None = None
    limits: Limits = Limits()
    budget: Budget | None = None
    target: TargetOptions | None = None
    run: RunOptions = RunOptions()
    out: Annotated[str, AfterValidator(_plain_folder)] | None = None

    @property
    def input_paths(self) -> list[str]:
        """The paths and patterns of the inputs on this machine."""
        entries = [
            *(each.path for each in self.corpus or ()),
            *(path for each in self.data or () for path in each.path),
        ]
        return [path for path in entries if not path.startswith(HUB)]


@dataclass(frozen=True, slots=True)
class Job:
    """A checked job. `base` is the folder that relative paths start from, `source` its name in messages.

    `code` is the folder of the job file where the job names classes of the user's own, else None.
    """

    source: str
    base: Path
    code: Path | None
    file: JobFile
    llm: LlmStage | None
    """None where nothing is generated and no scorer asks it."""
    embed: EmbedStage | None
    persona_embed: EmbedStage | None
    """Finds the personas of a passage: `personas.embed`, by default `embed`."""
    task: Task | None
    """None in a pass over existing data."""
    scores: tuple[Scorer, ...]
    rules: Rules

    @property
    def corpora(self) -> Sequence[Corpus]:
        return self.file.corpus or []

    @property
    def part(self) -> Part | None:
        """The rows of the corpora that it is about; None for all."""
        return None if self.file.part is None else Part(*self.file.part, self.file.seed)

    @property
    def data(self) -> Sequence[PairData]:
        """Existing pairs to work on, in place of corpora; empty in a job that generates."""
        return self.file.data or []

    @property
    def layout(self) -> Layout:
        """What the pairs are to a trainer: query and passage, unless the task says otherwise."""
        return self.task.layout if self.task else Layout()

    @property
    def instruction(self) -> str:
        """The retrieval task in a sentence, for query vectors and rerankers."""
        given = [self.task.instruction if self.task else "", *(each.instruction or "" for each in self.data)]
        return next(filter(None, given), INSTRUCTION)

    def require_task(self) -> Task:
        """The task of a job that generates, which draws what a target plans. Raises JobError where there is none."""
        if self.task is None:
            raise JobError(f"{self.source}: works on existing pairs and generates nothing.")
        return self.task.planned(self.quotas) if self.quotas else self.task

    @property
    def quotas(self) -> Mapping[str, Mapping[str, float]]:
        """The columns of the target, each with the share (0 to 1) of every value."""
        return self.file.target.quotas(self.task) if self.file.target and self.task else {}

    @property
    def run(self) -> RunOptions:
        return self.file.run

    @property
    def limits(self) -> Limits:
        return self.file.limits

    def client(self, notify: Notify = tell, stopping: Callable[[], bool] = lambda: False) -> ClientSettings:
        """How adapters shall treat servers; `notify` takes one line at a time."""
        return ClientSettings(
            stopping=stopping,
            concurrency=self.run.in_flight(notify),
            request_timeout=self.run.request_timeout,
            outage=self.limits.outage,
            startup=self.limits.startup,
            stall=self.limits.stall,
            notify=notify,
        )

    def read_limits(self) -> ReadLimits:
        return ReadLimits(max_line_bytes=self.limits.max_line_bytes, strict=self.limits.strict)

    def as_json(self) -> dict[str, Any]:
        """The job with every default filled in, as `job.json` keeps it: enough to resume from."""
        absent = {name for name in ("part", "target") if getattr(self.file, name) is None}
        unused = _GENERATION if self.data else {"data", *absent}
        return self.file.model_dump(mode="json", by_alias=True, exclude=unused)


def load_job(path: Path, overrides: Sequence[str] = ()) -> Job:
    """Read, override (`key.path=value`) and check a job file. Raises JobError naming every mistake."""
    return build_job(load_document(path), overrides, base=Path.cwd())


def job_from_json(
    data: Mapping[str, Any], name: str, base: Path, overrides: Sequence[str] = (), code: Path | None = None
) -> Job:
    return build_job(Document(name, dict(data), {}, (), code), overrides, base=base)


def build_job(document: Document, overrides: Sequence[str], base: Path) -> Job:
    """Turn a parsed document into a job. Raises JobError with the problems of all sections."""
    draft = draft_job(document, overrides)
    if (job := draft.job(base)) is not None:
        return job
    raise mistaken(document, draft.problems)


def mistaken(document: Document, problems: Sequence[Problem]) -> JobError:
    """The error that names all of these problems."""
    lines = list(dict.fromkeys(document.describe(problem) for problem in problems))
    if len(lines) == 1:
        return JobError(lines[0])
    return JobError(f"{document.name}: {len(lines)} mistakes\n" + "\n".join(f"  {line}" for line in lines))


@dataclass(frozen=True, slots=True)
class Draft:
    """A job as far as it can be understood: sections with a mistake in them are missing, `problems` says why.

    `data` is the document with the overrides in it, `stages` holds `llm`, `embed`, `personas.embed`, `task` and the
    list `scores`.
    """

    document: Document
    data: Mapping[str, Any]
    file: JobFile | None
    stages: Mapping[str, Any]
    rules: Rules | None
    problems: Sequence[Problem]

    def job(self, base: Path) -> Job | None:
        """The job, or None while there are problems."""
        if self.problems or self.file is None or self.rules is None:
            return None
        return Job(
            source=self.document.name,
            base=base,
            code=self.document.folder if _names_own_code(self.data) else None,
            file=self.file,
            llm=self.stages.get("llm"),
            embed=self.stages.get("embed"),
            persona_embed=self.stages.get("personas.embed", self.stages.get("embed")),
            task=self.stages.get("task"),
            scores=tuple(scorer.at(base) for scorer in self.stages["scores"]),
            rules=self.rules,
        )


def draft_job(document: Document, overrides: Sequence[str] = ()) -> Draft:
    """Check a parsed document section by section. Raises JobError only for an override that cannot be applied."""
    if document.data is None:
        return Draft(document, {}, None, {}, None, document.problems)
    data = plain(document.data)
    given = override(data, overrides)
    if "tasks" in data:
        cure = "`synth run`, `check`, `preview` and `plan` take such a job, in Python `synth.run_tasks`."
        several = Problem(("tasks",), "make a run each, and here one is made", cure)
        return Draft(document, data, None, {}, None, [several])
    if isinstance(data.get("task"), dict):
        data["task"] = JobFile.model_fields["task"].default | data["task"]
    if _names_own_code(data) and document.folder is not None and str(document.folder) not in sys.path:
        sys.path.append(str(document.folder))  # after all installed modules
    _fill_in(data)
    file, stages, found = _sections(data)
    if as_written(data, found, given):
        file, stages, found = _sections(data)
    if file is not None:
        inputs = (*(file.corpus or ()), *(file.data or ()))
        note(part for each in (*file.input_paths, file.out or "") for part in Path(each).parts)
        note(each.source for each in inputs)
    # while a scorer is refused, or the class of the task is not there, nobody knows their columns
    unknown = any(each.path[:1] == ("scores",) or each.path == ("task", "use") for each in found)
    problems = [*document.problems, *found, *_between_sections(data, file), *_between_scorers(data, stages)]
    if file is not None and file.target is not None and data.get("data") is None:
        problems += file.target.problems(stages)
    rules, found = Rules.parse(data.get("keep"), stages.get("scores", ()), stored=unknown)
    if rules is not None and file is not None and not found and not unknown:
        found = rules.absent(_columns(file, stages)) if file.corpus else []
    problems += [Problem(("keep", *each.path), each.message, each.cure) for each in found]
    return Draft(document, data, file, stages, rules, problems)


def _fill_in(data: dict[str, Any]) -> None:
    """Gives a job that names no scorers those of its task, and the task's rules."""
    task = data.get("task")
    if isinstance(task, dict) and "scores" not in data and data.get("data") is None:
        with suppress(JobError):  # which the task's own section reports
            chosen: Any = registry.find("tasks", str(task["use"]), Task)
            data["scores"] = [{"use": name} for name in chosen.scores]
            if chosen.keep:
                data.setdefault("keep", dict(chosen.keep))


def _names_own_code(value: object) -> bool:
    if isinstance(value, Mapping):
        return ":" in str(value.get("use", "")) or any(_names_own_code(each) for each in value.values())
    return isinstance(value, list) and any(_names_own_code(each) for each in value)


def _sections(data: Mapping[str, Any]) -> tuple[JobFile | None, dict[str, Any], list[Problem]]:
    """The job file, and every stage that it names with `use:`, as far as they can be read."""
    file, problems = validate(JobFile, data)
    scorers: list[Any] = []
    stages: dict[str, Any] = {"scores": scorers}
    if isinstance(given := data.get("llm"), dict | list):
        seed = data.get("seed", 0)
        stages["llm"], problems[len(problems) :] = read_llm(given, ("llm",), seed if isinstance(seed, int) else 0)
    for section, kind, base in (("embed", "embed", EmbedStage), ("task", "tasks", Task)):
        spec = data.get(section, JobFile.model_fields[section].default)
        if isinstance(spec, dict) and not (section == "task" and data.get("data") is not None):
            stages[section], found = registry.read_stage(kind, spec, (section,), base)
            problems += found
    personas = data.get("personas")
    if isinstance(personas, dict) and isinstance(personas.get("embed"), dict):
        path = ("personas", "embed")
        stages["personas.embed"], found = registry.read_stage("embed", personas["embed"], path, EmbedStage)
        problems += found
    specs = data.get("scores", JobFile.model_fields["scores"].default)
    for index, spec in enumerate(specs if isinstance(specs, list) else []):
        if isinstance(spec, dict):
            scorer, found = registry.read_stage("scores", spec, ("scores", str(index)), Scorer)
            problems += found
            scorers += [scorer] if scorer is not None else []
    return file, stages, problems


_GENERATION = {"corpus", "part", "personas", "target", "task"}
"""Sections that only a job which generates has."""


_ADD_EMBED = "Add `embed:`, for example {use: sentence_transformers, model: all-MiniLM-L6-v2}"


def _between_sections(data: Mapping[str, Any], file: JobFile | None) -> list[Problem]:
    """What no section can see alone: one that is missing, does not belong here, or has another's name."""
    found: list[Problem] = []
    if data.get("data") is not None:
        what = "belongs to a job that generates, this one works on `data`"
        wrong = [key for key in sorted(_GENERATION) if data.get(key) is not None]
        found += [Problem((key,), what, f"Remove `{key}` or `data`.") for key in wrong]
        if file and len({each.instruction for each in file.data or () if each.instruction}) > 1:
            found.append(Problem(("data",), "gives several instructions", "One job scores with one: make two of it."))
    else:
        personas = data.get("personas", {})
        if data.get("embed") is None and personas is not None and not (personas or {}).get("embed"):
            what = "need an embedder to find the nearest ones"
            found.append(Problem(("personas",), what, f"{_ADD_EMBED}, or set personas to null."))
        cures = {"corpus": "Add `corpus:`, or `data:` for a pass over existing pairs.", "llm": "Add `llm:`."}
        found += [Problem((k,), "is required and not given", text) for k, text in cures.items() if data.get(k) is None]
    sources: dict[str, int] = {}
    for n, source in enumerate(each.source for each in (file and file.corpus) or ()):
        if sources.setdefault(source, n) != n:
            what = f"has the name {source!r}, as corpus.{sources[source]} has"
            found.append(Problem(("corpus", str(n)), what, "Give each a `name` of its own."))
    return found


def _between_scorers(data: Mapping[str, Any], stages: Mapping[str, Any]) -> list[Problem]:
    """Scorers that lack a model, or make the same column."""
    found: list[Problem] = []
    made: dict[str, int] = {}
    for n, scorer in enumerate(stages.get("scores", ())):
        path = ("scores", str(n))
        if data.get("embed") is None and "encoder" in scorer.needs - scorer.brings:
            found.append(Problem(path, "needs an embedder", f"{_ADD_EMBED}, or leave this scorer out."))
        if data.get("llm") is None and "chat" in scorer.needs - scorer.brings:
            found.append(Problem(path, "needs a language model", "Add `llm:`, or leave this scorer out."))
        grader = scorer.models.get("llm", stages.get("llm")) if "chat" in scorer.needs else None
        if isinstance(grader, Generators):
            what = "would be asked of several language models, which grade differently"
            found.append(Problem(path, what, "Give this scorer an `llm:` of its own, or leave it out."))
        elif isinstance(grader, LlmStage) and not grader.judges:
            what = f"cannot be asked of {name_of(grader)}, a baseline that understands nothing"
            found.append(Problem(path, what, "Give this scorer an `llm:` of its own, or leave it out."))
        twice = [name for name, _ in scorer.named_outputs() if made.setdefault(name, n) != n]
        if twice:
            what = f"makes the column {twice[0]}, as scores.{made[twice[0]]} does"
            found.append(Problem(path, what, f"Remove it, or give it another name: as: {scorer.name}_{n + 1}."))
    return found


def _columns(file: JobFile, stages: Mapping[str, Any]) -> set[str]:
    """Every column that a rule can read: of pairs, scores, and what the corpora carry."""
    made = {name for scorer in stages.get("scores", ()) for name, _ in scorer.named_outputs()}
    task, cls = stages.get("task"), cast("type[Task]", registry.find("tasks", file.task["use"], Task))
    taken = {*(task.item_columns if task else cls.columns), *made}
    carried = {carried_name(name) for corpus in file.corpus or () for name in corpus.carry}
    return {*PAIRS.names, *taken, *(f"input_{name}" if name in taken else name for name in carried)}
