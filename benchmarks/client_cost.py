"""CPU cost of a pair on the client: synth, a script on the openai package, and a bare loop, each with its own server.

Start-up is subtracted: the figures are a run over all passages minus a run over twenty.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import measure
import texts
import yaml
from measure import HERE, Spent

SMALL = 20
PERSONAS = HERE.parent / "personas" / "general.jsonl"


@dataclass(frozen=True, slots=True)
class Contender:
    """The cost of one client: over a few passages, over all, calls per second at the server, correct rows."""

    few: Spent
    all: Spent
    rate: float
    right: int
    passages: int

    @property
    def per_thousand(self) -> float:
        return (self.all.cpu - self.few.cpu) / (self.passages - SMALL) * 1000

    @property
    def wall(self) -> float:
        return self.all.wall - self.few.wall


def job(url: str, corpus: Path, in_flight: int | str, **options: object) -> dict[str, object]:
    served = {"use": "vllm_server", "model": "Qwen/Qwen3-32B", "base_urls": [url]}
    return {
        "seed": 7,
        "corpus": {"path": str(corpus)},
        "personas": {"path": str(PERSONAS)},
        "llm": served,
        "embed": {**served, "model": "Qwen/Qwen3-32B"},
        "task": {"use": "retrieval"},
        "keep": {"cosine": {"above": 0.0}},
        "run": {"concurrency": in_flight, **options},
    }


def synth(url: str, folder: Path, corpus: Path, in_flight: int | str, **options: object) -> Spent:
    """`synth run` over the corpus into `folder/out-NAME`."""
    path = folder / f"{corpus.stem}.yaml"
    path.write_text(yaml.safe_dump(job(url, corpus, in_flight, **options)), encoding="utf-8")
    return run(path, folder)


def run(path: Path, folder: Path) -> Spent:
    """`synth run` of a job into `folder/out-NAME`."""
    command = [sys.executable, "-m", "synth", "run", str(path), "-o", str(folder / f"out-{path.stem}"), "--json"]
    return measure.spend(command, folder, XDG_CACHE_HOME=str(folder / "cache"))


def right_pairs(folder: Path, corpus: Path) -> int:
    """Number of passages with exactly one pair, a persona from the candidates and a query from the passage itself."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - the other contenders do without

    people = {json.loads(line)["persona"] for line in PERSONAS.read_text(encoding="utf-8").splitlines()}
    wanted = {row["id"]: row["text"] for row in map(json.loads, corpus.read_text(encoding="utf-8").splitlines())}
    rows = pq.read_table(folder / "kept", columns=["passage_id", "query", "character", "cosine"]).to_pylist()
    good = [
        row["passage_id"]
        for row in rows
        if row["query"] in wanted[row["passage_id"]] and row["character"] in people and row["cosine"] > 0
    ]
    return len(set(good)) if len(good) == len(set(good)) else 0


def right_lines(path: Path) -> int:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return len({row["id"] for row in rows if row["query"] in row["text"]})


def compare(folder: Path, passages: int, in_flight: int, latency: float) -> dict[str, Contender]:
    """All three over the same passages. synth runs first, because the others send the bodies that it sent."""
    sizes = {"few": SMALL, "all": passages}
    corpora = {name: folder / f"{name}.jsonl" for name in sizes}
    for name, count in sizes.items():
        texts.corpus(corpora[name], count)
    found: dict[str, Contender] = {}
    with measure.server(latency=latency, slots=in_flight, record=True) as url:
        warm = folder / "warm.jsonl"
        texts.corpus(warm, 2)
        synth(url, folder, warm, in_flight)  # fills the cache of persona vectors

        def contender(work: Callable[[str], Spent], right: Callable[[], int]) -> Contender:
            spent = {}
            for name in sizes:
                measure.ask(url, "/reset")
                spent[name] = work(name)
            trace = measure.ask(url, "/trace")
            return Contender(spent["few"], spent["all"], measure.rate(trace), right(), passages)

        def ours(name: str) -> Spent:
            spent = synth(url, folder, corpora[name], in_flight)
            (folder / f"{name}.bodies").write_text(json.dumps(measure.ask(url, "/dump")), encoding="utf-8")
            return spent

        found["synth"] = contender(ours, lambda: right_pairs(folder / "out-all", corpora["all"]))
        bodies = [json.loads(body) for path, body in json.loads((folder / "few.bodies").read_text()) if "chat" in path]
        (folder / "system.txt").write_text(bodies[-1]["messages"][0]["content"], encoding="utf-8")

        def bare(name: str) -> Spent:
            recorded = str(folder / f"{name}.bodies")
            return measure.spend([sys.executable, str(HERE / "bare_loop.py"), url, recorded, str(in_flight)], folder)

        found["bare aiohttp loop"] = contender(bare, lambda: passages)

        def script(name: str) -> Spent:
            inputs = [str(corpora[name]), str(PERSONAS), str(folder / "system.txt"), str(folder / f"{name}.out")]
            command = [sys.executable, str(HERE / "sdk_script.py"), url, *inputs, str(in_flight)]
            return measure.spend(command, folder)

        found["openai script"] = contender(script, lambda: right_lines(folder / "all.out"))
    return found


def report(found: dict[str, Contender]) -> list[str]:
    lines = [
        "| | CPU s per 1,000 pairs | start-up CPU s | wall s | calls/s | peak MB | right |",
        "|-|-|-|-|-|-|-|",
    ]
    for name, each in found.items():
        lines.append(
            f"| {name} | {each.per_thousand:.2f} | {each.few.cpu:.2f} | {each.wall:.1f} | {each.rate:,.0f} | "
            f"{each.all.memory:.0f} | {each.right:,} of {each.passages:,} |"
        )
    mine, bare, script = found["synth"], found["bare aiohttp loop"], found["openai script"]
    return [
        *lines,
        "",
        f"- CPU per pair: {mine.per_thousand / bare.per_thousand:.2f} x the bare loop (goal: at most 4)",
        f"- CPU per pair: 1/{script.per_thousand / mine.per_thousand:.1f} of the script (goal: at most 1/5)",
        f"- CPU s per 1,000 pairs: {mine.per_thousand:.2f} (goal: at most 3.0)",
        f"- start-up: {mine.few.cpu:.2f} CPU s (goal: at most 2)",
        f"- peak memory: {mine.all.memory:.0f} MB (goal: at most 250)",
        f"- calls/s: {mine.rate / bare.rate:.2f} of the bare loop (goal: at least 0.35)",
    ]
