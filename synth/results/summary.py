"""The summary at the end of a run: what came out, how it is spread, and what to make of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from synth.generators import Generators, label
from synth.runs.run import OpenRun
from synth.search import Index
from synth.shards import OutputFolder, StepFolder
from synth.shards.folder import readable
from synth.sources import sample_rows
from synth.steps.keep import DEFAULT, View
from synth.steps.rounds import Standing, standing
from synth.types import position_and_slot

if TYPE_CHECKING:
    import polars as pl

Numbers = np.ndarray[Any, np.dtype[np.float64]]


def files_of(step: StepFolder) -> list[Path]:
    return [step.file(index) for index in sorted(step.done())]


def rejected_files(folder: OutputFolder, step: str) -> list[Path]:
    return sorted((folder.path / "rejected" / step).glob("????????.parquet"))


def scan(files: Sequence[Path], paths: str | None = None) -> pl.LazyFrame | None:
    """All rows of these shards in order, with the path of each in a column `paths`; None while there is none."""
    import polars as pl  # noqa: PLC0415 - a fifth of the start of a run, which does without

    options: dict[str, Any] = {"glob": False, "missing_columns": "insert", "extra_columns": "ignore"}
    options["include_file_paths"] = paths
    return pl.scan_parquet(list(files), **options) if files else None


def totals(step: StepFolder) -> tuple[int, int, int]:
    """Rows (in, out, rejected) over all shards of a step, from their footers."""
    metas = [step.meta(index) for index in step.done()]
    return sum(m.rows_in for m in metas), sum(m.rows_out for m in metas), sum(m.rejected for m in metas)


def scores_in(folder: OutputFolder, view: str) -> frozenset[str]:
    """The columns that the rows of a view have beside those of their pairs; none while it has no shard."""
    index = folder.step(view).first()
    if index is None:
        return frozenset()
    return frozenset(folder.step(view).schema(index).names) - frozenset(folder.step("generated").schema(index).names)


def reasons(folder: OutputFolder, step: str, without: Collection[str] = ()) -> dict[str, int]:
    """Rejected rows of a step by reason, the most frequent first, ties by name; `without` are ids to leave out."""
    found: Counter[str] = Counter()
    for table in tables_of(rejected_files(folder, step), {"id", "reason"}):
        left = table.filter(pc.invert(pc.is_in(table["id"], pa.array(without, pa.string())))) if without else table
        _count(found, left, "reason")
    return _ordered(found)


RANK = "round_trip_rank"
FEW_PASSAGES = 20
"""Among fewer passages a rank tells little."""
_BINS = 10
_SHUFFLED_ROWS = 200_000
"""About so many, spread over the run, are enough for a share."""
_BATCH = 256
_LANGUAGES = ("query_language", "passage_language")
"""Of existing data; a column of another name may be the user's own."""
_TOKENS = ("prompt_tokens", "completion_tokens")
_FEWEST = 20
"""Fewer pairs say little on how grades and scores agree."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything that a run's summary says; shares are 0..1, None where nothing was measured."""

    rows_in: int
    rows_rejected: Mapping[str, int]
    passages: int
    items: int
    pairs: int
    unusable: Mapping[str, int]
    kept: int
    dropped: Mapping[str, int]
    mixes: Mapping[str, Mapping[str, int]]
    lengths: Mapping[str, float]
    cosine: Sequence[int]
    languages: Sequence[Mapping[str, Any]]
    kept_share: float | None
    shuffled_share: float | None
    median_copied: float | None
    repaired: int
    truncated_passages: int
    tokens: tuple[int, int]
    personas: Mapping[str, int]
    kept_rows: Sequence[Mapping[str, Any]] = field(default=())
    dropped_rows: Sequence[Mapping[str, Any]] = field(default=())
    scores: Sequence[str] = ()
    """The columns of those rows that scorers made."""
    existing: bool = False
    """Whether the pairs existed before: then the run has no passages, and an unusable row is not an item."""
    own_passage: Mapping[str, Any] = field(default_factory=dict)
    """How high `round_trip` ranks it: shares of the `ranked` pairs, and what `searched` gives; empty without ranks."""
    models: Sequence[Mapping[str, Any]] = ()
    """Of each of several language models: `items`, usable `pairs`, `kept`, and the tokens of all calls of its items."""
    asked: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """For columns of `mixes`: the share of each value that the job asks for."""
    agreement: Mapping[str, float] = field(default_factory=dict)
    """Spearman's rank correlation of each score with the grade that the task asked for; empty for a task without."""
    real_queries: Mapping[str, Any] = field(default_factory=dict)
    """How near the queries are to real ones, by `seed_overlap`; empty without it."""
    target: Standing | None = None
    """How far the run is from its target; None without one, and for a view beside `kept/`."""


