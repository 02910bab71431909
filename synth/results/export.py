"""The pairs of a run as files that a trainer opens as they are."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from synth import registry, splits
from synth.document import Document
from synth.errors import JobError, OutputError, ServerRefused, ServerUnavailable
from synth.exports import Counts, Export, Facts, Files, Shape, Source
from synth.job import Job
from synth.names import path_of
from synth.runs.history import History
from synth.runs.run import job_of
from synth.shards import OutputFolder, StepFolder, disk
from synth.sources import require_apart
from synth.sources.files import EXPORT
from synth.sources.options import WILDCARDS
from synth.splits import SplitOptions
from synth.steps.neighbours import RELABELLED, misfit, record_of, relabelled
from synth.types import Layout, Notify
from synth.validation import as_written, override, plain, validate

_FORMAT = 1
RECORD = "export.json"
_REFUSED = frozenset({400, 401, 403, 404, 409, 422})


@dataclass(frozen=True, slots=True)
class ExportArgs:
    """What to export, and where to; None means the default."""

    to: str
    out: Path
    view: str | None = None
    split: Sequence[str] = ()
    group: str | None = None
    document: str | None = None
    negatives: int | None = None
    on_short: str | None = None
    seed: int | None = None
    push: str | None = None
    settings: Sequence[str] = ()


def export(out: Path, args: ExportArgs, notify: Notify) -> tuple[Export, Facts]:
    """Write the files; returns the format and what they hold. Raises SynthError for every way it can end but well."""
    options = options_of(args)
    for flag, value in (("--group", args.group), ("--document", args.document)):
        if value and not args.split:
            what = f"{flag} {value} says how to split, but there is nothing to split."
            raise JobError(what, "Name a split, for example --split test=0.05")
    if args.push is not None and not options.hub:
        what = f"--push: the Hub cannot show {options.title} files."
        raise JobError(what, "Push with --to hub, or another of its layouts.")
    folder = OutputFolder.open(out, notify=notify)
    job, _ = job_of(out)
    layout = options.layout(job.layout)
    if layout.kind not in options.kinds:
        what = f"--to {args.to}: has no rows for a job of {layout.pairs}."
        raise JobError(what, "Export them with --to mteb, jsonl, or a trainer's format.")
    view, step, asked = pairs_of(folder, args.view, options.negatives, notify)
    target = _target(args.out, folder.path)
    require_apart(job.file.input_paths, job.base, target, EXPORT)
    if options.hub and args.push is None and WILDCARDS & set(str(target)):
        notify(f"{args.out}: `datasets` takes *, ? and [ in a path for a pattern; move the files to load them by path.")
    seed = job.file.seed if args.seed is None else args.seed
    divided = SplitOptions.parse(args.split, args.group or "cluster", args.document, seed)
    source = _source(folder, step, divided, options.whole, layout, notify)
    # Count first: which shape rows can have, then what becomes of them in it.
    found = _count(source, Shape())
    if layout.negatives:  # of the task's own, and those mined
        asked = max(found.lengths, default=0)
    shape = options.shape(found, asked)
    if options.graded(layout):
        shape = Shape(0, None if options.any_number else 0, graded=True)
    facts = _facts(source, view, found if shape == Shape() else _count(source, shape), shape, job, args)
    _require_rows(facts)
    with aside(target) as hidden:
        with Files(hidden) as files:
            options.write(source, facts, files)
            files.text("TRAIN.md", options.train(facts))
            if (card := options.card(facts)) is not None:
                files.text("README.md", card)
        _publish(hidden, target, _record(args, options, facts))
    if args.push is not None:
        push(target, args.push)
    return options, facts


def options_of(args: ExportArgs) -> Export:
    """The format that `--to` names, with its options. Raises JobError naming every mistake."""
    cls = registry.find("exports", args.to if ":" in args.to else args.to.replace("-", "_"))
    if not issubclass(cls, Export):
        known = ", ".join(name.replace("_", "-") for name in registry.names("exports"))
        raise JobError(f"--to {args.to}: is not a format.", f"One of: {known}.")
    data: dict[str, Any] = {}
    written = override(data, args.settings)
    flags = {"negatives": args.negatives, "on_short": args.on_short}
    data |= {name: value for name, value in flags.items() if value is not None}
    options, problems = validate(cls, plain(data))
    if as_written(data, problems, written):
        options, problems = validate(cls, plain(data))
    if options is None:
        document = Document("synth export", {}, {}, ())
        raise JobError("\n  ".join(document.describe(each) for each in problems))
    return options


def pairs_of(
    folder: OutputFolder, view: str | None, negatives: int | None, notify: Notify
) -> tuple[str, StepFolder, int | None]:
    """The view, and what to export: `mined/` if it was made from the view as it stands, else the view itself.

    `relabelled/` stands for the view that it was made from. The third is how many negatives mining was asked for, None
    where nothing was mined.

    Raises JobError where there is nothing to export, or where negatives or positives are half done or out of date.
    """
    name = view if view in ("kept", "generated") else f"views/{view}" if view else "kept"
    base, mined = folder.step(name), folder.step("mined")
    done = base.done()
    if not done and name.startswith("views/"):
        raise JobError(f"{folder.path}: has no view {view}.", "See: synth keep --as NAME")
    if not done:
        raise JobError(f"{folder.path}: {name} holds no pairs.", f"Run it first: synth run {folder.path}")
    totals = History.read(folder).totals()
    if totals is None or len(done) < totals["shards"]:
        notify(f"{folder.path}: the run is not finished; these are the pairs that {name} holds now.")
    if relabelled(folder, name):
        base = folder.step(RELABELLED)
    if negatives == 0 or not mined.done():
        return name, base, None
    record = record_of(mined)
    if record["view"] != base.name:
        cure = f"; mine it: synth mine {folder.path} --view {name.removeprefix('views/')}"
        what = f"mined/ has negatives for {record['view']}, so the pairs of {base.name} have none"
        notify(what if name == "generated" else what + cure)
        return name, base, None
    if (wrong := misfit(mined, base)) is not None:
        raise JobError(
            f"{folder.path}: mined/ does not fit {base.name}: {wrong}.",
            f"Mine to the end: synth mine {folder.path}; or take pairs alone: --negatives 0",
        )
    return name, mined, int(record["options"]["num_negatives"])


def _source(
    folder: OutputFolder, step: StepFolder, options: SplitOptions, whole: str, layout: Layout, notify: Notify
) -> Source:
    shards, mined = tuple(sorted(step.done())), step.name == "mined"
    source = Source(folder, step, shards, options.seed, layout=layout, mined=mined, splits=(whole,))
    if not options.shares:
        return source
    notify(f"splitting by {options.group}, so that no group is on both sides")
    found = splits.split(folder, options, layout.anchor if layout.labels else "query")
    most = max(share for _, share in options.shares)
    if found.largest > most:
        notify(f"the largest group holds {found.largest:.1%} of all pairs; shares can be no finer than that")
    return replace(source, splits=found.names, split_of=found.of, held_out=found.held_out)


def _facts(source: Source, view: str, counts: Counts, shape: Shape, job: Job, args: ExportArgs) -> Facts:
    languages: set[str | None] = set()
    for index in source.shards:
        names = [n for n in ("query_language", "passage_language") if n in source.step.schema(index).names]
        for column in source.step.read_columns(index, names).columns:
            languages |= {*column.unique().to_pylist()}
    return Facts(
        title=source.folder.path.name,
        view=view,
        folder=args.out,
        address=args.push or str(args.out),
        instruction=job.instruction,
        seed=source.seed,
        languages=tuple(sorted(str(code) for code in languages - {None, "und"})),
        embedder=job.embed.model if job.embed else None,
        mined=source.mined,
        counts=counts,
        shape=shape,
        layout=source.layout,
    )


def _count(source: Source, shape: Shape) -> Counts:
    counts = Counts(rows=dict.fromkeys(source.splits, 0))
    for _ in source.batches(shape, counts):
        pass
    return counts


def _require_rows(facts: Facts) -> None:
    """Raises JobError where a split would be empty."""
    counts = facts.counts
    if counts.pairs == counts.unusable:
        what = f"{counts.denied:,} of {counts.pairs:,} pairs have label 0 or less, so their passages answer no query"
        if facts.shape.graded:
            what = f"no pair has a value in {facts.layout.score}"
        elif facts.layout.score and counts.denied:
            least = facts.layout.positive_from
            what = f"no pair with a {facts.layout.score} of {least:g} or more, which a positive needs"
        elif not counts.denied:
            what = "no pair has a query and a passage" if counts.pairs else "no pair passed its rules"
        raise JobError(f"{facts.view}: {what}.", "Keep others: synth keep OUT --above … --as NAME, then --view NAME")
    for split, rows in counts.rows.items():
        if rows:
            continue
        if counts.untaught:
            raise JobError(
                f"{split} would be empty: {counts.untaught:,} pairs have a passage that no reranker scored.",
                "Score pairs with `scores: [{use: reranker, …}]` or `synth relabel`, then `synth mine --reranker`.",
            )
        lengths = ", ".join(f"{pairs:,} with {n}" for n, pairs in sorted(counts.lengths.items()))
        if counts.too_few:
            raise JobError(
                f"{split} would be empty: a row needs {facts.shape.least} negatives, and there are {lengths}.",
                "Ask for fewer with --negatives, fill with --on-short fill, or mine with wider rules.",
            )
        raise JobError(f"{split} would be empty.", "Give it a larger --split share, or group less: --group passage_id")


def _record(args: ExportArgs, options: Export, facts: Facts) -> dict[str, Any]:
    """`export.json`: what the files are, so that they can be made again and are known as ours."""
    return {
        "format": _FORMAT,
        "to": args.to,
        "options": options.identity(),
        "view": facts.view,
        "mined": facts.mined,
        "split": list(args.split),
        "group": (args.group or "cluster") if args.split else None,
        "seed": facts.seed,
        "instruction": facts.instruction,
        "counts": asdict(facts.counts)
        | {"lengths": {str(n): rows for n, rows in sorted(facts.counts.lengths.items())}},
    }


def _target(out: Path, run: Path) -> Path:
    """The folder to write. Raises JobError inside the run's folder, OutputError where files are not all ours."""
    target = path_of(out).resolve()
    if target == run or run in target.parents:
        what = f"{out}: is inside the folder of the run, which holds only its own files."
        raise JobError(what, "Choose another -o.")
    if disk.exists(target) and not disk.is_folder(target):
        raise disk.foreign(target)
    _require_ours(out, target)
    return target


