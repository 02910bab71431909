"""The summary and single rows, drawn for a screen."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from synth.results.summary import FEW_PASSAGES, Summary
from synth.tables import PAIRS, REJECTED_ITEMS, REJECTED_ROWS
from synth.terminal import columns, facts, heading, shorten, width, words

if TYPE_CHECKING:
    from rich.console import RenderableType

_BAR = 30
_PASSAGE = 1500
"""Characters of a passage that are shown."""
_EXCERPT = 240
"""The same in a summary, whose figures have to fit the screen."""
_PERSONAS = 5
_ENGLISH_ONLY = "all-MiniLM-L6-v2"
_LABEL = 18
_MIXES = {
    "question_type": "question types",
    "difficulty": "difficulty",
    "query_language": "query languages",
    "passage_language": "passage languages",
    "relation": "relations",
    "grade": "grades",
    "unit": "units",
}


def summary_view(summary: Summary, *, embedder: str, seconds: float, made: int) -> Iterator[RenderableType]:
    """Examples, then all figures; `seconds` and `made` (items) are of this process, for the rate."""
    for title, rows in (("dropped", summary.dropped_rows), ("kept", summary.kept_rows)):
        for row in rows:
            yield from row_view(row, title, summary.scores, passage=_EXCERPT)
            yield words()
    yield heading("summary")
    yield facts(_counts(summary), least=_LABEL)
    if summary.cosine:
        yield words("\ncosine similarity of query and passage", "bold")
        most = max(summary.cosine) or 1
        for n, count in enumerate(summary.cosine):
            bar = "█" * round(_BAR * count / most)
            yield words(f"{n / 10:.1f}–{(n + 1) / 10:.1f}  {bar:<{_BAR}} {count:,}")
        if len(summary.languages) > 1:
            yield words()
            yield columns(("query language", "pairs", "kept", "share kept", "mean cosine"), _languages(summary))
        foreign = [row for row in summary.languages if not str(row["language"]).startswith(("en", "und"))]
        if foreign and _ENGLISH_ONLY in embedder:
            yield words(
                f"{_ENGLISH_ONLY} is an English model. Its cosine scores in other languages mean little: random Arabic "
                "pairs average 0.84. Use a multilingual embedder, or set a threshold for each language."
            )
    if summary.models:
        yield words()
        yield columns(("model", "items", "usable", "kept", "tokens in", "tokens out"), _models(summary))
    yield words()
    yield facts(_mixes(summary, made, seconds), least=_LABEL)


def _languages(summary: Summary) -> Iterator[tuple[str, ...]]:
    for row in summary.languages[:10]:
        code, pairs, kept, cosine = (row[name] for name in ("language", "pairs", "kept", "cosine"))
        if cosine is not None:
            yield code, f"{pairs:,}", f"{kept:,}", f"{kept / pairs:.0%}", f"{cosine:.2f}"


def _models(summary: Summary) -> Iterator[tuple[str, ...]]:
    for row in summary.models:
        shares = (f"{row[name]:,} ({row[name] / max(1, row['items']):.0%})" for name in ("pairs", "kept"))
        yield row["model"], f"{row['items']:,}", *shares, f"{row['prompt_tokens']:,}", f"{row['completion_tokens']:,}"


def _counts(summary: Summary) -> Iterator[tuple[str, str]]:
    rejected = sum(summary.rows_rejected.values())
    yield "rows", f"{summary.rows_in:,} read, {rejected:,} rejected{_list(summary.rows_rejected)}"
    if summary.existing:
        yield "pairs", f"{summary.pairs:,}"
    else:
        yield "passages", f"{summary.passages:,}"
        unusable = sum(summary.unusable.values())
        yield "items", f"{summary.items:,}: {summary.pairs:,} pairs, {unusable:,} unusable{_list(summary.unusable)}"
    if summary.truncated_passages:
        yield "", f"passage truncated by the embedder: {summary.truncated_passages:,} pairs"
    if summary.repaired:
        yield "", f"{summary.repaired:,} pairs from replies whose JSON was repaired"
    share = f" ({summary.kept_share:.0%} of the pairs)" if summary.kept_share is not None else ""
    yield "kept", f"{summary.kept:,}{share}"
    for failed, count in summary.dropped.items():
        yield "dropped", f"{count:,} by the rule: {failed}"
    if summary.shuffled_share is not None:
        chance = f"the cosine rule keeps {summary.shuffled_share:.1%} of randomly shuffled pairs"
        yield "chance level", f"{chance}; as the only rule it should keep almost none"
    if summary.target is not None:
        yield from (("" if n else "target", line) for n, line in enumerate(summary.target.lines()))
    if found := summary.own_passage:
        shares = f"found first by {found['first']:.0%} of the queries, among three by {found['first_three']:.0%}"
        yield "own passage", f"{shares}{_searched(found)}"


def _searched(found: Mapping[str, Any]) -> str:
    if "passages" not in found:
        return ""
    few = ", too few to tell much" if found["passages"] < FEW_PASSAGES else ""
    return f" (of {found['passages']:,} {'drawn ' if found['drawn'] else ''}passages{few})"


def _mixes(summary: Summary, made: int, seconds: float) -> Iterator[tuple[str, str]]:
    for name, counts in summary.mixes.items():
        total = sum(counts.values())
        if total:
            asked = summary.asked.get(name, {})
            parts = {value: counts.get(value, 0) / total for value in list(asked or counts)[:12]}
            shown = (
                f"{value} {share:.0%}" + (f" (asked {asked[value]:.0%})" if asked else "")
                for value, share in parts.items()
            )
            yield _MIXES.get(name, name), ", ".join(shown)
    if summary.agreement:
        shown = (f"{name} {value:.2f}" for name, value in summary.agreement.items())
        yield "agreement", f"Spearman of the asked grade with {', '.join(shown)}"
    if summary.median_copied is not None:
        yield "copied", f"{summary.median_copied:.0%} of a query is copied from the passage in one piece (median)"
    if not summary.existing:
        named = {"inside": "in the requested range", "shorter": "shorter", "longer": "longer"}
        shares = [f"{summary.lengths[name]:.0%} {text}" for name, text in named.items() if name in summary.lengths]
        yield "query lengths", ", ".join(shares) or "not measured"
    yield from _real_queries(summary.real_queries)
    for n, (name, count) in enumerate(list(summary.personas.items())[:_PERSONAS]):
        yield "" if n else "top personas", shorten(f"{count:,} × {name}", width() - _LABEL - 2)
    prompt, completion = summary.tokens
    if prompt or completion:
        yield "tokens", f"{prompt:,} in the prompts, {completion:,} in the replies"
    if made and seconds > 0:
        what = "pairs" if summary.existing else "items"
        yield "speed", f"{made:,} {what} in {seconds:,.0f} s: {made / seconds:,.1f}/s"


def _real_queries(near: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """How near the queries are to the user's own; nothing where that was not measured."""
    if not near:
        return
    shown = f"{near['words']:.0f} words in the median, real ones {near['real_words']:.0f}"
    yield "real queries", f"{shown}; first words alike {near['first_words']:.0%}"
    if near["energy"] is not None:
        halves = f"{near['energy_of_halves']:.3f} between two halves of the real ones"
        yield "", f"energy distance of their vectors {near['energy']:.3f}, {halves}"


