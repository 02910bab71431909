"""What a proof says: figures of every arm, and sentences; as a table, report.md, report.json and report.svg."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from synth.shards import disk
from synth.terminal import columns, words
from synth.training.prove import Outcome, Proof
from synth.training.statistics import Change, change, holm
from synth.training.testsets import Retrieval

if TYPE_CHECKING:
    from rich.console import RenderableType

Record = Mapping[str, Any]
"""`report.json`: all figures, and the sentences. An interval is the fields of `Change`."""

_PAIRED = (("kept", "random"), ("kept", "dropped"), ("generated", "no-llm"))
"""Arms whose difference answers a question: do the rules help, and does the language model?"""
_SURE = 0.05
_BAR = 31
_WIDTH = 100


def report_of(proof: Proof) -> Record:
    """Compare every arm with the model before, and those with each other that answer a question."""
    main, first = proof.tests[0], _values([proof.before], proof.tests[0].name)
    names = list(dict.fromkeys(each.arm for each in proof.models))
    means = {name: _values(_seeds(proof, name), main.name) for name in names}
    changes = {name: change(first, values) for name, values in means.items()}
    adjusted = holm([each.p for each in changes.values()])
    data = proof.data
    record = {
        "model": proof.settings.model,
        "test": main.name,
        "metric": "nDCG@10" if isinstance(main, Retrieval) else "accuracy",
        "queries": len(first),
        "documents": len(main.documents) if isinstance(main, Retrieval) else None,
        "synthetic_queries": isinstance(main, Retrieval) and main.synthetic,
        "steps": proof.settings.max_steps,
        "seeds": proof.seeds,
        "before": float(first.mean()),
        "recall@100": _recall([proof.before], main.name),
        "arms": [
            _line(proof, name, changes[name], p) | {"value": float(means[name].mean())}
            for name, p in zip(names, adjusted, strict=True)
        ],
        "differences": {
            f"{a} − {b}": asdict(change(means[b], means[a])) for a, b in _PAIRED if a in means and b in means
        },
        "runs": list(proof.runs),
        "pairs": len(data.generated),
        "kept": len(data.views["kept"]),
        "near_test_queries": data.near_test,
        "tokens": data.tokens,
        "arms_left_out": data.left_out,
        "settings": proof.settings.identity(),
        "tests": {test.name: test.digest for test in proof.tests},
    }
    return record | {"sentences": list(_sentences(record))}


def _line(proof: Proof, name: str, found: Change, adjusted: float) -> dict[str, Any]:
    """One arm: its change is that of each query's mean over the seeds."""
    main, seeds = proof.tests[0].name, _seeds(proof, name)
    figures = [float(_values([each], main).mean()) for each in seeds]
    combined = {each.model.split("-")[0]: each for each in proof.models if each.arm == name and each not in seeds}
    shown = found.shown and adjusted < _SURE
    return {
        "arm": name,
        "pairs": seeds[0].pairs,
        "seconds": round(sum(each.seconds for each in seeds), 1),
        "cpu_seconds": round(sum(each.cpu_seconds for each in seeds), 1),
        "recall@100": _recall(seeds, main),
        "change": asdict(found),
        "p_holm": adjusted,
        "verdict": "not shown" if not shown else "better" if found.mean > 0 else "worse",
        "queries_for_0.02": found.queries_for(0.02),
        "seed_sd": float(np.std(figures, ddof=1)) if len(seeds) > 1 else None,
        "combined": {each: _from_before(proof, [model], main) for each, model in combined.items()},
        "off_domain": {test.name: _from_before(proof, seeds, test.name) for test in proof.tests[1:]},
    }


def _from_before(proof: Proof, models: Sequence[Outcome], test: str) -> dict[str, float]:
    return asdict(change(_values([proof.before], test), _values(models, test)))


def _seeds(proof: Proof, arm: str) -> list[Outcome]:
    return [each for each in proof.models if each.arm == arm and each.model.isdigit()]


