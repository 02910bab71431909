"""Queries by models that run on any machine: the quickstart with each prompt set, and `extractive` next to it.

The 100 passages are the quickstart's and 40 of XQuAD-en (xquad_en.jsonl, CC BY-SA 4.0, from google-deepmind/xquad).
Other passages: `python benchmarks/models.py --corpus FILE --limit 200 --variants small`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from synth.llm.llama_cpp import LlamaChat, LlamaCpp
from synth.stage import ClientSettings

HERE = Path(__file__).parent
ROOT = HERE.parent
PASSAGES = (ROOT / "configs/quickstart/english.jsonl", HERE / "xquad_en.jsonl")
COUNT = 100
VARIANTS = ("small", "default", "extractive")
TOP = 3
RUN_ON = 2
"""A query longer than this many times the most that was asked has run on."""
COUNTS = "SYNTH_BENCH_TOKENS"
HEAD = (
    "| model, prompts | items | usable | echoes | ran on | own passage in top 3 | copied, median | kept | s a pair "
    "| prompt tokens a pair: sent, computed |\n|-|-|-|-|-|-|-|-|-|-|"
)


class Counted(LlamaCpp):
    """llama_cpp that writes down how many prompt tokens it was sent and had to compute."""

    def open(self, client: ClientSettings) -> LlamaChat:  # noqa: ARG002 - as the base
        return _Counting(self)


class _Counting(LlamaChat):
    async def close(self) -> None:
        await super().close()
        self.note()

    def note(self) -> None:
        """Called before the process ends."""
        Path(os.environ[COUNTS]).write_text(json.dumps([self.prompt_tokens, self.computed_tokens]))


def passages(files: Sequence[Path], limit: int, out: Path) -> None:
    """The first `limit` passages of the files, as JSON lines in `out`."""
    read = [pl.read_parquet(file) if file.suffix == ".parquet" else pl.read_ndjson(file) for file in files]
    columns = ["id", "title", "text"]
    table = pl.concat([each.select([name for name in columns if name in each.columns]) for each in read])
    table.head(limit).write_ndjson(out)


def measure(variant: str, corpus: Path, folder: Path, settings: Sequence[str] = ()) -> pl.DataFrame:
    """Runs the quickstart; one row an item, with its scores, or with `reason` where it has no pair."""
    llm = (
        ["llm={use: extractive}"] if variant == "extractive" else ["llm.use=models:Counted", f"task.prompts={variant}"]
    )
    changes = [part for each in [f"corpus.path={corpus}", *llm, *settings] for part in ("-s", each)]
    environment = os.environ | {COUNTS: str(folder / "tokens.json"), "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-m", "synth", "run", "configs/quickstart.yaml", "-o", str(folder / "out"), *changes]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    found = _rows(folder / "out/generated")
    for scorer in sorted((folder / "out/scores").iterdir()):
        found = found.join(_rows(scorer), on="id", suffix=f"_{scorer.name}")
    lost = folder / "out/rejected/generated"
    rejected = [_rows(lost).select("id", "reason")] if lost.exists() and list(lost.glob("*.parquet")) else []
    return pl.concat([found, *rejected], how="diagonal")


def _rows(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "*.parquet")


def line(name: str, rows: pl.DataFrame, seconds: float, counted: Path) -> str:
    """A row of the table."""
    pairs = rows.filter(pl.col("query").is_not_null())
    reasons = rows["reason"] if "reason" in rows.columns else pl.Series([], dtype=pl.String)
    good = pairs.filter((pl.col("round_trip_rank") <= TOP) & (pl.col("cosine") > 0.5))
    tokens = "-"
    if counted.exists():
        sent, computed = json.loads(counted.read_text())
        tokens = f"{sent / pairs.height:.0f}, {computed / pairs.height:.0f} ({computed / sent:.2f})"
    cells = [
        name,
        rows.height,
        f"{pairs.height / rows.height:.1%}",
        f"{(reasons == 'echo').sum() / rows.height:.1%}",
        pairs.filter(pl.col("length") > RUN_ON * pl.col("length_max")).height,
        f"{(pairs['round_trip_rank'] <= TOP).mean():.0%}",
        f"{pairs['copied_share'].median():.0%}",
        f"{good.height} ({good.height / rows.height:.0%})",
        f"{seconds / max(pairs.height, 1):.2f}",
        tokens,
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def table(files: Sequence[Path], limit: int, variants: Sequence[str], *, show: bool = False) -> Iterator[str]:
    """The lines of the table; with `show` every query after its row."""
    yield from HEAD.splitlines()
    for variant in variants:
        with tempfile.TemporaryDirectory(prefix="synth-models-") as name:
            folder = Path(name)
            passages(files, limit, folder / "passages.jsonl")
            begun = time.perf_counter()
            rows = measure(variant, folder / "passages.jsonl", folder)
            seconds = time.perf_counter() - begun
            known = {"small": "SmolLM2-135M, small", "default": "SmolLM2-135M, default", "extractive": "extractive"}
            yield line(known.get(variant, variant), rows, seconds, folder / "tokens.json")
            if show:
                shown = rows.filter(pl.col("query").is_not_null()).select("round_trip_rank", "cosine", "query")
                yield from (f"    {rank} {cosine:.2f} {query}" for rank, cosine, query in shown.rows())


def report(_folder: Path) -> list[str]:
    return list(table(PASSAGES, COUNT, VARIANTS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, nargs="+", default=PASSAGES)
    parser.add_argument(
        "--variants", nargs="+", default=VARIANTS, help="small, default, extractive, or template folders"
    )
    parser.add_argument("--limit", type=int, default=COUNT)
    parser.add_argument("--show", action="store_true", help="print every query")
    given: Any = parser.parse_args()
    for text in table(given.corpus, given.limit, given.variants, show=given.show):
        print(text, flush=True)


if __name__ == "__main__":
    main()