def row_view(
    row: Mapping[str, Any], title: str, scores: Container[str], *, passage: int = _PASSAGE
) -> Iterator[RenderableType]:
    """One pair or rejected row: what was asked, what came, what it scored; `scores` are the columns of scorers."""
    yield heading(f"{title} {row.get('id', '')}".rstrip())
    yield facts(_row_facts(row, scores, passage))


def _row_facts(row: Mapping[str, Any], scores: Container[str], longest: int) -> Iterator[tuple[str, str]]:
    if row.get("reason"):
        detail = str(row.get("detail") or "")
        yield "reason", f"{row['reason']}: {detail}" if detail not in ("", row["reason"]) else str(row["reason"])
    if row.get("query") is not None:
        yield "query", str(row["query"])
    asked = [row.get(name) for name in ("query_language", "question_type", "difficulty")]
    if any(asked):
        length = f"{row['length_min']}–{row['length_max']} {row['length_unit']}" if row.get("length_min") else ""
        label = "requested" if "length_min" in row else "language"  # nothing was requested of an external pair
        yield label, ", ".join(str(each) for each in [*asked, length] if each)
    if row.get("character"):
        yield "character", str(row["character"])
    for label, wanted in (("scores", True), ("columns", False)):
        shown = [
            f"{name} {shorten(_value(value), 60)}"
            for name, value in row.items()
            if value is not None and name not in _ELSEWHERE and (name in scores) is wanted
        ]
        if shown:
            yield label, ", ".join(shown)
    if row.get("passage") is not None:
        place = "/".join(str(row[name]) for name in ("source", "passage_id") if row.get(name) is not None)
        yield "passage", f"[{place}, {row.get('passage_language')}] {shorten(str(row['passage']), longest)}"
    elif row.get("text"):
        yield "text", shorten(str(row["text"]), 400)
    attempts = row.get("attempts")
    for attempt in attempts if isinstance(attempts, list) else []:
        verdict = attempt["reason"] or "accepted"
        yield "attempt", f"{attempt['stage']}: {verdict}: {shorten(attempt['reply'] or '(no text)', 300)}"


_ELSEWHERE = {*PAIRS.names, *REJECTED_ROWS.names, *REJECTED_ITEMS.names, "failed", "kept", "cosine_shuffled"}


def _value(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _list(counts: Mapping[str, int]) -> str:
    return " (" + ", ".join(f"{reason} {count:,}" for reason, count in counts.items()) + ")" if counts else ""