def _values(models: Sequence[Outcome], test: str) -> NDArray[np.float64]:
    """The value of each query, in one order, as a mean over the models."""
    rows = pl.concat([each.rows for each in models]).filter(pl.col("test") == test)
    return rows.group_by("id").agg(pl.col("value").mean()).sort("id")["value"].to_numpy()


def _recall(models: Sequence[Outcome], test: str) -> float | None:
    rows = pl.concat([each.rows for each in models]).filter(pl.col("test") == test)
    found = rows["recall@100"].mean()
    return float(found) if isinstance(found, (int, float)) else None


def _sentences(record: Record) -> Iterator[str]:
    if record["synthetic_queries"]:
        yield "The test queries were generated like the pairs: this says little about people's queries."
    for arm in record["arms"]:
        found = _interval(arm["change"])
        if arm["verdict"] == "not shown":
            count, there = arm["queries_for_0.02"], record["queries"]
            wide = f"±.02 needs about {count:,} queries, here are {there:,}"
            why = wide if count > there else "an interval this narrow leaves room for a small effect only"
            yield f"{arm['arm']}: not shown: {found}; {why}."
        else:
            yield f"{arm['arm']}: {arm['verdict']}: {found}, p {arm['p_holm']:.4f} (Holm)."
    if rules := record["differences"].get("kept − random"):
        yield _on_rules(rules)
    if model := record["differences"].get("generated − no-llm"):
        better, sure = model["mean"] > 0, _shown(model)
        verb = "are" if sure and better else "are not shown to be" if better or not sure else "are not"
        yield f"Generated queries {verb} better than pairs made without a language model: {_interval(model)}."
    for arm in record["arms"]:
        for name, found in arm["off_domain"].items():
            if _shown(found) and found["mean"] < 0:
                yield f"{arm['arm']} forgets: {name} {_interval(found)}. Look at its merged model."


def _on_rules(rules: Mapping[str, float]) -> str:
    if rules["mean"] < 0:
        sure = "" if _shown(rules) else " (which may be chance)"
        return (
            f"Kept is below random{sure}: pairs that the rules keep train worse than as many drawn at random, by "
            f"{_interval(rules)}. A cosine or rank by the model that is trained keeps what it knows already. "
            "Try the score answerable, a larger embedder or a reranker as the judge, or train on all pairs."
        )
    verb = "The rules help" if _shown(rules) else "Whether the rules help is not shown"
    return f"{verb}: kept is above as many drawn at random by {_interval(rules)}."


def _shown(found: Mapping[str, float]) -> bool:
    return found["low"] > 0 or found["high"] < 0


def _interval(found: Mapping[str, float]) -> str:
    return f"{_signed(found['mean'])} [{_signed(found['low'])}, {_signed(found['high'])}]"


def _signed(value: float) -> str:
    """+.072: with a sign, and without the zero."""
    return f"{value:+.3f}".replace("0.", ".", 1).replace("-", "−")


