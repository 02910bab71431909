"""`synth train`: a model fine-tuned on the pairs of runs."""

# ruff: noqa: ARG001 - options that are settings of a training are read by their names, from the context

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from synth.cli.app import AsJson, command
from synth.errors import JobError, Stopped
from synth.terminal import say, tell


@command(
    "synth train outputs/mine -o model --max-tokens 128",
    "synth train outputs/mine -o model --model BAAI/bge-small-en-v1.5 --epochs 3 --seeds 3",
    "synth train outputs/news outputs/wiki --shares 3,1 -o model --dims 256,128,64",
    "synth train outputs/mine -o model -c configs/train-qwen3-embedding-0.6b.yaml",
    "synth train outputs/mine -o model --loss distil --negatives 7",
)
def train(
    context: typer.Context,
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of runs.", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="MODEL", help="A new folder for the model.")],
    view: Annotated[
        str | None, typer.Option(metavar="NAME", help="A view of `keep --as`, or generated; default: kept.")
    ] = None,
    shares: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Parts of several runs, as 3,1; default: all pairs of each.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", metavar="FILE.yaml", help="Settings; flags come on top.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="A published recipe: `synth list presets`.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Folder or Hub name; default: all-MiniLM-L6-v2.")
    ] = None,
    loss: Annotated[str | None, typer.Option(metavar="masked|plain|distil", help="Default: masked.")] = None,
    distil: Annotated[
        str | None, typer.Option(metavar="kl|margin_mse", help="How to learn a reranker's scores; default: kl.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Divides cosines; default: 0.05.")] = None,
    margin: Annotated[float | None, typer.Option(help="Of the masked loss; default: 0.1.")] = None,
    negatives: Annotated[
        int | None, typer.Option(metavar="N", help="Hard negatives of a pair at most; default: all mined.")
    ] = None,
    dims: Annotated[
        str | None, typer.Option(metavar="1024,512,...", help="Matryoshka: train these widths too.")
    ] = None,
    lora: Annotated[int | None, typer.Option(metavar="RANK", help="Train LoRA adapters, merged at the end.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the pairs; default: 1.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Steps, instead of epochs.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Default: 5e-5.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pairs in a step; default: 32.")] = None,
    mini_batch_size: Annotated[
        int | None, typer.Option(help="Texts at once, so that a large batch fits in memory; default: 32.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Texts are cut there in training; default: 512.")] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Before every query; default: the model's own prompt.")
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="cpu|cuda|mps", help="Default: the best available.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default: 0.")] = None,
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="Train N models, in MODEL/seed-0 and so on.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Fine-tune an embedding model on the kept pairs of runs.

    Hard negatives are used where `synth mine` found some. MODEL is a sentence-transformers folder; its train.json has
    all that made it. Stopped or killed, the same command resumes from the last checkpoint.
    """
    from synth.progress import Display
    from synth.training.fit import TrainSettings
    from synth.training.runs import Steps, TrainArgs, train_runs

    given = {name: value for name in TrainSettings.model_fields if (value := context.params.get(name)) is not None}
    if dims is not None:
        given["dims"] = _numbers(dims, "--dims", int)
    args = TrainArgs(out, view, _numbers(shares, "--shares", float) or (), seeds, preset, config, given)
    steps = Steps()
    with _signals() as received, Display(steps.look, quiet=as_json):
        try:
            made = train_runs(
                runs,
                args,
                notify=(lambda _: None) if as_json else tell,
                on_step=steps,
                stopping=lambda: bool(received),
            )
        except Stopped as exc:
            if not received:
                raise
            raise Stopped(exc.message, exc.hint, interrupted=received[0] == signal.SIGINT) from None
    for folder in made:
        record = json.loads((folder / "train.json").read_bytes())
        if as_json:
            say(json.dumps({"out": str(folder)} | record, ensure_ascii=False))
            continue
        losses = [value for _, value in record["losses"]]
        fall = f", loss {losses[0]:.3f} to {losses[-1]:.3f}" if losses else ""
        negatives_each = sum(name.startswith("negative") for name in record["columns"])
        say(
            f"{folder}: {record['pairs']:,} pairs with up to {negatives_each} negatives, {record['steps']:,} steps in"
            f" {record['seconds']:,.0f} s on {record['device']}{fall}"
        )
    if not as_json:
        say(f"does it help? synth evaluate {' '.join(map(str, made))} --test DIR")


def _numbers(text: str | None, flag: str, kind: type[int | float]) -> list[float] | None:
    if text is None:
        return None
    try:
        return [kind(each) for each in text.split(",")]
    except ValueError:
        raise JobError(f"{flag} {text}: expects numbers with commas between them.", f"For example {flag} 3,1") from None


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that came: the first lets training save a checkpoint, a second one ends the process as usual."""
    received: list[int] = []
    before: dict[int, object] = {}

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[number])  # type: ignore[arg-type]  # what signal.signal returned
        tell("stopping: a checkpoint is saved after this step; another signal exits at once")

    with suppress(ValueError):  # not in the main thread
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)  # type: ignore[arg-type]  # as above
