"""The summary at the end of a run: what came out, how it is spread, and what to make of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl

from synth.run import history
from synth.run import run as runs
from synth.run.run import Run
from synth.shards import OutputFolder, StepFolder
from synth.steps.keep import View
from synth.tables import PAIRS


def scan(step: StepFolder) -> pl.LazyFrame | None:
    """All finished shards of a step in order; None while there is none."""
    done = sorted(step.done())
    if not done:
        return None
    return pl.scan_parquet([step.file(index) for index in done], missing_columns="insert", extra_columns="ignore")


def scan_rejects(folder: OutputFolder, step: str) -> pl.LazyFrame | None:
    """Rejected rows of a step; None where it rejected nothing."""
    files = sorted((folder.path / "rejected" / step).glob("????????.parquet"))
    return pl.scan_parquet(files, missing_columns="insert", extra_columns="ignore") if files else None


def totals(step: StepFolder) -> tuple[int, int, int]:
    """Rows (in, out, rejected) over all shards of a step, from their footers."""
    metas = [step.meta(index) for index in step.done()]
    return sum(m.rows_in for m in metas), sum(m.rows_out for m in metas), sum(m.rejected for m in metas)


def score_columns(names: Iterable[str], carried: Iterable[str] = ()) -> list[str]:
    """Of a kept shard's columns those that scorers made."""
    known = {*PAIRS.names, *carried}
    return [name for name in names if name not in known and not name.startswith("input_")]


def scores_in(folder: OutputFolder, view: str) -> frozenset[str]:
    """The columns that the rows of a view have beside those of their pairs; none while it has no shard."""
    index = min(folder.step(view).done(), default=None)
    if index is None:
        return frozenset()
    return frozenset(folder.step(view).schema(index).names) - frozenset(folder.step("generated").schema(index).names)


def reasons(folder: OutputFolder, step: str) -> dict[str, int]:
    """Rejected rows of a step by their reason, the most frequent first, ties by name."""
    frame = scan_rejects(folder, step)
    if frame is None:
        return {}
    counted = frame.group_by("reason").len().sort(["len", "reason"], descending=[True, False]).collect()
    return {str(reason): int(count) for reason, count in counted.iter_rows()}


