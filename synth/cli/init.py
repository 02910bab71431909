"""`synth init`: a commented job file to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from synth.cli.app import app, examples
from synth.errors import JobError, SystemFault
from synth.terminal import say


@app.command(
    epilog=examples(
        "synth init",
        'synth init my-job.yaml --corpus "data/*.parquet"',
    )
)
def init(
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The file to write.")] = Path("job.yaml"),
    corpus: Annotated[str, typer.Option(help="Where the passages are.")] = "data/*.jsonl",
) -> None:
    """Write a commented job file to start from."""
    import yaml

    from synth.shipped import shipped

    text = shipped("configs", "template.yaml").read_text(encoding="utf-8")
    quoted = yaml.safe_dump(corpus, default_style='"', width=10_000).strip()
    try:
        with job.open("x", encoding="utf-8") as file:
            file.write(text.replace("@CORPUS@", quoted))
    except FileExistsError as exc:
        raise JobError(f"{job}: exists already.", "Name another file, or remove it first.") from exc
    except OSError as exc:
        raise SystemFault(f"{job}: cannot be written: {exc.strerror}.") from exc
    say(f"wrote {job}; next: synth check {job}")