def searched(folder: OutputFolder, scores: Iterable[str]) -> dict[str, Any]:
    """How many `passages` the ranks of `round_trip` are among, and whether they are `drawn`; empty where unknown."""
    facts = _facts_of(folder, scores, "round_trip")
    return {"passages": facts.get("drawn", facts["passages"]), "drawn": "drawn" in facts} if facts else {}


def _facts_of(folder: OutputFolder, scores: Iterable[str], scorer: str) -> dict[str, Any]:
    """What the index of a scorer of the pass recorded; empty where there is none."""
    for name in scores:
        if name.startswith(f"scores/{scorer}-"):
            for index in sorted((folder.path / "index").glob(f"{name.rpartition('-')[2]}-*")):
                return Index(index).manifest() or {}
    return {}


def summarise(run: OpenRun, view: View) -> Summary:
    """Read what a run has made so far: a few columns, one shard at a time, and whole rows only as examples."""
    step0 = {"rows_in": 0, "passages": 0, "retried": 0, "planned": 0} | (run.history.totals() or {})
    existing = bool(run.job.data)
    # they count as what became of the new ones
    asked_again = [item for record in run.history.records for item in record.retry]
    generated, view_folder = run.folder.step("generated"), run.folder.step(view.name)
    kept_files, dropped_files = files_of(view_folder), rejected_files(run.folder, view.name)
    items, pairs, _ = totals(generated)
    _, kept, dropped = totals(view_folder)
    mixes = _LANGUAGES if existing else run.task.mixes
    made, scored = _Pairs(mixes), _Scored(view, every=1 + pairs // _SHUFFLED_ROWS)
    made.add(tables_of(files_of(generated), mixes if existing else made.columns))
    if not existing:
        made.add(tables_of(rejected_files(run.folder, "generated"), _TOKENS))
    scored.add(kept_files, kept=True)
    scored.add(dropped_files, kept=False)
    copied = np.concatenate(scored.copied) if scored.copied else np.empty(0)
    lengths = Counter() if existing else scored.lengths
    return Summary(
        rows_in=step0["rows_in"],
        rows_rejected=reasons(run.folder, "generated" if existing else "passages"),
        passages=step0["passages"] - step0["retried"] - step0["planned"],
        items=pairs if existing else items - step0["retried"],
        pairs=pairs,
        unusable={} if existing else reasons(run.folder, "generated", without=asked_again),
        kept=kept,
        dropped=reasons(run.folder, view.name),
        mixes={name: _ordered(made.counts[name]) for name in mixes},
        lengths={name: count / lengths.total() for name, count in lengths.items() if lengths.total()},
        cosine=scored.bins.tolist() if scored.has_cosine else [],
        languages=scored.by_language(),
        kept_share=kept / pairs if pairs else None,
        shuffled_share=scored.rules.share(pa.concat_tables(scored.shuffled)) if scored.shuffled else None,
        median_copied=float(np.median(copied)) if len(copied) else None,
        repaired=made.sums["repaired"],
        truncated_passages=scored.truncated,
        tokens=(made.sums["prompt_tokens"], made.sums["completion_tokens"]),
        personas=dict(list(_ordered(made.counts["character"]).items())[:10]),
        kept_rows=rows_at(kept_files, sample_rows(kept, 3)),
        dropped_rows=rows_at(dropped_files, sample_rows(dropped, 2)),
        scores=sorted(scores_in(run.folder, view.name)),
        existing=existing,
        own_passage=scored.own_passage() | searched(run.folder, view.scores) if scored.ranks.total() else {},
        models=_by_model(run, view_folder, asked_again) if isinstance(run.job.llm, Generators) else (),
        asked={} if existing else {name: shares for name, shares in run.task.asked().items() if shares},
        agreement={} if existing else _agreement(run, [*kept_files, *dropped_files]),
        real_queries=_facts_of(run.folder, view.scores, "seed_overlap"),
        target=standing(run) if run.job.file.target is not None and view.name == DEFAULT else None,
    )


def _by_model(run: OpenRun, kept: StepFolder, asked_again: Collection[str]) -> list[dict[str, Any]]:
    """As in the summary. An item without a pair counts for the model that was to write it, as its revision had it."""
    found: dict[str, Counter[str]] = {}
    generated = run.folder.step("generated")
    numbers = {record.sha256: record.number for record in run.history.records}
    wanted = {"id", *_TOKENS}
    for index in sorted(generated.done()):
        llm = run.reading_at(numbers.get(generated.meta(index).identity, run.revision)).job.llm
        assert llm is not None  # noqa: S101 - a job that generates has one
        rejected = run.folder.path / "rejected" / "generated" / generated.file(index).name
        parts = {"pairs": generated.file(index), "unusable": rejected, "kept": kept.file(index)}
        for what, path in parts.items():
            for row in (
                row for table in tables_of([path] if path.exists() else [], wanted) for row in table.to_pylist()
            ):
                counts = found.setdefault(label(llm.drawn(*position_and_slot(row["id"]), "query")), Counter())
                counts[what] += row["id"] not in asked_again
                counts.update({key: row[key] for key in _TOKENS if what != "kept"})
    order = sorted(found.items(), key=lambda each: (-each[1]["pairs"], each[0]))
    return [
        {"model": name, "items": n["pairs"] + n["unusable"]} | {key: n[key] for key in ("pairs", "kept", *_TOKENS)}
        for name, n in order
    ]


def _agreement(run: OpenRun, files: Sequence[Path]) -> dict[str, float]:
    """How the task's grade and each score that is better high agree, over the pairs that have both."""
    grade = run.task.layout.score
    wanted = [name for scorer in run.job.scores for name, each in scorer.named_outputs() if each.better == "high"]
    if grade is None or not files:
        return {}
    table = pa.concat_tables(tables_of(files, {grade, *wanted}), promote_options="permissive")
    found = {}
    for name in wanted:
        if name in table.column_names and pa.types.is_floating(kind := table[name].type) | pa.types.is_integer(kind):
            known = table.select([grade, name]).drop_null()
            both = [known[each].cast(pa.float64()).to_numpy() for each in known.column_names]
            if known.num_rows >= max(_FEWEST, 0.9 * table.num_rows):  # not a score of triples alone
                found[name] = spearman(*both)
    return {name: value for name, value in found.items() if value is not None}


def spearman(left: Numbers, right: Numbers) -> float | None:
    """Spearman's rank correlation, equal values at their mean rank; None where either side has one value only."""
    ranks = []
    for values in (left, right):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[inverse])
    if any(len(each) == 0 or np.ptp(each) == 0 for each in ranks):
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def tables_of(files: Iterable[Path], wanted: Collection[str]) -> Iterator[pa.Table]:
    """Of each file the columns `wanted` that it has. Raises OutputError for a damaged file."""
    for path in files:
        with readable(path):
            file = pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True)
            yield file.read([name for name in file.schema_arrow.names if name in wanted], use_threads=False)


