"""Rounds of a run with a target: how far it is, and what to ask next.

Everything is counted from committed files when a round is over, and a plan is committed with its revision before any of
its items is asked. A resumed run therefore reads the plan that it had, or makes the same one.
"""

from __future__ import annotations

import heapq
import json
import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from synth.batching import encode_all
from synth.clusters import clusters
from synth.errors import OutputError
from synth.hashing import item_seed
from synth.runs.history import Part, Round
from synth.runs.run import OpenRun
from synth.search import usable
from synth.stage import Encoder
from synth.steps import keep
from synth.target import TargetOptions
from synth.types import position_and_slot

Positions = NDArray[np.int64]

_PER_CLUSTER = 5
"""Passages of a cluster, on average."""
_MOST_CLUSTERS = 1000
_LOOKED_AT = 20_000
"""Most passages that the centres of clusters are found from."""
_PRIOR = 10
"""Items at the mean yield that count towards the yield of each cell."""
_OVER = 0.05
"""A cell may end with so many pairs more than its share, by two standard deviations."""
_MARGIN = "round_trip_margin"


@dataclass(frozen=True, slots=True)
class Cell:
    """One value of a column of the target; both are empty for all pairs together."""

    column: str
    value: str
    wanted: int
    kept: int
    asked: int
    """Items so far."""

    @property
    def short(self) -> int:
        return max(0, self.wanted - self.kept)

    @property
    def name(self) -> str:
        return f"{self.column} {self.value}".strip() or "pairs"


@dataclass(frozen=True, slots=True)
class Done:
    """What a round asked for, and what came of it."""

    round: int
    revision: int
    passages: int
    items: int
    pairs: int
    kept: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a run is from its target."""

    wanted: int
    kept: int
    cells: tuple[Cell, ...]
    rounds: tuple[Done, ...]
    most: int
    """Rounds at most."""
    clusters: int
    """Of passages; 0 before the first round."""
    covered: int
    """Clusters with a kept pair."""
    ended: str = ""
    """Why no further round follows; empty while one does, or is not over."""

    @property
    def short(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.short]

    def lines(self) -> Iterator[str]:
        """For a screen: what is kept of what, why the run ended, what is short."""
        yield f"{self.kept:,} of {self.wanted:,} pairs kept in {len(self.rounds)} of at most {self.most} rounds"
        if self.ended:
            yield f"ended: {self.ended}"
        for cell in self.short:
            share = f", {cell.kept / cell.asked:.0%} of {cell.asked:,} items were kept" if cell.asked else ""
            yield f"short: {cell.name}: {cell.kept:,} of {cell.wanted:,}{share}"
        if self.clusters:
            yield f"{self.covered:,} of {self.clusters:,} clusters of passages have a kept pair"


@dataclass(slots=True)
class _Counts:
    """By position in `passages/`: items asked, pairs kept, and the sum of their margins; `corpus` are the inputs'."""

    corpus: Positions
    asked: Positions
    kept: Positions
    margins: NDArray[np.float64]
    kept_of: Counter[tuple[str, str]] = field(default_factory=Counter)
    asked_of: Counter[tuple[str, str]] = field(default_factory=Counter)
    rounds: list[Done] = field(default_factory=list)


