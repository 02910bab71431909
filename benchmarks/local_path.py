"""The local embedder compared with `SentenceTransformer.encode` over the same texts, in turns.

    python benchmarks/local_path.py [--device cuda] [--texts 20000] [--model FOLDER]

The default model is MiniLM. A folder with configuration and tokenizer but no weights gets random weights, which take as
long. Needs numpy, pydantic and the extra `local`.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from texts import passage

from synth.embed.sentence_transformers import LocalEncoder, SentenceTransformersEmbedder
from synth.stage import ClientSettings

GOAL = 0.9
TIMES = 3


def texts(count: int) -> list[str]:
    """Passages of 200 to 1,800 characters and as many queries, all different, in random order of length."""
    passages = [passage(n, 200 + n * 733 % 1600) for n in range(count // 2)]
    return passages + [f"{n} {' '.join(text.split()[2 : 6 + n % 9])}" for n, text in enumerate(passages)]


def with_weights(folder: Path, scratch: Path) -> Path:
    """The folder, or a copy of it with random weights."""
    if any(folder.glob("*.safetensors")):
        return folder
    from transformers import AutoConfig, AutoModel  # noqa: PLC0415 - only where weights are made

    whole = scratch / "model"
    shutil.copytree(folder, whole)
    AutoModel.from_config(AutoConfig.from_pretrained(whole)).save_pretrained(whole)
    return whole


def in_turns(one: Callable[[], Any], other: Callable[[], Any]) -> tuple[float, float]:
    """The best time of each."""
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(TIMES):
        for work, seconds in zip((one, other), took, strict=True):
            begun = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - begun)
    return min(took[0]), min(took[1])


def compare(encoder: LocalEncoder, plain: Any, given: list[str], batch: int) -> tuple[float, float, float]:
    """Texts per second of both, and the largest difference between components of their unit vectors."""

    def ours() -> Any:
        return asyncio.run(encoder.encode(given, "document")).vectors

    def theirs() -> Any:
        return plain.encode(given, batch_size=batch, show_progress_bar=False, normalize_embeddings=True)

    difference = float(np.abs(ours() - theirs()).max())  # the first time warms up, too
    mine, other = in_turns(ours, theirs)
    return len(given) / mine, len(given) / other, difference


def report(folder: Path, count: int = 160, device: str = "cpu", model: Path | None = None) -> list[str]:
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - heavy

    named = {"model": str(with_weights(model, folder))} if model else {}
    distinct = texts(count)
    tripled = [text for text in distinct for _ in range(3)]
    lines = ["| texts | batch | synth, texts/s | encode, texts/s | ratio | largest difference |", "|-|-|-|-|-|-|"]
    worst = np.inf
    for batch in (32,) if device == "cpu" else (32, 256):
        options = SentenceTransformersEmbedder(device=device, batch_size=batch, **named)
        encoder = options.open(ClientSettings(), "")
        plain = SentenceTransformer(options.folder(), device=device)
        for what, given in (("distinct", distinct), ("each three times", tripled)):
            ours, theirs, difference = compare(encoder, plain, given, batch)
            worst = min(worst, ours / theirs)
            rates = f"{ours:,.0f} | {theirs:,.0f} | {ours / theirs:.2f}"
            lines.append(f"| {len(given):,}, {what} | {batch} | {rates} | {difference:.0e} |")
    return [*lines, "", f"- on {device}, lowest ratio of synth to `encode`: {worst:.2f} (goal: at least {GOAL})"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--texts", type=int, default=160)
    parser.add_argument("--model", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="synth-bench-") as folder:
        print("\n".join(report(Path(folder), given.texts, given.device, given.model)))


if __name__ == "__main__":
    main()