def _count(into: Counter[str], table: pa.Table, name: str) -> None:
    if name in table.column_names:
        for each in pc.value_counts(table[name]).to_pylist():
            if each["values"] is not None:
                into[str(each["values"])] += each["counts"]


def _ordered(counts: Counter[str]) -> dict[str, int]:
    """The most frequent first, ties by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


class _Pairs:
    """What is counted over all generated pairs; of items without a pair only the tokens."""

    sums_of = (*_TOKENS, "repaired")

    def __init__(self, mixes: Sequence[str]) -> None:
        self.columns = frozenset({*mixes, *self.sums_of, "character"})
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in (*mixes, "character")}
        self.sums = dict.fromkeys(self.sums_of, 0)

    def add(self, tables: Iterable[pa.Table]) -> None:
        for table in tables:
            for name, counts in self.counts.items():
                _count(counts, table, name)
            for name in self.sums.keys() & set(table.column_names):
                self.sums[name] += pc.sum(table[name]).as_py() or 0


class _Scored:
    """What is measured over all scored pairs, kept and dropped; of shuffled cosines each `every`-th is looked at."""

    def __init__(self, view: View, every: int) -> None:
        self.bins = np.zeros(_BINS, np.int64)
        self.has_cosine = False
        self.truncated = 0
        self.rules = view.rules.only({"cosine"})
        """Applied to shuffled cosines: what they would keep if every query stood with another row's passage."""
        self.shuffled: list[pa.Table] = []
        self.copied: list[np.ndarray[Any, np.dtype[np.float64]]] = []
        self.ranks: Counter[int] = Counter()
        """Pairs whose own passage is found first (0), among the first three (1), or later (2)."""
        self.lengths: Counter[str] = Counter()
        """Queries within, below and above the range they were asked in."""
        self._groups = sorted(self.rules.columns() - {"cosine"})
        self._every, self._seen = every, 0
        self._languages: list[pa.Table] = []

    def add(self, files: Sequence[Path], *, kept: bool) -> None:
        """Measure these rows."""
        columns = {"cosine", "cosine_shuffled", "copied_share", "length", "length_min", "length_max", RANK}
        for table in tables_of(files, {*columns, "passage_truncated", "query_language", *self._groups}):
            names = set(table.column_names)
            if "cosine" in names:
                self.has_cosine = True
                bins = np.floor(numbers(table, "cosine") * _BINS).clip(0, _BINS - 1).astype(np.int64)
                self.bins += np.bincount(bins, minlength=_BINS)
            if "copied_share" in names:
                self.copied.append(numbers(table, "copied_share"))
            if RANK in names:
                found = np.digitize(numbers(table, RANK), [2, 4])
                self.ranks.update({place: int((found == place).sum()) for place in range(3)})
            if "passage_truncated" in names:
                self.truncated += pc.sum(table["passage_truncated"]).as_py() or 0
            if {"length", "length_min", "length_max"} <= names:
                known = table.select(["length", "length_min", "length_max"]).drop_null()
                got, low, high = (known[name].to_numpy() for name in known.column_names)
                inside = int(((low <= got) & (got <= high)).sum())
                self.lengths.update(inside=inside, shorter=int((got < low).sum()), longer=int((got > high).sum()))
            if "query_language" in names:
                cosine = table["cosine"] if "cosine" in names else pa.nulls(table.num_rows, pa.float64())
                part = {"language": table["query_language"], "cosine": cosine, "kept": np.full(table.num_rows, kept)}
                sums = [([], "count_all"), ("kept", "sum"), ("cosine", "sum"), ("cosine", "count")]
                self._languages.append(pa.table(part).group_by("language").aggregate(sums))
            if "cosine_shuffled" in names and self.rules.conditions:
                known = table.select(["cosine_shuffled", *self._groups]).filter(pc.is_valid(table["cosine_shuffled"]))
                rows = range(-self._seen % self._every, known.num_rows, self._every)
                self._seen += known.num_rows
                sampled = known.take(pa.array(rows, pa.int64()))
                self.shuffled.append(sampled.rename_columns(["cosine", *self._groups]))

    def own_passage(self) -> dict[str, Any]:
        """As in the summary: how many pairs have a rank, and the shares of those that are found early."""
        ranked = self.ranks.total()
        first, near = self.ranks[0] / ranked, (self.ranks[0] + self.ranks[1]) / ranked
        return {"ranked": ranked, "first": first, "first_three": near}

    def by_language(self) -> list[dict[str, Any]]:
        """Per query language: pairs, kept, mean cosine."""
        if not self._languages:
            return []
        sums = pa.concat_tables(self._languages, promote_options="permissive").group_by("language")
        rows = []
        for row in sums.aggregate([(name, "sum") for name in ("count_all", "kept_sum", *_COSINE)]).to_pylist():
            total, known = (row[f"{name}_sum"] for name in _COSINE)
            found = {"language": row["language"], "pairs": row["count_all_sum"], "kept": row["kept_sum_sum"]}
            rows.append(found | {"cosine": total / known if known else None})
        return sorted(rows, key=lambda row: (-row["pairs"], str(row["language"])))