async def cluster(run: OpenRun, encoder: Encoder, check: Callable[[], None]) -> None:
    """Put every passage of the inputs in a cluster, by k-means over vectors.

    Of many passages a sample has the centres. `check` is called after each shard. Raises what `encoder` raises.
    """
    step, inputs = run.folder.step("passages"), _inputs(run)
    count = sum(part.end - part.first for part in inputs)
    rng = np.random.default_rng(item_seed(run.job.file.seed, "clusters", 0))
    sample = np.zeros(count, np.bool_)
    sample[rng.choice(count, min(count, _LOOKED_AT), replace=False)] = True
    width = 0

    async def vectors(chosen: NDArray[np.bool_]) -> list[NDArray[np.float32]]:
        nonlocal width
        found, start = [], 0
        for index, rows in ((index, part.rows(index)) for part in inputs for index in part.shards):
            picked = pa.array(chosen[start : start + rows])
            start += rows
            if texts := step.read_columns(index, ["text"])["text"].filter(picked).to_pylist():
                found.append((await encode_all(encoder, texts, "document"))[0].vectors)
                width = max(width, found[-1].shape[1])
            check()
        return [usable(each, width) for each in found]

    number = max(1, min(_MOST_CLUSTERS, count // _PER_CLUSTER))
    of = np.zeros(count, np.int64)
    of[sample], centres = clusters(np.concatenate(await vectors(sample)), number, rng)
    if not sample.all():
        of[~sample] = np.concatenate([(each @ centres.T).argmax(axis=1) for each in await vectors(~sample)])
    run.folder.put_if_absent(_name(count), (json.dumps({"clusters": of.tolist()}) + "\n").encode())


def clusters_of(run: OpenRun) -> Positions | None:
    """The cluster of each passage of the inputs; None before they are found. Raises OutputError."""
    count = sum(part.end - part.first for part in _inputs(run))
    path = run.folder.path / _name(count)
    try:
        found = np.array(json.loads(path.read_bytes())["clusters"], np.int64).reshape(count)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as exc:
        raise OutputError(f"{path}: is damaged ({exc}).", "Remove it; the run makes it again.") from exc
    return found


def _name(passages: int) -> str:
    return f"index/clusters-{passages}.json"


def _inputs(run: OpenRun) -> list[Part]:
    return [part for part in run.history.parts().parts if part.round is None]


def standing(run: OpenRun) -> Standing:
    """How far a run with a target is, from the files. Raises OutputError."""
    return _standing(run, _count(run))


def next_round(run: OpenRun) -> Round | None:
    """What to ask next, when the last round is over; None where the run ends. Raises OutputError."""
    counts = _count(run)
    now = _standing(run, counts)
    return None if now.ended else _plan(run, counts, now)


def _count(run: OpenRun) -> _Counts:
    parts, view, generated = run.history.parts().parts, run.folder.step(keep.DEFAULT), run.folder.step("generated")
    corpus = [np.arange(part.first, part.end) for part in _inputs(run)]
    total = parts[-1].end if parts else 0
    asked, kept = np.zeros((2, total), np.int64)
    found = _Counts(np.concatenate([*corpus, asked[:0]]), asked, kept, np.zeros(total))
    scored, made = view.done(), generated.done()
    for part in parts:
        if (planned := part.round) is None:
            continue
        np.add.at(asked, np.array(planned.positions), 1)
        for values, items in zip(planned.values, np.bincount(planned.asked).tolist(), strict=True):
            found.asked_of.update(dict.fromkeys(values.items(), items))
        left = 0
        for index in sorted(scored.intersection(part.shards)):
            wanted = {"id", _MARGIN, *run.job.quotas}
            table = view.read_columns(index, [name for name in view.schema(index).names if name in wanted])
            rows = [position_and_slot(each)[0] - part.first for each in table["id"].to_pylist()]
            passages = planned.passages[np.array(rows, np.int64)]
            np.add.at(kept, passages, 1)
            if _MARGIN in table.column_names:
                np.add.at(found.margins, passages, np.nan_to_num(table[_MARGIN].cast("float64").to_numpy()))
            for name in run.job.quotas:
                found.kept_of.update((name, value) for value in table[name].to_pylist())
            left += table.num_rows
        pairs = sum(generated.meta(index).rows_out for index in made.intersection(part.shards))
        size = len(planned.passages), len(planned.positions)
        found.rounds.append(Done(planned.number, part.number, *size, pairs, left))
    return found


def _standing(run: OpenRun, counts: _Counts) -> Standing:
    target = run.job.file.target
    assert target is not None  # noqa: S101 - the caller has looked
    kept, of = int(counts.kept.sum()), clusters_of(run)
    cells = [
        Cell(name, value, wanted, counts.kept_of[name, value], counts.asked_of[name, value])
        for name, shares in run.job.quotas.items()
        for value, wanted in _apportion(shares, target.kept).items()
    ]
    found = Standing(
        wanted=target.kept,
        kept=kept,
        cells=tuple(cells) or (Cell("", "", target.kept, kept, int(counts.asked.sum())),),
        rounds=tuple(counts.rounds),
        most=target.stop.rounds,
        clusters=0 if of is None else len(np.unique(of)),
        covered=0 if of is None else len(np.unique(of[counts.kept[counts.corpus] > 0])),
    )
    totals, done = run.history.totals(), len(run.folder.step(keep.DEFAULT).done())
    if totals is None or done < totals["shards"]:
        return found
    room = bool((counts.kept[counts.corpus] < target.per_passage.max).any())
    return replace(found, ended=_why(found, target, room=room))


def _why(now: Standing, target: TargetOptions, *, room: bool) -> str:
    """Why no further round follows; empty while one does."""
    last = now.rounds[-1] if now.rounds else None
    if not now.short:
        return "the target is reached"
    if len(now.rounds) >= target.stop.rounds:
        return f"stop.rounds: {len(now.rounds)} rounds are done"
    if last is not None and last.kept < target.stop.gain * target.kept:
        return f"stop.gain: round {last.round} added {last.kept:,} pairs, below {target.stop.gain:.1%} of the target"
    return "" if room else f"per_passage.max: every passage has {target.per_passage.max} kept pairs"


def _plan(run: OpenRun, counts: _Counts, now: Standing) -> Round:
    """The next round: so many items of each cell, at the passages and clusters that have the fewest kept pairs."""
    number = len(now.rounds) + 1
    mean = (now.kept + 1) / (int(counts.asked.sum()) + 2)
    needs: dict[str, dict[str, int]] = defaultdict(dict)
    for cell in now.cells:
        needs[cell.column][cell.value] = -(-cell.wanted // 2) if number == 1 else _needed(cell, mean)
    total = max(sum(each.values()) for each in needs.values())
    rng = np.random.default_rng(item_seed(run.job.file.seed, "rounds", number))
    picked = _picked(run, counts, total, mean, rng)
    columns = []
    for name, shares in run.job.quotas.items():
        weights = needs[name] if any(needs[name].values()) else shares
        column = [(name, value) for value, count in _apportion(weights, len(picked)).items() for _ in range(count)]
        columns.append([column[n] for n in rng.permutation(len(column))])
    combined = [*zip(*columns, strict=True)] or [()] * len(picked)
    values = {each: n for n, each in enumerate(dict.fromkeys(combined))}
    items = sorted(zip(picked, (values[each] for each in combined), strict=True), key=lambda item: item[0])
    positions, asked = zip(*items, strict=True)
    return Round(number=number, values=tuple(map(dict, values)), positions=positions, asked=asked)


def _needed(cell: Cell, mean: float) -> int:
    """How many items fill a cell: as many as do so by one standard deviation, if they do not overfill it by two."""
    if not cell.short:
        return 0
    yield_ = min(1.0, (cell.kept + _PRIOR * mean) / (cell.asked + _PRIOR))

    def fits(items: int) -> bool:
        variance = items * yield_ * (1 - yield_) * (1 + items / (cell.asked + _PRIOR))  # of the draw and the estimate
        expected, spread = items * yield_, math.sqrt(variance)
        return expected - spread <= cell.short and expected + 2 * spread <= cell.short + _OVER * cell.wanted

    most = math.ceil((cell.short + _OVER * cell.wanted) / yield_)
    return max(cell.short, bisect_left(range(1, most + 1), True, key=lambda items: not fits(items)))


def _picked(run: OpenRun, counts: _Counts, total: int, mean: float, rng: np.random.Generator) -> list[int]:
    """The passage of each item: in the cluster with the fewest kept pairs always the passage with the fewest.

    Of these the one that was asked least; with `hard` first the one whose kept queries find it by the widest margin.
    """
    of, target = clusters_of(run), run.job.file.target
    assert of is not None  # noqa: S101 - they are found before the first round
    assert target is not None  # noqa: S101 - as in `_standing`
    most, order = target.per_passage.max, rng.permutation(len(counts.corpus)).tolist()
    queues: dict[int, list[tuple[int, float, int, int, int]]] = defaultdict(list)
    kept_in: Counter[int] = Counter()
    for place, (position, number) in enumerate(zip(counts.corpus.tolist(), of.tolist(), strict=True)):
        kept = int(counts.kept[position])
        kept_in[number] += kept
        if kept < most:
            ease = counts.margins[position] / kept if kept and target.hard else 0.0
            queues[number].append((kept, -float(ease), int(counts.asked[position]), order[place], position))
    for queue in queues.values():
        heapq.heapify(queue)
    levels = sorted((float(kept_in[number]), number) for number in queues)
    picked: list[int] = []
    while levels and len(picked) < total:
        level, number = heapq.heappop(levels)
        kept, ease, asked, rank, position = heapq.heappop(queues[number])
        picked.append(position)
        if kept + 1 < most:
            heapq.heappush(queues[number], (kept + 1, ease, asked + 1, rank, position))
        if queues[number]:
            heapq.heappush(levels, (level + mean, number))
    return picked


def _apportion(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers that add up to `total`, in proportion to the weights; the largest remainders are rounded up."""
    exact = {name: total * weight / sum(weights.values()) for name, weight in weights.items()}
    found = {name: int(part) for name, part in exact.items()}
    by_rest = sorted(exact, key=lambda name: found[name] - exact[name])
    return found | {name: found[name] + 1 for name in by_rest[: total - sum(found.values())]}
