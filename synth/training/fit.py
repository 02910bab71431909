"""One model fine-tuned on pairs: settings, rows, checkpoints of a stopped training, and the finished folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field

from synth.embed.sentence_transformers import SentenceTransformersEmbedder
from synth.errors import JobError, OutputError, Stopped
from synth.names import path_of
from synth.shards import disk
from synth.stage import Stage
from synth.types import Notify
from synth.validation import Duration

RECORD = "train.json"
_SURE = 1e-6
"""Probabilities are kept this far from 0 and 1, so that their logits stay finite (±13.8)."""


class TrainSettings(Stage):
    """How a model is trained; also the keys of `synth train --config FILE.yaml`."""

    tuning: ClassVar[frozenset[str]] = frozenset({"device", "checkpoint"})

    model: str = "all-MiniLM-L6-v2"
    """The model to start from: the embedded default, a folder, or a name on the Hub."""
    loss: Literal["masked", "plain", "distil"] = "masked"
    """`masked`: InfoNCE of the Qwen3-Embedding report; `plain`: InfoNCE; `distil`: a reranker's scores."""
    distil: Literal["kl", "margin_mse"] = "kl"
    """For `distil`: KL divergence between the softmax of both, or the squared error of score differences."""
    temperature: float = Field(default=0.05, gt=0)
    """Cosines are divided by this."""
    margin: float = Field(default=0.1, ge=0)
    """For `masked`: terms that exceed the positive's cosine by more than this are left out of the loss."""
    negatives: int | None = Field(default=None, ge=0)
    """Hard negatives of a pair at most; null takes all that were mined."""
    dims: tuple[int, ...] = ()
    """Widths at which the loss is also taken (Matryoshka); the model's own is always among them."""
    lora: int | None = Field(default=None, gt=0)
    """Rank of LoRA adapters on all linear layers, with alpha twice the rank; null trains every weight."""
    epochs: float = Field(default=1, gt=0)
    """Passes over the pairs."""
    max_steps: int | None = Field(default=None, gt=0)
    """Steps, instead of `epochs`."""
    learning_rate: float = Field(default=5e-5, gt=0)
    """Its highest value: it grows over the first tenth of the steps, then falls to 0, both linearly."""
    batch_size: int = Field(default=32, gt=1)
    """Pairs in a step; the passages of one are negatives of the others."""
    mini_batch_size: int = Field(default=32, gt=0)
    """Texts that go through the model at once; a larger batch is computed in parts of this size, twice."""
    device: Literal["cpu", "cuda", "mps"] | None = None
    """null takes the best available. One GPU is used; CUDA_VISIBLE_DEVICES chooses it."""
    prompt: str | None = None
    """Text before every query, saved with the model; null keeps the model's own prompt, if it has one."""
    max_tokens: int = Field(default=512, gt=0)
    """Longer texts are cut in training. The saved model keeps its own limit."""
    seed: int = 0
    """Of the order of pairs, dropout and new adapters."""
    checkpoint: Duration = 300.0
    """Time between checkpoints, from which a stopped training resumes."""

    def source(self) -> str:
        """The folder or Hub name of `model`. Raises JobError, InputError."""
        return SentenceTransformersEmbedder(model=self.model).folder()