_BINS = 10
_SHUFFLED_ROWS = 200_000
"""About so many, spread over the run, are enough for a share."""
_LANGUAGES = ("query_language", "passage_language")
"""Of existing data; a column of another name may be the user's own."""
_MIXES = ("question_type", "difficulty", "query_language", "passage_language")


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
    """Whether the pairs were there before: then there are no passages, and a row that cannot be used is no item."""

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def summarise(run: Run, view: View) -> Summary:
    """Read what a run has made so far. Text columns are read for a handful of rows only."""
    step0 = {"rows_in": 0, "passages": 0, "retried": 0} | (runs.totals(run.folder) or {})
    existing = bool(run.job.data)
    generated = run.folder.step("generated")
    items, pairs, _ = totals(generated)
    kept_folder = run.folder.step(view.name)
    _, kept, _ = totals(kept_folder)
    frame, scored = scan(generated), _with_scores(run, view)
    return Summary(
        rows_in=step0["rows_in"],
        rows_rejected=_reasons(scan_rejects(run.folder, "generated" if existing else "passages")),
        passages=step0["passages"] - step0["retried"],
        items=pairs if existing else items - step0["retried"],
        pairs=pairs,
        unusable={} if existing else _reasons(_never_usable(run)),
        kept=kept,
        dropped=_reasons(scan_rejects(run.folder, view.name)),
        mixes={name: _counts(frame, name) for name in (_LANGUAGES if existing else _MIXES)},
        lengths={} if existing else _lengths(scored),
        cosine=_histogram(scored),
        languages=_by_language(scored, scan(kept_folder)),
        kept_share=kept / pairs if pairs else None,
        shuffled_share=_shuffled(scored, view, 1 + pairs // _SHUFFLED_ROWS),
        median_copied=_number(scored, "copied_share", pl.col("copied_share").median()),
        repaired=0 if existing else int(_number(frame, "repaired", pl.col("repaired").sum()) or 0),
        truncated_passages=int(_number(scored, "passage_truncated", pl.col("passage_truncated").sum()) or 0),
        tokens=(0, 0) if existing else _tokens(frame, scan_rejects(run.folder, "generated")),
        personas={} if existing else dict(list(_counts(frame, "character").items())[:10]),
        kept_rows=_rows(scan(kept_folder), 3),
        dropped_rows=_rows(scan_rejects(run.folder, view.name), 2),
        scores=sorted(scores_in(run.folder, view.name)),
        existing=existing,
    )


def _never_usable(run: Run) -> pl.LazyFrame | None:
    """Rejected items but for those that were asked again as new ones: they count as what became of those."""
    frame = scan_rejects(run.folder, "generated")
    again = [item for record in history.read_revisions(run.folder) for item in record.retry]
    return frame.filter(~pl.col("id").is_in(again)) if frame is not None and again else frame


def _with_scores(run: Run, view: View) -> pl.LazyFrame | None:
    """Kept and dropped pairs together: all that were scored."""
    parts = [
        part for part in (scan(run.folder.step(view.name)), scan_rejects(run.folder, view.name)) if part is not None
    ]
    return pl.concat(parts, how="diagonal") if parts else None


def _has(frame: pl.LazyFrame | None, name: str) -> bool:
    return frame is not None and name in frame.collect_schema().names()


def _number(frame: pl.LazyFrame | None, name: str, what: pl.Expr) -> float | None:
    if frame is None or not _has(frame, name):
        return None
    value = frame.select(what).collect(engine="streaming").item()
    return None if value is None else float(value)


def _counts(frame: pl.LazyFrame | None, name: str) -> dict[str, int]:
    """Rows per value, most frequent first, ties by name."""
    if frame is None or not _has(frame, name):
        return {}
    counted = frame.select(pl.col(name)).drop_nulls().group_by(name).len()
    ordered = counted.sort(["len", name], descending=[True, False]).collect(engine="streaming")
    return {str(key): int(count) for key, count in ordered.iter_rows()}


def _reasons(frame: pl.LazyFrame | None) -> dict[str, int]:
    return _counts(frame, "reason")


def _lengths(frame: pl.LazyFrame | None) -> dict[str, float]:
    """Shares of queries within, below and above the range they were asked in."""
    if frame is None or not _has(frame, "length"):
        return {}
    got = pl.col("length")
    known = frame.filter(got.is_not_null() & pl.col("length_min").is_not_null())
    row = known.select(
        inside=got.is_between(pl.col("length_min"), pl.col("length_max")).mean(),
        shorter=(got < pl.col("length_min")).mean(),
        longer=(got > pl.col("length_max")).mean(),
    ).collect()
    return {name: float(row[name][0]) for name in row.columns if row[name][0] is not None}


def _histogram(frame: pl.LazyFrame | None) -> list[int]:
    """Pairs per tenth of cosine from 0 to 1; what lies below 0 counts in the first."""
    if frame is None or not _has(frame, "cosine"):
        return []
    bins = frame.select((pl.col("cosine") * _BINS).floor().clip(0, _BINS - 1).cast(pl.Int32).alias("bin"))
    found = dict(bins.group_by("bin").len().collect(engine="streaming").iter_rows())
    return [int(found.get(n, 0)) for n in range(_BINS)]


def _by_language(scored: pl.LazyFrame | None, kept: pl.LazyFrame | None) -> list[dict[str, Any]]:
    """Per query language: pairs, kept, mean cosine."""
    if scored is None or not _has(scored, "query_language"):
        return []
    mean = pl.col("cosine").mean() if _has(scored, "cosine") else pl.lit(None)
    table = scored.group_by("query_language").agg(pairs=pl.len(), cosine=mean).collect()
    made = _counts(kept, "query_language")
    rows = [
        {"language": code, "pairs": int(pairs), "kept": made.get(str(code), 0), "cosine": cosine}
        for code, pairs, cosine in table.iter_rows()
    ]
    return sorted(rows, key=lambda row: (-row["pairs"], str(row["language"])))


def _shuffled(frame: pl.LazyFrame | None, view: View, every: int) -> float | None:
    """The share that the cosine rule would let through if every query stood beside another row's passage.

    Of all pairs each `every`-th is looked at.
    """
    rules = view.rules.only("cosine")
    if frame is None or not _has(frame, "cosine_shuffled") or not rules.conditions:
        return None
    needed = sorted(rules.columns() - {"cosine"})
    columns = [pl.col("cosine_shuffled").alias("cosine"), *map(pl.col, needed)]
    table = frame.select(columns).filter(pl.col("cosine").is_not_null()).gather_every(every).collect()
    return rules.share(table.to_arrow())


def _tokens(*frames: pl.LazyFrame | None) -> tuple[int, int]:
    prompt = sum(_number(frame, "prompt_tokens", pl.col("prompt_tokens").sum()) or 0 for frame in frames)
    completion = sum(_number(frame, "completion_tokens", pl.col("completion_tokens").sum()) or 0 for frame in frames)
    return int(prompt), int(completion)


def _rows(frame: pl.LazyFrame | None, count: int) -> list[dict[str, Any]]:
    """A few rows spread over the whole, so that they are not all from the first passage."""
    if frame is None:
        return []
    height = frame.select(pl.len()).collect(engine="streaming").item()
    if not height:
        return []
    wanted = sorted({(2 * n + 1) * height // (2 * count) for n in range(count)})
    return [frame.slice(index, 1).collect().to_dicts()[0] for index in wanted]
