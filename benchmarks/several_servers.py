"""Four servers, one ten times slower and one that dies: do the other two stay full, and passages on one server?

Limits are found during the run (`concurrency: auto`). The calls of a passage go to one server as long as it lives.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import client_cost
import full_server
import measure
import texts
import yaml

SLOTS, LATENCY, DEATH = 32, 0.5, 10.0
QUERIES = 2


def strays(urls: Sequence[str]) -> tuple[int, int]:
    """Passages whose calls went to more than one of these servers, and all passages."""
    seen: dict[str, set[str]] = defaultdict(set)
    for url in urls:
        for path, body in measure.ask(url, "/dump"):
            if "chat" in path:
                seen[max(json.loads(body)["messages"][-1]["content"].split("\n"), key=len)].add(url)
    return sum(len(found) > 1 for found in seen.values()), len(seen)


def report(folder: Path, passages: int = 1000) -> list[str]:
    corpus = folder / "all.jsonl"
    texts.corpus(corpus, passages)
    with ExitStack() as stack:

        def server(latency: float, **options: object) -> str:
            return stack.enter_context(measure.server(latency=latency, slots=SLOTS, record=True, **options))

        well = [server(LATENCY, seed=1), server(LATENCY, seed=2)]
        slow, dying = server(10 * LATENCY, seed=3), server(LATENCY, seed=4, die=DEATH)
        embedder = stack.enter_context(measure.server())
        job = client_cost.job(embedder, corpus, "auto")
        job["llm"] = {**job["llm"], "base_urls": [*well, slow, dying]}
        job["task"] = {"use": "retrieval", "queries_per_passage": QUERIES}
        path = folder / "job.yaml"
        path.write_text(yaml.safe_dump(job), encoding="utf-8")
        spent = client_cost.run(path, folder)
        traces = [measure.ask(url, "/trace") for url in well]
        slow_calls = len(measure.ask(slow, "/trace"))
        moved, seen = strays([*well, slow])
    lines = []
    for name, trace in zip(("first", "second"), traces, strict=True):
        full, last = full_server.reached(trace, slots=SLOTS), max(call[0] for call in trace)
        share = full_server.busy(trace, full, last) / SLOTS
        lines.append(
            f"- {name} healthy server: {len(trace):,} calls, {share:.3f} of its slots busy (goal: at least 0.95)"
        )
    lost = sum(json.loads(spent.output)["unusable"].values())
    return [
        f"{SLOTS} slots each, {LATENCY:g} s; {passages:,} passages, {QUERIES} queries each.",
        *lines,
        f"- the slow one: {slow_calls:,} calls; the fourth died {DEATH:g} s after its first call",
        f"- passages whose calls went to two of the three live servers: {moved:,} of {seen:,}",
        f"- {spent.wall:.0f} s in all, {lost:,} items lost",
    ]
