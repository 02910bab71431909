"""`synth export`: the pairs of a run as files that a trainer opens as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from synth import registry, splits
from synth.commands.handover import Handover, push
from synth.document import Document
from synth.errors import JobError, OutputError
from synth.exports import Counts, Export, Facts, Files, Shape, Source
from synth.job import Job
from synth.run import run as runs
from synth.shards import OutputFolder, StepFolder
from synth.splits import SplitOptions
from synth.terminal import say, tell
from synth.validation import as_written, override, plain, validate

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line says; None where it says nothing."""

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


@dataclass(frozen=True, slots=True)
class Pairs:
    """What is exported: a step, its shards, how many negatives mining was asked for (None: not mined)."""

    view: str
    step: StepFolder
    asked: int | None


def export(out: Path, given: Given, *, as_json: bool) -> None:
    """Write the files and print what they hold. Raises SynthError for every way it can end but well."""
    notice = (lambda _: None) if as_json else tell
    options = options_of(given)
    if not given.split and (flag := _idle(given)):
        raise JobError(
            f"{flag}: says how to split, and nothing is held out.", "Say what, for example --split test=0.05"
        )
    if given.push is not None and not options.hub:
        raise JobError(
            f"--push: the Hub cannot show {options.title} files.", "Push with --to hub, or another of its layouts."
        )
    folder = OutputFolder.open(out, notify=tell)
    job, _ = runs.job_of(out, ())
    pairs = pairs_of(folder, given.view, options.negatives, notice)
    handover = Handover.to(given.out, folder.path)
    seed = job.file.seed if given.seed is None else given.seed
    divided = SplitOptions.parse(given.split, given.group or "cluster", given.document, seed)
    source = _source(folder, pairs, divided, options.whole, notice)
    facts = _facts(source, pairs, options, job, given)
    _usable(facts)
    with handover.aside() as aside:
        with Files(aside) as files:
            options.write(source, facts, files)
            files.text("TRAIN.md", options.train(facts))
            if (card := options.card(facts)) is not None:
                files.text("README.md", card)
        handover.finish(aside, _record(given, options, pairs, facts))
    if given.push is not None:
        push(handover.target, given.push)
    _report(given, options, facts, as_json=as_json)


def options_of(given: Given) -> Export:
    """The format that `--to` names, with its options. Raises JobError naming every mistake."""
    cls = registry.find("exports", given.to if ":" in given.to else given.to.replace("-", "_"))
    if not issubclass(cls, Export):
        raise JobError(f"--to {given.to}: is no export.", f"One of: {', '.join(_names())}.")
    data: dict[str, Any] = {}
    written = override(data, given.settings)
    flags = {"negatives": given.negatives, "on_short": given.on_short}
    data |= {name: value for name, value in flags.items() if value is not None}
    options, problems = validate(cls, plain(data))
    if as_written(data, problems, written):
        options, problems = validate(cls, plain(data))
    if options is None:
        document = Document("synth export", {}, {}, ())
        raise JobError("\n  ".join(document.describe(each) for each in problems))
    return options


def pairs_of(folder: OutputFolder, view: str | None, negatives: int | None, notice: Any) -> Pairs:
    """`mined/` where it was made from the wanted view as it stands, else the view itself.

    Raises JobError where there is nothing to export, or where negatives are half done or out of date.
    """
    name = view if view in ("kept", "generated") else f"views/{view}" if view else "kept"
    base, mined = folder.step(name), folder.step("mined")
    done = base.done()
    if not done and name.startswith("views/"):
        raise JobError(f"{folder.path}: there is no view {view}.", "See: synth keep --as NAME")
    if not done:
        raise JobError(f"{folder.path}: {name} holds no pairs.", f"Run it first: synth run {folder.path}")
    totals = runs.totals(folder)
    if totals is None or len(done) < totals["shards"]:
        notice(f"{folder.path}: the run is not finished; exported is what {name} holds now.")
    plain_pairs = Pairs(name, base, None)
    there = mined.done()
    if negatives == 0 or not there:
        return plain_pairs
    record = _mining(folder, mined.meta(min(there)).identity)
    if record["view"] != name:
        notice(f"mined/ holds negatives for {record['view']}, so {name} goes without{_cure(folder, name)}")
        return plain_pairs
    stale = [index for index in sorted(there) if index in done and mined.stale(index, base.checksum(index))]
    if stale or there != done:
        what = f"shard {stale[0]:08d} has changed since" if stale else f"{len(there)} of {len(done)} shards are done"
        raise JobError(
            f"{folder.path}: mined/ does not fit {name}: {what}.",
            f"Mine to the end: synth mine {folder.path}; or export pairs alone: --negatives 0",
        )
    return Pairs(name, mined, int(record["options"]["num_negatives"]))


def _cure(folder: OutputFolder, name: str) -> str:
    """How a view gets negatives; all pairs are none."""
    return "" if name == "generated" else f"; mine it: synth mine {folder.path} --view {name.removeprefix('views/')}"


