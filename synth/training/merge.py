"""Models of one architecture merged weight by weight, as Qwen3-Embedding's last stage merges checkpoints by slerp."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from synth.embed.sentence_transformers import SentenceTransformersEmbedder
from synth.errors import JobError, OutputError
from synth.names import path_of
from synth.results.export import aside
from synth.shards import disk
from synth.training.fit import RECORD, publish
from synth.training.trainer import load, merge_adapters

_PARALLEL = 0.9995
"""Tensors with a greater cosine are interpolated linearly: their angle is too small to divide by."""


def merge(models: Sequence[str | Path], out: str | Path, *, by: str = "slerp", t: float | None = None) -> Path:
    """Merge models of the same shape; returns `out`, a folder with the settings of the first and a `train.json`.

    `slerp` takes two models: each tensor goes the share `t` (0.5) of the arc from the first to the second, and norms
    the same share of the straight line. `mean` averages any number. LoRA adapters are merged into their weights first.

    Raises JobError where models cannot be loaded or do not fit together, OutputError where `out` exists.
    """
    out = path_of(Path(out))
    if by not in ("slerp", "mean"):
        raise JobError(f"by: expects slerp or mean, not {by}.")
    if len(models) < 2 or (by == "slerp" and len(models) > 2):  # noqa: PLR2004 - a pair
        what = f"{by} merges {'two' if by == 'slerp' else 'two or more'} models, not {len(models)}."
        raise JobError(what, "For more than two: --by mean.")
    if t is not None and (by == "mean" or not 0 <= t <= 1):
        raise JobError(f"t = {t} is the second model's share of a slerp, from 0 to 1.")
    if disk.exists(out):
        raise OutputError(f"{out}: already exists.", "Remove it, or choose another -o.")
    share = 0.5 if t is None else t
    merged = load(SentenceTransformersEmbedder(model=str(models[0])).folder(), "cpu")
    merge_adapters(merged)
    weights = merged.state_dict()
    for n, name in enumerate(models[1:], 2):
        other = load(SentenceTransformersEmbedder(model=str(name)).folder(), "cpu")
        merge_adapters(other)
        theirs = other.state_dict()
        if {key: each.shape for key, each in theirs.items()} != {key: each.shape for key, each in weights.items()}:
            what = f"{name} has other weights than {models[0]}, so they cannot be merged."
            raise JobError(what, "Merge models that were trained from one base.")
        for key, mine in weights.items():
            if not mine.is_floating_point():
                continue
            straight = by == "mean" or "norm" in key.lower()
            step = 1 / n if by == "mean" else share
            weights[key] = line(mine, theirs[key], step) if straight else slerp(mine, theirs[key], step)
    merged.load_state_dict(weights)
    record = {"merged": [str(each) for each in models], "by": by, "t": share if by == "slerp" else None}
    with aside(out) as hidden:
        merged.save_pretrained(str(hidden), create_model_card=False)
        (hidden / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        publish(hidden, out)
    return out


def line(one: Tensor, other: Tensor, t: float) -> Tensor:
    """(1 - t) · one + t · other, computed in float64."""
    return ((1 - t) * one.double() + t * other.double()).to(one.dtype)


def slerp(one: Tensor, other: Tensor, t: float) -> Tensor:
    """Spherical linear interpolation of two tensors as vectors (Shoemake 1985), with lengths as they are.

    (sin((1 - t)·ω) · one + sin(t·ω) · other) / sin(ω), where ω is the angle between them. Nearly parallel ones, and
    zeros, are interpolated linearly.
    """
    a, b = one.double().flatten(), other.double().flatten()
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=0, eps=1e-12)
    if not abs(cosine) <= _PARALLEL or not a.any() or not b.any():
        return line(one, other, t)
    angle = torch.arccos(cosine)
    found = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
    return found.reshape(one.shape).to(one.dtype)