_COSINE = ("cosine_sum", "cosine_count")


def numbers(table: pa.Table, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The values of a column that are neither null nor NaN."""
    column = table[name].drop_null()
    return np.asarray(column.filter(pc.invert(pc.is_nan(column))).to_numpy(), np.float64)


def rows_at(files: Sequence[Path], wanted: Collection[int], names: list[str] | None = None) -> list[dict[str, Any]]:
    """Rows by their numbers, which count through all files, in ascending order; read in small batches."""
    heights = []
    for path in files:
        with readable(path) as file:
            heights.append(pq.read_metadata(file).num_rows)
    ends = np.cumsum(heights, dtype=np.int64)
    rows = np.array(sorted(wanted), np.int64)
    places = np.searchsorted(ends, rows, side="right")
    found: list[dict[str, Any]] = []
    for place in np.unique(places[places < len(files)]):
        here = rows[places == place] - (ends[place - 1] if place else 0)
        with readable(files[place]):
            shard = pq.ParquetFile(files[place], pre_buffer=False, page_checksum_verification=True)
            for batch in shard.iter_batches(_BATCH, columns=names, use_threads=False):
                found += batch.take(pa.array(here[here < batch.num_rows])).to_pylist()
                here = here[here >= batch.num_rows] - batch.num_rows
                if not here.size:
                    break
    return found
