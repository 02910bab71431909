"""The sections of a report, in the order of the page; each is a function of the material, some also of vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from synth.clusters import clusters
from synth.errors import JobError
from synth.report import measures
from synth.report.material import Material
from synth.report.measures import Vectors
from synth.report.parts import Figure, Histogram, Kind, Map, Samples, Section, Table, Value
from synth.results.summary import RANK, files_of, scan
from synth.results.sweep import SweepArgs, even_steps, histogram, sweep
from synth.rules.conditions import Grouped
from synth.steps.relabel import Counts
from synth.terminal import shorten

_TOP = 12
"""Rows of a table, the most frequent ones."""
_LONG = 26
"""Characters of a name that fits beside a bar."""
_TEXT = 240
"""Characters of a text that is shown."""
_SAMPLES = 3
_MUCH = 0.8
_FEWEST_WORDS, _MANY_WORDS = 7, 10
_RANKS = ((1, "1"), (3, "2 – 3"), (10, "4 – 10"), (100, "11 – 100"), (np.inf, "over 100"))
ON_MAP = 350
"""Most passages, kept and dropped queries on the map, each."""
_VALUES = 7
"""Colours of a field; other values share one."""


def share(part: Any, whole: Any) -> float | None:
    return float(part / whole) if whole else None


def funnel(m: Material) -> Section:
    """What became of the rows, and what a kept pair cost."""
    s, section = m.summary, Section("funnel", "From rows to kept pairs")
    per_kept = [share(tokens, s.kept) for tokens in s.tokens]
    section.figures = [
        Figure("kept", "kept pairs", s.kept),
        Figure("kept_share", "of all pairs", s.kept_share, "share"),
        Figure("pairs", "pairs", s.pairs),
        Figure("prompt_tokens", "prompt tokens", s.tokens[0]),
        Figure("completion_tokens", "reply tokens", s.tokens[1]),
        Figure("prompt_tokens_per_kept", "prompt tokens per kept pair", per_kept[0], "number"),
        Figure("completion_tokens_per_kept", "reply tokens per kept pair", per_kept[1], "number"),
        Figure(
            "shuffled_share",
            "of shuffled pairs the cosine rule keeps",
            s.shuffled_share,
            "share",
            "almost none is good",
        ),
    ]
    if s.existing:
        section.figures = [each for each in section.figures if "tokens" not in each.key]
    stages = [("rows read", s.rows_in), ("passages", s.passages), ("items asked for", s.items), ("pairs", s.pairs)]
    stages = [each for each in stages if not s.existing or each[0] in ("rows read", "pairs")]
    section.tables.append(
        Table("stages", "what is left", ("", "count"), ("count",), [*stages, ("kept", s.kept)], ("count",))
    )
    by_model = [tuple(each.values()) for each in s.models]
    head = ("", "items", "pairs", "kept", "prompt tokens", "reply tokens")
    section.tables.append(Table("models", "by language model", head, ["count"] * 5, by_model))
    lost = (("row rejected", s.rows_rejected), ("item unusable", s.unusable), ("pair dropped", s.dropped))
    rows = [(f"{what}: {why}", count) for what, reasons in lost for why, count in reasons.items()]
    section.tables.append(Table("lost", "what was lost, and why", ("", "count"), ("count",), rows))
    return section


def coverage(m: Material, vectors: Vectors | str) -> Section:
    """How much of the corpus has a kept pair: passages, and clusters of passages."""
    covered = m.kept()["key"].n_unique()
    section = Section("coverage", "Coverage of the corpus")
    section.figures = [
        Figure("passages", "distinct passages", len(m.corpus)),
        Figure("covered", "with a kept pair", covered),
        Figure("covered_share", "share with a kept pair", share(covered, len(m.corpus)), "share"),
        Figure("kept_per_covered", "kept pairs per such passage", share(m.summary.kept, covered), "number"),
    ]
    if isinstance(vectors, str):
        section.about = f"Not measured: clusters and facility location ({vectors})."
        return section
    has = vectors.any(axis=1)
    passages, vectors = m.passages[np.flatnonzero(has)], vectors[has]
    done = passages["covered"].to_numpy()
    count = max(1, min(50, round((len(vectors) / 2) ** 0.5)))
    of, centres = clusters(vectors, count, np.random.default_rng(m.seed))
    rows, reading = [], []
    for number in np.unique(of).tolist():
        members = np.flatnonzero(of == number)
        nearest = members[np.argsort(-(vectors[members] @ centres[number]), kind="stable")].tolist()
        rows.append((len(members), int(done[members].sum()), [passages["text"][n] for n in nearest[:_SAMPLES]]))
    rows.sort(key=lambda row: (row[1] / row[0], -row[0]))
    worst = [
        (f"{n + 1}: {shorten(row[2][0], 60)}", row[0], row[1], row[1] / row[0]) for n, row in enumerate(rows[:_TOP])
    ]
    reading = [
        {"cluster": str(n + 1), "passage": shorten(text, _TEXT)} for n, row in enumerate(rows[:5]) for text in row[2]
    ]
    section.about = (
        f"Clusters (k-means, {count}) and facility location are of {len(vectors):,} passages"
        f"{', drawn at random' if len(vectors) < len(m.corpus) else ''}. "
        "Facility location: the mean cosine of a passage with the nearest passage that has a kept pair."
    )
    section.figures += [
        Figure("clusters", "clusters", len(rows)),
        Figure("clusters_covered", "clusters with a kept pair", sum(1 for row in rows if row[1])),
        Figure(
            "clusters_half",
            "clusters with kept pairs for half of their passages",
            sum(row[1] * 2 >= row[0] for row in rows),
        ),
        Figure("facility_location", "facility location", measures.facility_location(vectors, done), "number"),
    ]
    head = ("nearest to the centre", "passages", "covered", "share")
    section.tables.append(Table("clusters", "least covered clusters", head, ("count", "count", "share"), worst))
    section.samples.append(Samples("clusters", "passages of the five least covered clusters", reading))
    return section


def requested(m: Material) -> Section:
    """What was asked for, what came, and what was kept, by every field of a row."""
    about = "Asked: the shares that the job asks for, – where the model chooses. Yield: the kept share of what came."
    section, rows = Section("requested", "Requested, got, kept", about), m.rows
    own = [name for name, kind in (m.run.job.task.columns.items() if m.run.job.task else ()) if kind == "string"]
    fields = dict.fromkeys([*m.summary.mixes, *own, "model", "source", "character"])
    weights = dict(_weights(m.run.record.identity.get("task") or {}))
    if {"query_language", "passage_language"} <= set(rows.columns):
        spoken = pl.concat_str(pl.col("passage_language", "query_language").fill_null("?"), separator=" → ")
        rows = rows.with_columns(languages=spoken)
        fields = {"languages": None} | {
            name: None for name in fields if name not in ("query_language", "passage_language")
        }
    if {"length_min", "length_max"} <= set(rows.columns):
        asked = pl.format("{} – {} {}", "length_min", "length_max", pl.col("length_unit").fill_null(""))
        rows, fields = rows.with_columns(requested_length=asked), fields | {"requested_length": None}
    for name in fields:
        if name in rows.columns and rows[name].drop_nulls().n_unique() > (0 if name in weights else 1):
            section.tables.append(_by(rows, name, weights.get(name, {})))
    got = rows.select(pl.col("character").drop_nulls().n_unique()).item() if "character" in rows.columns else 0
    section.figures = [Figure("characters", "different characters who ask", got)] if got else []
    lengths = [(key, m.summary.lengths.get(key)) for key in ("inside", "shorter", "longer")]
    section.figures += [
        Figure(f"length_{key}", f"length {key}", value, "share") for key, value in lengths if value is not None
    ]
    if "language_ok" in rows.columns:
        known = rows["language_ok"].drop_nulls()
        section.figures.append(
            Figure("language_ok", "in the requested language", share(known.sum(), len(known)), "share")
        )
    if not section.tables:
        section.missing = "the rows have no field with different values"
    return section


def _by(rows: pl.DataFrame, name: str, weights: Mapping[str, float]) -> Table:
    counts = rows.group_by(pl.col(name).cast(pl.String).alias("value")).agg(got=pl.len(), kept=pl.col("kept").sum())
    known = {value: (got, kept) for value, got, kept in counts.iter_rows()}
    shown = sorted(known.keys() | weights.keys(), key=lambda value: (-known.get(value, (0, 0))[0], value or ""))
    total, whole = sum(weights.values()), sum(got for got, _ in known.values())
    lines: list[tuple[Value, ...]] = []
    for value in shown[:_TOP]:
        got, kept = known.get(value, (0, 0))
        wanted = share(weights.get(value, 0.0), total) if weights else None
        lines.append((shorten(value or "none", 70), wanted, share(got, whole), got, kept, share(kept, got)))
    bars = ("got", "kept") if max(len(str(line[0])) for line in lines) < _LONG else ()
    title = name.replace("_", " ") + (f" ({len(shown) - _TOP:,} more)" if len(shown) > _TOP else "")
    kinds: list[Kind] = ["share", "share", "count", "count", "share"]
    return Table(name, title, ("", "asked", "share", "got", "kept", "yield"), kinds, lines, bars)


def _weights(options: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, float]]]:
    """Weighted options of a task by the column that they become: `question_types` is `question_type`."""
    for name, value in options.items():
        singular = f"{name[:-3]}y" if name.endswith("ies") else name.removesuffix("s")
        if isinstance(value, dict) and name != "languages":
            found = {key: each.get("weight") if isinstance(each, dict) else each for key, each in value.items()}
            weights = {key: float(each) for key, each in found.items() if isinstance(each, int | float)}
            if weights and len(weights) == len(found):
                yield singular, weights


def redundancy(m: Material, vectors: Vectors | str) -> Section:
    """How much the kept queries repeat each other."""
    kept, sample = m.kept(), m.sampled(kept=True)
    if not kept.height:
        return Section("redundancy", "Redundancy", missing="no pair was kept")
    texts = sample["query"].to_list()
    about = f"All but duplicates are of {len(texts):,} kept queries."
    section = Section("redundancy", "Redundancy of the kept queries", about)
    folded = kept["query"].str.to_lowercase().str.strip_chars().n_unique()
    section.figures.append(Figure("duplicates", "repeat another query exactly", 1 - folded / kept.height, "share"))
    clustered = "query_cluster" in kept.columns
    near = 1 - kept["query_cluster"].n_unique() / kept.height if clustered else None
    note = "" if clustered else "add the score near_duplicate"
    section.figures.append(Figure("near_duplicates", "nearly repeat another", near, "share", note))
    ratio = measures.compression_ratio(texts)
    section.figures.append(Figure("compression_ratio", "compression ratio", ratio, "number", "higher is more alike"))
    for n in (1, 2, 3):
        section.figures.append(Figure(f"distinct_{n}", f"distinct-{n}", measures.distinct_n(texts, n), "share"))
    if isinstance(vectors, str):
        section.about += f" Vendi score: not measured ({vectors})."
        return section
    score = measures.vendi(vectors[vectors.any(axis=1)])
    section.figures.append(Figure("vendi", "Vendi score", score, "number", "the effective number of different queries"))
    section.figures.append(Figure("vendi_share", "Vendi score per query", score / len(texts), "share"))
    return section


def content(m: Material) -> Section:
    """Words per query that are not stop words."""
    section, sample = Section("content", "Content words per query"), m.sampled(kept=True)
    codes: list[str | None] = [None] * sample.height
    codes = sample["query_language"].to_list() if "query_language" in sample.columns else codes
    try:
        found = np.array(measures.content_words(sample["query"].to_list(), codes), np.float64)
    except JobError as exc:
        section.missing = f"{exc} {exc.hint}"
        return section
    if not len(found):
        section.missing = "no kept query is in a language with a list of stop words"
        return section
    mean = float(found.mean())
    reading = "diverse queries help" if mean > _MANY_WORDS else "between the two"
    reading = "diversity may hurt" if mean < _FEWEST_WORDS else reading
    section.about = (
        f"Of {len(found):,} kept queries; stop words by the lists of bm25s. In arXiv 2602.09448 training gained "
        f"from diverse queries with more than {_MANY_WORDS} content words, and lost below {_FEWEST_WORDS}: {reading}."
    )
    section.figures = [
        Figure("mean", "mean", mean, "number"),
        Figure("below", f"below {_FEWEST_WORDS}", float((found < _FEWEST_WORDS).mean()), "share"),
        Figure("above", f"above {_MANY_WORDS}", float((found > _MANY_WORDS).mean()), "share"),
    ]
    edges = [float(n) for n in range(int(found.max()) + 2)]
    section.histograms.append(Histogram("words", "content words", edges, {"kept": histogram(found, edges)}))
    return section


def ranks(m: Material) -> Section:
    """How high the embedder ranks the own passage before any training."""
    section, own = Section("rank", "Rank of the own passage before training"), m.summary.own_passage
    if not own:
        section.missing = "not measured; add the score round_trip"
        return section
    among = f" among {own['passages']:,} {'drawn ' if own['drawn'] else ''}passages" if "passages" in own else ""
    section.about = (
        f"By the embedder of the run{among}. A query that finds its passage first teaches this embedder little."
    )
    section.figures = [
        Figure("ranked", "pairs with a rank", own["ranked"]),
        Figure("first", "already first", own["first"], "share"),
        Figure("first_three", "among the first three", own["first_three"], "share"),
    ]
    kept = m.kept()[RANK].drop_nulls()
    section.figures.append(
        Figure("kept_first", "kept pairs already first", share((kept == 1).sum(), len(kept)), "share")
    )
    lines, low = [], 0.0
    for high, label in _RANKS:
        here = m.rows.filter((pl.col(RANK) > low) & (pl.col(RANK) <= high))
        lines.append((label, int(here["kept"].sum()), int((~here["kept"]).sum())))
        low = high
    section.tables.append(
        Table("ranks", "pairs by rank", ("rank", "kept", "dropped"), ("count", "count"), lines, ("kept", "dropped"))
    )
    return section


def scores(m: Material) -> Section:
    """Histograms of the scores that judge a pair, and pairs on either side of each threshold."""
    section, in_force = Section("scores", "Scores and thresholds"), _thresholds(m)
    numeric = [name for name, kind in m.rows.schema.items() if kind.is_numeric() and name != RANK]
    names = [name for name in dict.fromkeys(["cosine", "reranker", *in_force]) if name in numeric]
    for name in names:
        marks = sorted(in_force.get(name, ()))
        found = sweep(m.run.folder, SweepArgs(name, at=marks or [0.0], examples=_SAMPLES if marks else 0))
        sides = {kind: _numbers(m.rows, name, kept=kind == "kept") for kind in ("kept", "dropped")}
        counts = {kind: histogram(values, found.edges) for kind, values in sides.items()}
        section.histograms.append(Histogram(name, name, found.edges, counts, marks))
        values = np.concatenate(list(sides.values()))
        median = float(np.nanmedian(values)) if np.isfinite(values).any() else None
        section.figures.append(Figure(f"{name}_median", f"median {name}", median, "number"))
        rows = [
            {"": f"{word} at {mark:g}", name: round(row["score"], 4)}
            | {text: shorten(row[text] or "", _TEXT) for text in ("query", "passage")}
            for mark, both in found.samples.items()
            for word, some in zip(("kept", "dropped"), both, strict=True)
            for row in some
        ]
        if rows:
            section.samples.append(Samples(name, f"nearest to the threshold of {name}", rows))
    section.missing = "" if names else "the rows have no cosine and no reranker score, and no rule has a threshold"
    return section


def _thresholds(m: Material) -> dict[str, set[float]]:
    """The thresholds in force, by column; all of those that differ by group."""
    found: dict[str, set[float]] = {}
    for each in m.view.rules.conditions:
        values = [value for _, value in each.value.values] if isinstance(each.value, Grouped) else [each.value]
        numbers = {float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)}
        found.setdefault(each.column, set()).update(numbers)
    return found


def _numbers(rows: pl.DataFrame, name: str, *, kept: bool) -> Any:
    return rows.filter(pl.col("kept") == kept)[name].cast(pl.Float64).fill_null(np.nan).to_numpy()


def copied(m: Material) -> Section:
    """How much of a query is in its passage word for word."""
    section, name = Section("copied", "Copied from the passage"), "copied_share"
    if m.summary.median_copied is None:
        section.missing = "not measured; add the score copying"
        return section
    values = m.rows[name].drop_nulls()
    section.about = "The longest run of characters that the query shares with its passage, by the length of the query."
    section.figures = [
        Figure("median", "median", m.summary.median_copied, "share"),
        Figure("much", "pairs above 80 %", share(values.gt(_MUCH).sum(), len(values)), "share"),
    ]
    edges = even_steps(np.array([0.0, 1.0]))
    counts = {kind: histogram(_numbers(m.rows, name, kept=kind == "kept"), edges) for kind in ("kept", "dropped")}
    section.histograms.append(Histogram(name, "copied share", edges, counts))
    return section


def positives(m: Material) -> Section:
    """What `synth relabel` decided about the passages near the queries."""
    section, step = Section("positives", "Positives chosen anew"), m.run.folder.step("relabelled")
    if not step.done():
        section.missing = f"nothing was relabelled; synth relabel {m.run.folder.path}"
        return section
    counts = Counts()
    for index in sorted(step.done()):
        counts.add(step.read(index).table, step.rejects(index))
    section.figures = [
        Figure("rows", "pairs", counts.rows),
        Figure("judged", "passages judged", counts.judged),
        Figure("replaced", "passages replaced", share(counts.replaced, counts.rows), "share"),
        Figure("several", "pairs with several positives", share(counts.several, counts.rows), "share"),
        Figure("dropped", "pairs without a passage that answers", sum(counts.dropped.values())),
    ]
    outcomes = ("positive", "ambiguous", "negative")
    rows: list[tuple[Value, ...]] = [
        ("own passages", *(counts.own[each] for each in outcomes)),
        ("all that were judged", counts.positives, counts.ambiguous, counts.negatives),
    ]
    section.tables.append(Table("outcomes", "outcomes", ("", *outcomes), ["count"] * 3, rows))
    return section


def negatives(m: Material) -> Section:
    """What `synth mine` found for the kept pairs."""
    section, frame = Section("negatives", "Hard negatives"), scan(files_of(m.run.folder.step("mined")))
    if frame is None:
        section.missing = f"none were mined; synth mine {m.run.folder.path}"
        return section
    mined = frame.select("negatives", "extra_positives", "refused").collect()
    flat = mined.select(pl.col("negatives").explode()).drop_nulls().unnest("negatives")
    refused = mined.select(pl.col("refused").explode()).drop_nulls().unnest("refused")
    section.figures = [
        Figure("rows", "pairs", mined.height),
        Figure("negatives", "negatives", flat.height),
        Figure("per_pair", "per pair", share(flat.height, mined.height), "number"),
        Figure("without", "pairs without any", int((mined["negatives"].list.len() == 0).sum())),
        Figure("extra_positives", "extra positives", int(mined["extra_positives"].list.len().sum())),
    ]
    lines: list[tuple[Value, ...]] = []
    for name in ("score", "margin", "reranker", "rank"):
        for (source,), part in flat.group_by(["source"], maintain_order=True):
            values = part[name].drop_nulls()
            if len(values):
                cuts = [values.quantile(q, "linear") for q in (0.05, 0.25, 0.5, 0.75, 0.95)]
                lines.append((f"{name}, {source}", *cuts))
    head = ("", "5 %", "25 %", "50 %", "75 %", "95 %")
    section.tables.append(Table("quantiles", "quantiles", head, ["number"] * 5, lines))
    counts = refused.group_by("reason").agg(pl.col("count").sum()).sort("count", "reason", descending=[True, False])
    section.tables.append(
        Table("refused", "candidates refused", ("reason", "count"), ("count",), counts.rows(), ("count",))
    )
    return section


def leakage(m: Material) -> Section:
    """Pairs that overlap with test sets that the job names."""
    section = Section("leakage", "Leakage against test sets")
    if "contaminated" not in m.rows.columns:
        section.missing = "no test set was named; add the score contamination with its files"
        return section
    known = m.rows.filter(pl.col("contaminated").is_not_null())
    hit = known.filter("contaminated").with_columns(set=pl.col("contaminated_by").str.replace(r":\d+$", ""))
    section.figures = [
        Figure("compared", "pairs compared", known.height),
        Figure("contaminated", "contaminated", hit.height),
        Figure(
            "kept",
            "contaminated and kept",
            int(hit["kept"].sum()),
            note="add the rule contaminated: false" if hit["kept"].any() else "",
        ),
    ]
    counts = (
        hit.group_by("set")
        .agg(pairs=pl.len(), kept=pl.col("kept").sum())
        .sort("pairs", "set", descending=[True, False])
    )
    section.tables.append(Table("sets", "by set", ("set", "pairs", "kept"), ("count", "count"), counts.rows()))
    return section


def atlas(m: Material, vectors: Mapping[str, Vectors] | str) -> Section:
    """Passages and queries in the plane."""
    section = Section("map", "Map of passages and queries")
    if isinstance(vectors, str):
        section.missing = vectors
        return section
    frames = {"passage": m.passages, "kept query": m.sampled(kept=True), "dropped query": m.sampled(kept=False)}
    parts, kinds, rows = [], list[str](), list[dict[str, Any]]()
    for kind, frame in frames.items():
        there = np.flatnonzero(vectors[kind].any(axis=1))[:ON_MAP]
        if len(there):
            parts.append(vectors[kind][there])
            kinds += [kind] * len(there)
            rows += frame[there].to_dicts()
    if len(rows) < 3:  # noqa: PLR2004 - a plane
        section.missing = "too few vectors"
        return section
    points, explained = measures.in_the_plane(np.concatenate(parts))
    texts = [
        f"{kind}: {shorten(row.get('query') or row.get('text') or '', 100)}"
        for kind, row in zip(kinds, rows, strict=True)
    ]
    fields = {"kind": kinds}
    for name in ("question_type", "query_language", "source", "difficulty"):
        values = [None if row.get(name) is None else str(row[name]) for row in rows]
        common = [each for each, _ in Counter(filter(None, values)).most_common()]
        if len(common) > 1:
            few = common if len(common) <= _VALUES else common[:_VALUES]
            rest = ["passage" if kind == "passage" else "other" for kind in kinds]
            fields[name] = [value if value in few else other for value, other in zip(values, rest, strict=True)]
    section.about = (
        f"{len(rows):,} texts, at most {ON_MAP} of a kind, by the two directions in which their vectors differ most "
        f"(PCA, {explained:.0%} of the variance). Hover over a point to read it."
    )
    section.map = Map(points[:, 0].tolist(), points[:, 1].tolist(), kinds, texts, dict(list(fields.items())[:3]))
    return section


def real(near: Mapping[str, Any]) -> Section:
    """How near the queries are to people's queries, as the score `seed_overlap` says it."""
    section = Section("real", "Distance to real queries")
    if not near:
        section.missing = "none were given; name a file with --queries, or add the score seed_overlap"
        return section
    section.about = (
        "Energy distance of the vectors: 0 where both are distributed alike. Beside it that of two halves of the real "
        "ones."
    )
    section.figures = [
        Figure("made", "queries compared", near["made"]),
        Figure("real", "real queries", near["real"]),
        Figure("words", "words, median", near["words"], "number"),
        Figure("real_words", "words of a real query, median", near["real_words"], "number"),
        Figure("first_words", "first words alike", near["first_words"], "share"),
        Figure("energy", "energy distance", near["energy"], "number"),
        Figure("energy_of_halves", "of real queries to each other", near["energy_of_halves"], "number"),
    ]
    return section