def _tables(record: Record) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Heads and rows: the arms, differences between them, their combined models, other tests."""
    head = ["arm", "pairs", record["metric"], "change", "95 % interval", "p (Holm)", "better/worse"]
    rows = [["before", "", f"{record['before']:.4f}", *[""] * 4]]
    for arm in record["arms"]:
        found = arm["change"]
        ends = f"[{_signed(found['low'])}, {_signed(found['high'])}]"
        share = f"{found['better']:.0%} / {found['worse']:.0%}"
        cells = [arm["arm"], f"{arm['pairs']:,}", f"{arm['value']:.4f}", _signed(found["mean"])]
        rows.append([*cells, ends, f"{arm['p_holm']:.4f}", share])
    yield head, rows
    if record["differences"]:
        found = record["differences"].items()
        yield (
            ["difference", "95 % interval", "p"],
            [[name, _interval(each), f"{each['p']:.4f}"] for name, each in found],
        )
    if record["seeds"] > 1:
        yield ["arm", "SD of seeds"], [[arm["arm"], f"{arm['seed_sd']:.4f}"] for arm in record["arms"]]
    combined = [
        (f"{arm['arm']}, {name}", _interval(each)) for arm in record["arms"] for name, each in arm["combined"].items()
    ]
    if combined:
        yield ["combined models", "change"], [list(each) for each in combined]
    if tests := list(record["tests"])[1:]:
        rows = [[arm["arm"], *map(_interval, arm["off_domain"].values())] for arm in record["arms"]]
        yield ["off-domain change", *tests], rows


def _title(record: Record) -> str:
    size = f", {record['documents']:,} documents" if record["documents"] else ""
    seeds = f", {record['seeds']} seeds" if record["seeds"] > 1 else ""
    return (
        f"{record['model']} on {record['test']} ({record['queries']:,} queries{size}), {record['steps']:,} steps{seeds}"
    )


def _costs(record: Record) -> str:
    seconds, cpu = (sum(arm[name] for arm in record["arms"]) for name in ("seconds", "cpu_seconds"))
    near = record["near_test_queries"]
    left = f", {near:,} left out near test queries" if near else ""
    return (
        f"{record['pairs']:,} pairs, {record['kept']:,} kept{left}; {record['tokens']:,} tokens spent on them. "
        f"Training took {seconds:,.0f} s ({cpu:,.0f} CPU seconds)."
    )


def drawn(record: Record) -> Iterator[RenderableType]:
    """The report for a terminal."""
    yield words(_title(record), "bold")
    yield words()
    (head, rows), *others = _tables(record)
    yield columns(head, rows)
    changes = {arm["arm"]: arm["change"] for arm in record["arms"]}
    scale = max(abs(found[end]) for found in changes.values() for end in ("low", "high")) or 1.0
    ends = f"{_signed(-scale)}{'0':^{_BAR - 10}}{_signed(scale)}"
    bars = (["change", ends], [[name, _bar(found, scale)] for name, found in changes.items()])
    for head, rows in (bars, *others):
        yield words()
        yield columns(head, rows)
    yield words()
    for sentence in (*record["sentences"], _costs(record)):
        yield words(sentence)


def _bar(found: Mapping[str, float], scale: float) -> str:
    """The interval as a line of characters, with zero and the mean."""
    places = (found["low"], found["mean"], found["high"], 0.0)
    low, mean, high, zero = (round((value / scale + 1) / 2 * (_BAR - 1)) for value in places)
    cells = ["─" if low <= place <= high else " " for place in range(_BAR)]
    cells[zero] = "┼" if cells[zero] == "─" else "│"
    cells[mean] = "●"
    return "".join(cells)


def publish(proof: Proof, out: Path) -> Record:
    """Write report.md, report.json, report.svg and per_query.parquet; returns the record. Raises SystemFault."""
    from rich.console import Console  # noqa: PLC0415 - only where something is drawn

    record = report_of(proof)
    parts = [f"# {_title(record)}", *(_grid(head, rows) for head, rows in _tables(record))]
    parts += ["\n".join(f"- {sentence}" for sentence in record["sentences"]), _costs(record)]
    parts.append("Settings: " + ", ".join(f"{name} {value}" for name, value in record["settings"].items()) + ".")
    console = Console(record=True, file=io.StringIO(), width=_WIDTH, highlight=False, markup=False, emoji=False)
    console.print(*drawn(record), sep="\n")
    named = [
        each.rows.select(pl.lit(each.arm).alias("arm"), pl.lit(each.model).alias("model"), pl.all())
        for each in (proof.before, *proof.models)
    ]
    with disk.disk_errors(out):
        (out / "report.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
        (out / "report.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        console.save_svg(str(out / "report.svg"), title="synth prove")
        pl.concat(named).write_parquet(out / "per_query.parquet")
    return record


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["-", *["-:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