def _mining(folder: OutputFolder, fingerprint: str) -> Mapping[str, Any]:
    path = folder.path / "index" / f"mined-{fingerprint[:16]}.json"
    try:
        record = json.loads(path.read_bytes())
        return {"view": str(record["view"]), "options": {"num_negatives": int(record["options"]["num_negatives"])}}
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise OutputError(
            f"{path}: says not how mined/ was made ({exc}).", f"Mine again: synth mine {folder.path}"
        ) from exc


def _idle(given: Given) -> str | None:
    """A flag that means something with --split alone."""
    return f"--group {given.group}" if given.group else f"--document {given.document}" if given.document else None


def _source(folder: OutputFolder, pairs: Pairs, options: SplitOptions, whole: str, notice: Any) -> Source:
    shards, mined = tuple(sorted(pairs.step.done())), pairs.asked is not None
    source = Source(folder, pairs.step, shards, options.seed, mined=mined, splits=(whole,))
    if not options.shares:
        return source
    notice(f"splitting by {options.group}, so that no group stands on both sides")
    found = splits.split(folder, options)
    most = max(share for _, share in options.shares)
    if found.largest() > most:
        notice(f"the largest group holds {found.largest():.1%} of all pairs; shares can be no finer than that")
    return replace(source, splits=found.names, split_of=found.of, held_out=found.held_out)


def _facts(source: Source, pairs: Pairs, options: Export, job: Job, given: Given) -> Facts:
    """Count first: which shape rows can have, then what becomes of them in it."""
    found = _count(source, Shape())
    shape = options.shape(found, pairs.asked)
    counts = found if shape == Shape() else _count(source, shape)
    return Facts(
        title=source.folder.path.name,
        view=pairs.view,
        folder=given.out,
        address=given.push or str(given.out),
        instruction=job.instruction,
        seed=source.seed,
        languages=_languages(source),
        embedder=getattr(job.embed, "model", None),
        mined=pairs.asked is not None,
        counts=counts,
        shape=shape,
    )


def _count(source: Source, shape: Shape) -> Counts:
    counts = Counts(rows=dict.fromkeys(source.splits, 0))
    for _ in source.batches(shape, counts):
        pass
    return counts


def _languages(source: Source) -> tuple[str, ...]:
    codes: set[str] = set()
    for index in source.shards:
        names = [n for n in ("query_language", "passage_language") if n in source.step.schema(index).names]
        for column in source.step.read_columns(index, names).columns:
            codes |= {*column.unique().to_pylist()}
    return tuple(sorted(str(code) for code in codes - {None, "und"}))


def _usable(facts: Facts) -> None:
    """Raises JobError where a split would be empty."""
    counts = facts.counts
    if counts.pairs == counts.unusable:
        what = "no pair has a query and a passage that answers it" if counts.pairs else "no pair passed its rules"
        raise JobError(f"{facts.view}: {what}.", "Keep others: synth keep OUT --above … --as NAME, then --view NAME")
    for split, rows in counts.rows.items():
        if rows:
            continue
        lengths = ", ".join(f"{pairs:,} with {n}" for n, pairs in sorted(counts.lengths.items()))
        if counts.too_few:
            raise JobError(
                f"{split} would be empty: a row needs {facts.shape.least} negatives, and there are {lengths}.",
                "Ask for fewer with --negatives, fill with --on-short fill, or mine with wider rules.",
            )
        raise JobError(f"{split} would be empty.", "Give it a larger --split share, or group less: --group passage_id")


def _record(given: Given, options: Export, pairs: Pairs, facts: Facts) -> dict[str, Any]:
    """`export.json`: what the files are, so that they can be made again and are known as ours."""
    return {
        "format": _FORMAT,
        "to": given.to,
        "options": options.identity(),
        "view": pairs.view,
        "mined": facts.mined,
        "split": list(given.split),
        "group": (given.group or "cluster") if given.split else None,
        "seed": facts.seed,
        "instruction": facts.instruction,
        "counts": asdict(facts.counts)
        | {"lengths": {str(n): rows for n, rows in sorted(facts.counts.lengths.items())}},
    }


def _report(given: Given, options: Export, facts: Facts, *, as_json: bool) -> None:
    counts = facts.counts
    if as_json:
        plain_counts = asdict(counts) | {"lengths": {str(n): rows for n, rows in sorted(counts.lengths.items())}}
        say(json.dumps({"to": given.to, "out": str(given.out), "negatives_a_row": facts.negatives()} | plain_counts))
        return
    rows = ", ".join(f"{split} {count:,}" for split, count in counts.rows.items())
    say(f"{given.out}: {options.title}, {rows} rows of {counts.pairs:,} pairs, {facts.negatives()} negatives at most")
    for count, what in (
        (counts.unusable, "pairs without a query or a passage that answers it"),
        (counts.too_few, f"pairs left out: fewer than {facts.shape.least} negatives (--negatives, --on-short fill)"),
        (counts.filled, "pairs filled with random passages of others"),
        (counts.held_out, "passages left out of train, because another split shows them"),
        (counts.extra_positives, "extra positives, verified by the reranker"),
    ):
        if count:
            say(f"  {count:,} {what}")
    say(f"how to train on them: {given.out / 'TRAIN.md'}")


def _names() -> list[str]:
    return [name.replace("_", "-") for name in registry.names("exports")]
