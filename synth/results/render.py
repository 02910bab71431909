"""The summary and single rows as lines of text."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Container, Iterator, Mapping
from typing import Any

from synth.results.summary import Summary
from synth.tables import PAIRS, REJECTED_ITEMS, REJECTED_ROWS
from synth.terminal import width

_BAR = 30
_PASSAGE = 1500
"""Characters of a passage that are shown."""
_ENGLISH_ONLY = "all-MiniLM-L6-v2"
_LABEL = 18
"""Columns of a label in the summary."""
_MIXES = {
    "question_type": "question types",
    "difficulty": "difficulty",
    "query_language": "query languages",
    "passage_language": "passage languages",
}


def summary_lines(summary: Summary, *, embedder: str, seconds: float, made: int) -> Iterator[str]:
    """The whole summary; `seconds` and `made` (items) are of this process, for the rate."""
    yield from _ledger(summary)
    yield ""
    yield from _mixes(summary)
    if summary.cosine:
        yield ""
        yield from _cosine(summary, embedder)
    if summary.median_copied is not None:
        yield from _fact(
            "copied", f"longest run of words taken from the passage: {summary.median_copied:.0%} of the query (median)"
        )
    if not summary.existing:
        yield from _fact("lengths", _shares(summary.lengths) if summary.lengths else "not measured")
    if summary.personas:
        for n, (name, count) in enumerate(summary.personas.items()):
            yield from _fact("" if n else "personas", f"{count:>4,} × {_cut(name, width() - _LABEL - 10)}")
    prompt, completion = summary.tokens
    if prompt or completion:
        yield from _fact("tokens", f"{prompt:,} in, {completion:,} out")
    if made and seconds > 0:
        what = "pairs" if summary.existing else "items"
        yield from _fact("rate", f"{made:,} {what} in {seconds:,.0f} s: {made / seconds:,.1f}/s")
    for title, rows in (("kept", summary.kept_rows), ("dropped", summary.dropped_rows)):
        for row in rows:
            yield ""
            yield from row_lines(row, title, summary.scores)


def _ledger(summary: Summary) -> Iterator[str]:
    rejected = sum(summary.rows_rejected.values())
    yield from _fact("rows", f"{summary.rows_in:,} read, {rejected:,} rejected{_list(summary.rows_rejected)}")
    unusable = sum(summary.unusable.values())
    if summary.existing:
        yield from _fact("pairs", f"{summary.pairs:,}")
    else:
        yield from _fact("passages", f"{summary.passages:,}")
        made = f"{summary.items:,}: {summary.pairs:,} pairs, {unusable:,} unusable{_list(summary.unusable)}"
        yield from _fact("items", made)
    if summary.truncated_passages:
        yield from _fact("", f"passage truncated by the embedder: {summary.truncated_passages:,} pairs")
    if summary.repaired:
        yield from _fact("", f"{summary.repaired:,} pairs from replies that needed a repair")
    share = f" ({summary.kept_share:.0%} of the pairs)" if summary.kept_share is not None else ""
    yield from _fact("kept", f"{summary.kept:,}{share}")
    for failed, count in summary.dropped.items():
        yield from _fact("dropped", f"{count:,} by the rule: {failed}")
    if summary.shuffled_share is not None:
        yield from _fact(
            "chance level",
            f"the rule keeps {summary.shuffled_share:.1%} of randomly shuffled pairs (a useful threshold keeps almost "
            "none)",
        )


def _mixes(summary: Summary) -> Iterator[str]:
    for name, counts in summary.mixes.items():
        total = sum(counts.values())
        if total:
            shown = ", ".join(f"{value} {count / total:.0%}" for value, count in list(counts.items())[:12])
            yield from _fact(_MIXES.get(name, name), shown)


def _cosine(summary: Summary, embedder: str) -> Iterator[str]:
    most = max(summary.cosine) or 1
    yield "cosine of query and passage"
    for n, count in enumerate(summary.cosine):
        yield f"  {n / 10:.1f}–{(n + 1) / 10:.1f}  {'█' * round(_BAR * count / most):<{_BAR}} {count:,}"
    if len(summary.languages) > 1:
        yield "  by query language    mean    kept"
        for row in summary.languages[:10]:
            if row["cosine"] is not None:
                kept = f"{row['kept']:,} of {row['pairs']:,}"
                yield f"  {row['language']:<19}  {row['cosine']:>5.2f}    {kept} ({row['kept'] / row['pairs']:.0%})"
    foreign = [row["language"] for row in summary.languages if not str(row["language"]).startswith(("en", "und"))]
    if foreign and _ENGLISH_ONLY in embedder:
        yield f"  {_ENGLISH_ONLY} is an English model: its cosines in other languages mean little"
        yield "  (random Arabic pairs average .84). Use a multilingual embedder, or thresholds by language."


def rule(title: str, stroke: str = "─") -> str:
    """A title in a line as wide as the text below it."""
    return f"{stroke * 2} {title} {stroke * max(2, width() - len(title) - 4)}"


def row_lines(row: Mapping[str, Any], title: str, scores: Container[str]) -> Iterator[str]:
    """One pair or rejected row: what was asked, what came, what it scored; `scores` are the columns that say so."""
    yield rule(f"{title} {row.get('id', '')}".rstrip())
    if row.get("reason"):
        detail = str(row.get("detail") or "")
        yield from _wrapped(
            "reason", f"{row['reason']}: {detail}" if detail not in ("", row["reason"]) else str(row["reason"])
        )
    if row.get("query") is not None:
        yield from _wrapped("query", str(row["query"]))
    asked = [row.get(name) for name in ("query_language", "question_type", "difficulty")]
    if any(asked):
        length = f"{row['length_min']}–{row['length_max']} {row['length_unit']}" if row.get("length_min") else ""
        label = "requested" if "length_min" in row else "language"  # nothing was requested of an external pair
        yield f"{label:<10} {', '.join(str(each) for each in [*asked, length] if each)}"
    if row.get("character"):
        yield from _wrapped("character", str(row["character"]))
    for label, wanted in (("scores", True), ("columns", False)):
        shown = [
            f"{name} {_cut(_value(value), 60)}"
            for name, value in row.items()
            if value is not None and name not in _ELSEWHERE and (name in scores) is wanted
        ]
        if shown:
            yield from _wrapped(label, ", ".join(shown))
    if row.get("passage") is None and row.get("text"):
        yield from _wrapped("text", _cut(" ".join(str(row["text"]).split()), 400))
    if row.get("passage") is not None:
        place = "/".join(str(row[name]) for name in ("source", "passage_id") if row.get(name) is not None)
        where = f"[{place}, {row.get('passage_language')}] "
        yield from _wrapped("passage", where + _cut(" ".join(str(row["passage"]).split()), _PASSAGE))
    attempts = row.get("attempts")
    for attempt in attempts if isinstance(attempts, list) else []:
        verdict = attempt["reason"] or "accepted"
        yield from _wrapped("attempt", f"{attempt['stage']}: {verdict}: {_cut(attempt['reply'] or '(no text)', 300)}")


_ELSEWHERE = {*PAIRS.names, *REJECTED_ROWS.names, *REJECTED_ITEMS.names, "failed", "kept", "cosine_shuffled"}


def _value(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _fact(label: str, text: str) -> Iterator[str]:
    """A line of the summary."""
    return _wrapped(label, text, _LABEL)


def _wrapped(name: str, text: str, label: int = 10) -> Iterator[str]:
    for n, line in enumerate(_wrap(text, width() - label - 1)):
        yield f"{'' if n else name:<{label}} {line}".rstrip()


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` columns, where ideographs take two and may be parted anywhere."""
    if text.isascii() or not any(map(_is_wide, text)):
        return textwrap.wrap(text, width) or [""]
    lines, used = [""], 0
    for piece in _pieces(text):
        columns = sum(2 if _is_wide(char) else 1 for char in piece)
        if used + columns > width and lines[-1]:
            lines[-1] = lines[-1].rstrip()
            lines.append("")
            used = 0
        lines[-1] += piece if lines[-1] else piece.lstrip()
        used += columns
    return lines


def _pieces(text: str) -> Iterator[str]:
    """What stays together: a wide character, or a run of others with the space after it."""
    run = ""
    for char in text:
        if _is_wide(char):
            yield from (run, char) if run else (char,)
            run = ""
            continue
        run += char
        if char.isspace():
            yield run
            run = ""
    if run:
        yield run


def _is_wide(char: str) -> bool:
    return unicodedata.east_asian_width(char) in "WF"


def _list(counts: Mapping[str, int]) -> str:
    return " (" + ", ".join(f"{reason} {count:,}" for reason, count in counts.items()) + ")" if counts else ""


def _shares(shares: Mapping[str, float]) -> str:
    got = {"inside": "in the range asked", "shorter": "shorter", "longer": "longer"}
    return ", ".join(f"{shares[name]:.0%} {words}" for name, words in got.items() if name in shares)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