@contextmanager
def aside(target: Path) -> Iterator[Path]:
    """A hidden folder beside the target to write in; it goes when it does not become the target.

    Raises OutputError while another export writes there.
    """
    with disk.partial(target) as path:
        try:
            with disk.disk_errors(path):
                for entry in disk.entries(path):
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path)
                    else:
                        os.unlink(entry.path)  # noqa: PTH108 - an entry of a listing
                yield path
        finally:
            if disk.exists(path):  # after a failure, or with the files that were replaced
                shutil.rmtree(path, ignore_errors=True)


def _publish(hidden: Path, target: Path, record: Mapping[str, Any]) -> None:
    """Write the record with the list of files, sync every name, and give the folder its own."""
    below = sorted(hidden.rglob("*"))
    files = sorted(str(path.relative_to(hidden)) for path in below if path.is_file())
    text = json.dumps({**record, "files": files}, indent=2, ensure_ascii=False) + "\n"
    with disk.disk_errors(hidden), (hidden / RECORD).open("wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    for folder in (hidden, *(path for path in below if path.is_dir())):
        disk.sync_folder(folder)
    _require_ours(target, target)
    if disk.exists(target) and not disk.entries(target):
        with disk.disk_errors(target):
            target.rmdir()
    disk.swap_folders(hidden, target)


def _require_ours(name: Path, target: Path) -> None:
    """Every file there must be one that an export listed."""
    if not disk.exists(target) or not disk.entries(target):
        return
    cure = "Choose an empty or a new folder with -o."
    try:
        record = json.loads((target / RECORD).read_bytes())
        known = {RECORD, *record["files"]}
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise OutputError(f"{name}: is not empty and holds no export of synth.", cure) from exc
    there = (str(path.relative_to(target)) for path in target.rglob("*") if path.is_symlink() or not path.is_dir())
    strange = next((each for each in sorted(there) if each not in known), None)
    if strange is not None:
        raise OutputError(f"{name}: holds {strange}, which no export wrote; replacing the folder would lose it.", cure)


def push(folder: Path, name: str) -> None:
    """Upload the folder as a data set of the Hub, private when new; the token comes from the environment.

    Raises ServerRefused, ServerUnavailable.
    """
    from huggingface_hub import HfApi  # noqa: PLC0415 - heavy, and only for this
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError  # noqa: PLC0415 - as above

    # The HTTP library beneath has changed its name before; its base error covers connections that fail.
    named = (each for each in HfHubHTTPError.__mro__ if issubclass(each, Exception) and each.__name__ == "HTTPError")
    failed: type[Exception] = next(named, HfHubHTTPError)
    api = HfApi()
    try:
        api.create_repo(name, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(repo_id=name, repo_type="dataset", folder_path=folder, commit_message="Export of synth")
    except HFValidationError as exc:
        raise JobError(f"--push {name}: is not the name of a repository.", "Write owner/name.") from exc
    except LocalTokenNotFoundError as exc:
        raise ServerRefused(f"--push {name}: no token for the Hub.", "Set HF_TOKEN, or run `hf auth login`.") from exc
    except HfHubHTTPError as exc:
        status = exc.response.status_code
        what = f"--push {name}: the Hub answers {status}: {str(exc).splitlines()[0]}"
        if status in _REFUSED:
            raise ServerRefused(what, "Check HF_TOKEN and the name; the files are on disk.") from exc
        raise ServerUnavailable(what, "Run the same command again; the files are on disk.") from exc
    except (failed, OSError) as exc:
        what = f"--push {name}: the Hub cannot be reached ({exc})."
        raise ServerUnavailable(what, "The files are on disk; run it again.") from exc
