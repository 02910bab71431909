"""`OUT/README.md`: the dataset card in the Hub's format, so that `load_dataset("OUT")` works as the folder stands."""

from __future__ import annotations

import json
from collections.abc import Iterator

import yaml

from synth.languages import language
from synth.results.summary import Summary, totals
from synth.runs.run import OpenRun
from synth.stage import name_of
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
        "task_categories": [run.job.layout.category],
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
    llm = run.job.llm
    model = "" if llm is None else llm.model or name_of(llm)
    layout = run.job.layout
    yield f"# {'Filtered' if summary.existing else 'Synthetic'} {layout.pairs}: {run.folder.path.name}"
    yield ""
    made = f"generated from {summary.passages:,} passages with `{model}`"
    if summary.existing:
        made = f"from {summary.rows_in:,} rows of {', '.join(each.source for each in run.job.data)}"
    yield f"{summary.pairs:,} pairs {made}. {summary.kept:,} of them pass the rules `{run.job.rules.describe()}`."
    if summary.target is not None:
        yield ""
        yield f"Target: {'; '.join(summary.target.lines())}."
    if model == "extractive":
        yield ""
        yield (
            f"The `extractive` baseline built these {'queries' if layout.anchor == 'query' else 'texts'} from phrases "
            "of the passages, without a language model: use them to try the tool, not to train."
        )
    yield ""
    yield "| configuration | rows | contents |"
    yield "|---|---|---|"
    yield f"| `kept` | {summary.kept:,} | pairs that pass the rules, with scores (for supervised training) |"
    yield f"| `generated` | {summary.pairs:,} | all valid pairs, unfiltered (for weakly supervised training) |"
    for name in keep.names(run.folder):
        record = keep.record_of(run.folder, name)
        rules = f"pairs that pass `{record.rules.describe()}`" if record else "pairs selected by other rules"
        yield f"| `{name.removeprefix('views/')}` | {totals(run.folder.step(name))[1]:,} | {rules} |"
    yield ""
    if codes:
        names = ["unknown" if code == "und" else f"{language(code).name} ({code})" for code in codes]
        yield f"{'Query languages' if layout.anchor == 'query' else 'Languages'}: {', '.join(names)}."
        yield ""
    columns = [layout.anchor, layout.positive, *([layout.score] if layout.score else [])]
    yield _TRAINING.format(
        name=run.folder.path.name,
        instruction=run.job.instruction,
        columns=json.dumps(columns),
        count="three" if layout.score else "two text",
        where=_WHERE["both" if layout.symmetric else layout.anchor],
    )


_WHERE = {
    "query": "Put this prompt before each query; passages need none:",
    "passage": "Put this prompt before each `passage`; the texts in `query` need none:",
    "text": "Put this prompt before each text; labels need none:",
    "both": "Put this prompt before each text, on both sides:",
}
_TRAINING = """\
## Training

Trainers pass every column to the model, so select the {count} columns first:

```python
from datasets import load_dataset

pairs = load_dataset("{name}", "kept", split="train")
pairs = pairs.select_columns({columns})
```

{where}

```
Instruct: {instruction}
Query:
```"""
