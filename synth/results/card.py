"""`OUT/README.md`: the dataset card in the Hub's format, so that `load_dataset("OUT")` works as the folder stands."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from synth.languages import language
from synth.registry import name_of
from synth.results.summary import Summary, totals
from synth.runs.run import OpenRun
from synth.steps import keep


def card(run: OpenRun, summary: Summary) -> str:
    """Front matter that names the configurations, then what the data is, how it was made and how to train with it."""
    codes = [str(row["language"]) for row in summary.languages if row["language"]]
    configs = [{"config_name": "kept", "data_files": "kept/*.parquet", "default": True}]
    if summary.pairs:
        configs.append({"config_name": "generated", "data_files": "generated/*.parquet"})
    configs += [
        {"config_name": name.removeprefix("views/"), "data_files": f"{name}/*.parquet"}
        for name in keep.names(run.folder)
        if run.folder.step(name).done()
    ]
    front = {
        "language": sorted({code.split("-")[0] for code in codes}),
        "task_categories": ["text-retrieval"],
        "tags": ["synth"] if summary.existing else ["synthetic", "synth"],
        "configs": configs,
    }
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "---",
        *_body(run, summary, codes),
    ]
    return "\n".join(lines) + "\n"


def _body(run: OpenRun, summary: Summary, codes: list[str]) -> Iterator[str]:
    yield f"# {'Filtered' if summary.existing else 'Synthetic'} query–passage pairs: {run.folder.path.name}"
    yield ""
    made = f"written for {summary.passages:,} passages by {_models(run)}"
    if summary.existing:
        made = f"from {summary.rows_in:,} rows of {', '.join(each.source for each in run.job.data)}"
    yield f"{summary.pairs:,} pairs {made}; {summary.kept:,} of them passed the rules `{run.job.rules.describe()}`."
    if not summary.existing and "extractive" in _models(run):
        yield ""
        yield (
            "The queries were assembled from the passages' own phrases by the `extractive` baseline, not written by a "
            "language model: good for trying the tool, not for training."
        )
    yield ""
    yield "| configuration | rows | what |"
    yield "|---|---|---|"
    yield f"| `kept` | {summary.kept:,} | pairs with their scores that passed the rules (supervised stage) |"
    yield f"| `generated` | {summary.pairs:,} | every usable pair, unfiltered (weakly supervised stage) |"
    for name in keep.names(run.folder):
        record = keep.record_of(run.folder, name)
        rules = f"those that pass `{record.rules.describe()}`" if record else "another view"
        yield f"| `{name.removeprefix('views/')}` | {totals(run.folder.step(name))[1]:,} | {rules} |"
    yield ""
    if codes:
        yield "Query languages: " + ", ".join(_name(code) for code in codes) + "."
        yield ""
    yield "## Training with it"
    yield ""
    yield "Trainers feed every column they get to the model, so select the two texts first:"
    yield ""
    yield "```python"
    yield "from datasets import load_dataset"
    yield ""
    yield f'pairs = load_dataset("{run.folder.path.name}", "kept", split="train")'
    yield 'pairs = pairs.select_columns(["query", "passage"])'
    yield "```"
    yield ""
    yield "Prompt for the query side, documents raw:"
    yield ""
    yield "```"
    yield f"Instruct: {run.job.instruction}"
    yield "Query:"
    yield "```"


def _models(run: OpenRun) -> str:
    llm = run.job.llm
    return "" if llm is None else f"`{llm.model or name_of(llm)}`"


def _name(code: str) -> str:
    return "unknown" if code == "und" else f"{language(code).name} ({code})"
