"""`synth sweep`: what each threshold of a score would keep, and rules calibrated to a share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synth.cli.app import AsJson, RunFolder, command
from synth.errors import JobError, SystemFault
from synth.terminal import columns, facts, heading, say, shorten, show, tell, words

if TYPE_CHECKING:
    from rich.console import RenderableType

    from synth.results.calibration import Estimate
    from synth.results.sweep import Cut, Sweep

_BAR = 30
_TEXT = 130


@command(
    "synth sweep out",
    "synth sweep out --by query_language --calibrate keep=0.5 --write rules.yaml",
    "synth sweep out --score reranker --label-column label --at 0.5 --examples",
    "synth sweep out --label-column label --target precision=0.95",
    "synth sweep out --label-column marks --best f1   marks of synth view",
)
def sweep(
    out: RunFolder,
    score: Annotated[str, typer.Option(help="The column to sweep.")] = "cosine",
    by: Annotated[str, typer.Option(metavar="COLUMN[,COLUMN]", help="Also by the groups of these columns.")] = "",
    at: Annotated[str, typer.Option(metavar="N[,N]", help="These thresholds; default: evenly spaced ones.")] = "",
    calibrate: Annotated[
        str | None, typer.Option(metavar="keep=S|random-pairs=S", help="Propose thresholds for a share S, by group.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option(metavar="RULES.yaml", help="Write the proposal, for synth keep --rules.")
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(metavar="COLUMN|marks", help="Labels (above 0: relevant), or marks: precision, recall, AUC."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="precision=P", help="Propose the loosest thresholds with this precision by the labels."),
    ] = None,
    best: Annotated[str | None, typer.Option(metavar="f1", help="Propose the thresholds with the best F1.")] = None,
    lower: Annotated[bool, typer.Option("--lower", help="Lower scores are better.")] = False,
    examples: Annotated[
        bool, typer.Option("--examples", help="Also show pairs on either side of each threshold.")
    ] = False,
    count: Annotated[int, typer.Option("-n", min=1, help="Examples per side.")] = 1,
    as_json: AsJson = False,
) -> None:
    """What each threshold of a score would keep; reads, calls no model."""
    from synth.results.sweep import SweepArgs
    from synth.results.sweep import sweep as work
    from synth.shards import OutputFolder

    flags = {"--calibrate": calibrate, "--target": target, "--best": best}
    goals = [_goal(flag, text) for flag, text in flags.items() if text is not None]
    if write and not goals:
        raise JobError("--write needs a proposal to write.", "Add a goal, for example --calibrate keep=0.5")
    if len(goals) > 1:
        raise JobError("--calibrate, --target and --best are different goals.", "Name one of them.")
    try:
        thresholds = [float(each) for each in _words(at)]
    except ValueError as exc:
        raise JobError(f"--at {at}: expected numbers with commas between them.", "For example --at 0.6,0.7") from exc
    goal = goals[0] if goals else None
    args = SweepArgs(score, _words(by), thresholds, goal, label_column, lower, count if examples else 0)
    folder = OutputFolder.open(out)
    found = work(folder, args)
    if write and found.keep is not None:
        command = f"synth sweep {folder.path.name} --score {score}{' --by ' if by else ''}{','.join(args.by)}"
        _write(write, found.keep, f"{command} {_flag(found)}")
    if as_json:
        say(json.dumps(found.as_json(), ensure_ascii=False))
        return
    _print(found)
    if write:
        tell(f"{write} is written; apply it: synth keep {out} --rules {write} --as calibrated")


_GOALS = {
    "--calibrate": ({"keep", "random-pairs"}, "keep=0.5, random-pairs=0.01"),
    "--target": ({"precision"}, "precision=0.95"),
}


def _goal(flag: str, text: str) -> tuple[str, float]:
    """`keep=0.5`, `random-pairs=0.01`, `precision=0.95` or `f1` as a pair. Raises JobError."""
    if flag == "--best":
        if text == "f1":
            return text, 1.0
        raise JobError(f"--best {text}: not a measure.", "Write --best f1")
    name, _, number = text.partition("=")
    known, example = _GOALS[flag]
    with suppress(ValueError):
        share = float(number)
        if name in known and 0 < share < 1:
            return name, share
    raise JobError(f"{flag} {text}: expects a goal and a share between 0 and 1.", example)


def _write(path: Path, keep: dict[str, Any], comment: str) -> None:
    from synth.results.calibration import as_yaml

    try:
        path.write_text(as_yaml(keep, comment), encoding="utf-8")
    except OSError as exc:
        raise SystemFault(f"{path}: cannot be written: {exc.strerror}.") from exc


def _print(found: Sweep) -> None:
    null = f", {found.missing:,} without this score" if found.missing else ""
    show(words(f"{found.args.score} of {found.rows:,} pairs{null}; the rules in force: {found.rules}\n"))
    show(_table("all pairs", found.overall, found))
    for name, (cuts, _) in found.groups.items():
        show(words(), _table(_group(name), cuts, found))
    if any(cut.shuffled_share is not None for cut in found.overall):
        show(words("\nof shuffled: the share kept of queries with another pair's passage; good: almost none"))
    say()
    say("distribution")
    most = max([1, *found.histogram])
    for low, high, count in zip(found.edges, found.edges[1:], found.histogram, strict=False):
        say(f"  {low:>7.4g} – {high:<7.4g} {'█' * round(_BAR * count / most):<{_BAR}} {count:,}")
    if found.auc:
        rows = [
            (column, "not defined" if value is None else f"{value:.4f}", "lower is better" if lower else "")
            for column, (value, lower) in found.auc.items()
        ]
        show(words(f"\nAUC against {found.args.label}: area under the ROC curve (0.5: no better than chance)"))
        show(columns(("score", "AUC", ""), rows))
    if found.spearman:
        ranked = [(name, "not defined" if value is None else f"{value:.4f}") for name, value in found.spearman.items()]
        show(words(f"\nSpearman's rank correlation with {found.args.label}"))
        show(columns(("score", "Spearman"), ranked))
    for threshold, sides in found.samples.items():
        for word, samples in zip(("kept", "dropped"), sides, strict=True):
            for row in samples:
                texts = [(name, shorten(str(row[name]), _TEXT)) for name in ("query", "passage")]
                title = f"{word} at {_condition(found, threshold)}: {row['id']}, {row['score']:.4f}"
                show(words(), heading(title), facts(texts))
    if found.proposed:
        _print_proposal(found)


def _table(title: str, cuts: Sequence[Cut], found: Sweep) -> RenderableType:
    shuffled = any(cut.shuffled_share is not None for cut in cuts)
    labelled = any(cut.recall is not None for cut in cuts)
    head = [title, "kept", "share", *(["of shuffled"] if shuffled else [])]
    rows = []
    for cut in cuts:
        row = [_condition(found, cut.threshold), f"{cut.kept:,}", f"{cut.share:.1%}"]
        row += [_percent(cut.shuffled_share)] if shuffled else []
        row += [_percent(cut.precision), _percent(cut.recall)] if labelled else []
        rows.append(row)
    return columns([*head, *(["precision", "recall"] if labelled else [])], rows)


def _print_proposal(found: Sweep) -> None:
    show(words(f"\nproposed for {_flag(found).partition(' ')[2]} ({_HOW[found.proposed[0].fit is not None]})"))
    side = "below" if found.args.lower else "above"
    names = [_group(each.group) if each.own else f"{_group(each.group)} *" for each in found.proposed]
    fits = [each.fit for each in found.proposed]
    kept = [(f"{each.threshold:.6g}", f"{each.rows:,}", _percent(each.share)) for each in found.proposed]
    if fits[0] is None:
        shuffled = (_percent(each.shuffled_share, 2) for each in found.proposed)
        rows = [(name, *some, last) for name, some, last in zip(names, kept, shuffled, strict=True)]
        show(columns(("group", side, "pairs", "kept", "of shuffled"), rows))
    else:
        rows = [
            (name, *some, f"{its.labelled:,}" if its else "–")
            for name, some, its in zip(names, kept, fits, strict=True)
        ]
        show(columns(("group", side, "pairs", "kept", "labelled"), rows), words())
        for name, its in zip(names, fits, strict=True):
            if its:
                bounds = {side: its.threshold, "precision": its.precision, "recall": its.recall, "F1": its.f1}
                show(words(f"{name}, 95 % intervals"), facts((what, _interval(each)) for what, each in bounds.items()))
    if fits[0] and fits[0].reached < 1:
        show(words(f"{1 - fits[0].reached:.0%} of the resamples have no threshold that reaches it: label more pairs"))
    if any(not each.own for each in found.proposed):
        show(words("* too few pairs, or none that reaches it: the threshold of all pairs"))


_HOW = ("exact: at most this share lies beyond a threshold", "precision and recall: Wilson; the others: bootstrap")


def _interval(each: Estimate) -> str:
    return f"{each.value:.2f} [{each.low:.2f}, {each.high:.2f}]"


def _condition(found: Sweep, threshold: float) -> str:
    return f"{found.args.score} {'<' if found.args.lower else '>'} {threshold:g}"


def _flag(found: Sweep) -> str:
    """The option that asked for the proposal."""
    name, share = found.args.goal or ("keep", 1.0)
    flag = next((flag for flag, (known, _) in _GOALS.items() if name in known), "--best")
    return f"{flag} {name}" if flag == "--best" else f"{flag} {name}={share:g}"


def _group(name: Sequence[str]) -> str:
    return " → ".join(each or "null" for each in name) or "all pairs"


def _percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{share:.{digits}%}"


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
