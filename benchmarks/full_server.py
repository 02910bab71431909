"""How well synth fills a server with an unknown limit: 64 slots, mean latency 2 s (lognormal, sigma 0.5).

Measures how long it takes until all slots are busy, and the mean share of busy slots from then to the arrival of the
last call, from the server's own record.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import client_cost
import measure
import texts

SLOTS, LATENCY, SIGMA = 64, 2.0, 0.5
Trace = Sequence[Sequence[float]]


def busy(trace: Trace, begin: float, end: float) -> float:
    """Mean number of busy slots between two moments."""
    return sum(max(0.0, min(done, end) - max(start, begin)) for _, start, done in trace) / (end - begin)


def reached(trace: Trace, share: float = 1.0, slots: int = SLOTS) -> float:
    """The first moment at which this share of the slots is busy."""
    events = sorted([(start, 1) for _, start, _ in trace] + [(done, -1) for _, _, done in trace])
    running = 0
    for moment, change in events:
        running += change
        if running >= share * slots:
            return moment
    raise ValueError("never full")


def queued(trace: Trace, begin: float, end: float) -> float:
    """Mean number of calls waiting at the server."""
    return sum(max(0.0, min(start, end) - max(arrived, begin)) for arrived, start, _ in trace) / (end - begin)


def report(folder: Path, passages: int = 5000, latency: float = LATENCY) -> list[str]:
    corpus = folder / "all.jsonl"
    texts.corpus(corpus, passages)
    with measure.server(latency=latency, sigma=SIGMA, slots=SLOTS) as url:
        spent = client_cost.synth(url, folder, corpus, "auto")
        trace = measure.ask(url, "/trace")
    first, last = min(call[0] for call in trace), max(call[0] for call in trace)
    full = reached(trace)
    right = client_cost.right_pairs(folder / f"out-{corpus.stem}", corpus)
    return [
        f"{SLOTS} slots, {latency:g} s, {passages:,} passages.",
        f"- all slots busy after {(full - first) / latency:.1f} latencies (goal: at most 10)",
        f"- {busy(trace, full, last) / SLOTS:.3f} of the slots busy from then to the last call (goal: at least 0.95)",
        f"- waiting at the server meanwhile: {queued(trace, full, last):.1f} calls on average",
        f"- {len(trace):,} calls in {spent.wall:.0f} s, {right:,} of {passages:,} pairs right",
    ]
