"""How people, and how runs, put their queries: lengths, first words, question marks, forms.

`python benchmarks/queries.py FILE|OUT ...`: files with a column `query` or `text`, or folders of runs, whose kept pairs
are read. The tables of docs/prompts.md come from it.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import polars as pl

from synth.languages import count_words, detect

_MARKS = ("?", "？", "؟")
_SHARES = {
    "ends in a question mark": lambda text: text.endswith(_MARKS),
    "begins with a capital": lambda text: text[:1].isupper(),
    "first person": lambda text: re.search(r"\b(I|my|me|we|our|us)\b", text),
    "condition": lambda text: re.search(r"\b(if|unless|whether|without)\b|(?<!^)\bwhen\b", text, re.IGNORECASE),
    "negation": lambda text: re.search(r"\b(not|no|never|without)\b|n't\b", text, re.IGNORECASE),
    "comparison": lambda text: re.search(r"\b(than|versus|vs|difference|differs?|compared?)\b", text, re.IGNORECASE),
    "two sentences": lambda text: re.search(r"[.?!]\s+\w", text),
}


def queries(place: Path) -> list[str]:
    """The queries of a file or of a run's kept pairs, without empty ones."""
    table = pl.read_parquet(place / "kept/*.parquet") if place.is_dir() else _file(place)
    column = "query" if "query" in table.columns else "text"
    return [text.strip() for text in table[column].to_list() if text and text.strip()]


def _file(path: Path) -> pl.DataFrame:
    return pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_ndjson(path)


def facts(texts: list[str]) -> dict[str, str]:
    """What the table says of some queries; the language is that of most of the first hundred."""
    code = Counter(detect(text).code for text in texts[:100]).most_common(1)[0][0]
    lengths = sorted(count_words(text, "en" if code == "und" else code) for text in texts)
    at = [lengths[min(len(lengths) - 1, round(share * len(lengths)))] for share in (0.05, 0.25, 0.5, 0.75, 0.95)]
    first = Counter(text.split()[0].casefold().strip("\u200f") for text in texts)
    shares = {name: f"{sum(bool(told(text)) for text in texts) / len(texts):.0%}" for name, told in _SHARES.items()}
    common = ", ".join(f"{word} {count / len(texts):.0%}" for word, count in first.most_common(3))
    more = {"words: 5, 25, 50, 75, 95 %": " ".join(map(str, at)), "first words": f"{len(first):,}: {common}"}
    return {"queries": f"{len(texts):,}", "language": code, **more, **shares}


def main(places: list[Path]) -> None:
    """Print one column for each place."""
    found = {place.parent.name if place.name.startswith("queries") else place.stem: queries(place) for place in places}
    rows = {name: facts(texts) for name, texts in found.items()}
    print("| |", " | ".join(rows), "|\n|-|" + "-|" * len(rows))
    for label in next(iter(rows.values())):
        print(f"| {label} |", " | ".join(each[label] for each in rows.values()), "|")


if __name__ == "__main__":
    main([Path(each) for each in sys.argv[1:]])