def fit(
    pairs: pl.DataFrame,
    settings: TrainSettings,
    out: Path,
    *,
    notify: Notify | None = None,
    on_step: Callable[[int, int, float | None], None] | None = None,
    stopping: Callable[[], bool] = lambda: False,
    origin: Mapping[str, Any] | None = None,
) -> Path:
    """Train on pairs; returns `out`, the folder of a sentence-transformers model with `train.json` beside its files.

    `pairs` has the columns query and passage; optionally negatives (list of str) and scores (list of float: a
    teacher's, the positive's first, then one for each negative; values from 0 to 1 are probabilities, others logits).
    The same call again returns at once when it is done, and resumes from the last checkpoint when it is not.

    `on_step` is told steps done, steps in all and the last loss. Once `stopping` returns true, a checkpoint is saved
    and Stopped is raised. `origin` goes into `train.json`: where the pairs come from.

    Raises JobError, InputError; OutputError where `out` or a checkpoint was made by another call; SystemFault.
    """
    notify = notify or (lambda _: None)
    columns = _columns(pairs, settings, notify)
    source = settings.source()
    identity = {
        "settings": settings.identity(),
        "base": _hash_of(sorted(Path(source).rglob("*.safetensors"))) if Path(source).is_dir() else source,
        "pairs": _hash_of_columns(columns),
    }
    out = path_of(out)
    if disk.exists(out):
        if _identity(out) == identity:
            notify(f"{out}: this model was already trained")
            return out
        what = f"{out}: already exists, and was not trained with these settings on these pairs."
        raise OutputError(what, "Remove it, or choose another -o.")
    with _partial(out, identity) as partial:
        from synth.training.trainer import train  # noqa: PLC0415 - loads torch

        made = train(columns, settings, source, partial, notify=notify, on_step=on_step, stopping=stopping)
        if made is None:
            raise Stopped(f"{out}: stopped before the end; a checkpoint is saved.", "Resume with the same command.")
        packages = ("sentence-transformers", "transformers", "torch", "synth", *(("peft",) if settings.lora else ()))
        record = {
            "identity": identity,
            "origin": origin or {},
            "pairs": len(columns["anchor"]),
            "columns": list(columns),
            **made,
            "versions": {name: version(name) for name in packages},
        }
        model = partial / "model"
        (model / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        publish(model, out)
    return out


def publish(model: Path, out: Path) -> None:
    """Put every file of a finished model on the disk, and give its folder its name. Raises SystemFault."""
    with disk.disk_errors(model):
        for path in model.rglob("*"):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    disk.swap_folders(model, out)


def _columns(pairs: pl.DataFrame, settings: TrainSettings, notify: Notify) -> dict[str, list[Any]]:
    """anchor, positive, negative_1 … negative_n, and label for `distil`: what the trainer reads. Raises JobError."""
    if missing := {"query", "passage"} - set(pairs.columns):
        raise JobError(f"the pairs have no column {', '.join(sorted(missing))}.", f"They have: {pairs.columns}.")
    if len(pairs) <= 1:
        raise JobError(f"{len(pairs)} pairs are too few to train on: a pair's negatives are the other pairs.")
    queries, passages = pairs["query"].to_list(), pairs["passage"].to_list()
    found: list[list[str]] = [
        list(each or ())[: settings.negatives]
        for each in (pairs["negatives"].to_list() if "negatives" in pairs.columns else [()] * len(pairs))
    ]
    if settings.negatives and not any(found):
        raise JobError("negatives: no pair has any.", "Mine them first: synth mine RUN; or train with negatives: 0.")
    if settings.loss == "distil":
        return _scored(queries, passages, found, pairs, settings.distil, notify)
    most = max(map(len, found))
    if short := sum(len(each) < most for each in found):
        notify(f"{short:,} of {len(found):,} pairs have fewer than {most} negatives, and train with those they have")
    # A "negative" that is the positive itself is none: the loss leaves it out.
    padded = [each + [own] * (most - len(each)) for each, own in zip(found, passages, strict=True)]
    return {"anchor": queries, "positive": passages} | {
        f"negative_{n + 1}": [each[n] for each in padded] for n in range(most)
    }


def _scored(
    queries: Sequence[str],
    passages: Sequence[str],
    negatives: list[list[str]],
    pairs: pl.DataFrame,
    distil: str,
    notify: Notify,
) -> dict[str, list[Any]]:
    """The columns and labels of the pairs whose passages all have a teacher's score."""
    cure = "Score pairs with `scores: [{use: reranker, …}]`, and negatives with `synth mine RUN --reranker '{use: …}'`."
    found = pairs["scores"].to_list() if "scores" in pairs.columns else [()] * len(pairs)
    lists = [list(each or ())[: len(own) + 1] for each, own in zip(found, negatives, strict=True)]
    usable = [n for n, own in enumerate(negatives) if own and len(lists[n]) > len(own) and None not in lists[n]]
    if not usable:
        raise JobError("distil: no pair has negatives and a teacher's score of every passage.", cure)
    count = int(np.quantile([len(negatives[n]) for n in usable], 0.1, method="lower"))
    full = [n for n in usable if len(negatives[n]) >= count]
    if len(full) < len(pairs):
        notify(
            f"distil: {len(full):,} of {len(pairs):,} pairs have {count} negatives with scores; the others are left out"
        )
    labels = np.array([lists[n][: count + 1] for n in full], np.float64)
    probabilities = labels.min() >= 0 and labels.max() <= 1
    if distil == "kl" and probabilities:
        near = labels.clip(_SURE, 1 - _SURE)
        labels = np.log(near / (1 - near))
    elif distil == "margin_mse" and not probabilities:  # differences of cosines are learned, which are small
        labels = 1 / (1 + np.exp(-labels))
    texts = {"anchor": [queries[n] for n in full], "positive": [passages[n] for n in full]}
    texts |= {f"negative_{k + 1}": [negatives[n][k] for n in full] for k in range(count)}
    return {**texts, "label": labels.tolist()}


def _hash_of(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with disk.disk_errors(path), path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _hash_of_columns(columns: Mapping[str, Sequence[Any]]) -> str:
    digest = hashlib.sha256()
    for name, values in columns.items():
        for value in (name, *values):
            digest.update(json.dumps(value).encode() + b"\n")
    return digest.hexdigest()


def _identity(folder: Path) -> Any:
    """What a finished or started training was; None where the folder records none."""
    try:
        return json.loads((folder / RECORD).read_bytes())["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def _partial(out: Path, identity: Mapping[str, Any]) -> Iterator[Path]:
    """A hidden folder beside `out` for checkpoints; removed when the block ends well.

    Raises OutputError where another process trains there, or another training was stopped there.
    """
    with disk.partial(out) as path:
        if (before := _identity(path)) is not None and before != identity:
            what = f"{path}: has checkpoints of a training with other settings or other pairs."
            raise OutputError(what, "Remove that folder to start anew, or choose another -o.")
        disk.replace(path, path / RECORD, json.dumps({"identity": identity}).encode())
        yield path
        shutil.rmtree(path, ignore_errors=True)
