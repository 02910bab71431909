"""What `bitext_checks` says of people's translations, and of the same with one thing changed by rule.

`python benchmarks/bitext.py FILE [--pairs 1000]`: a Parquet file with columns `language`, `text` and `english`, such as
the Tatoeba pairs that LASER publishes, in the languages of the table. The figures of docs/prompts.md come from it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import chain

import polars as pl
import pyarrow as pa

from synth.languages import code_of
from synth.registry import find
from synth.scores import PairBatch, Scorer
from synth.stage import Services

CHECKS = ("languages_ok", "length_ratio_ok", "numbers_ok", "latin_ok")
WORDS = re.findall(
    r"\w+",
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen twenty thirty forty fifty sixty seventy eighty ninety",
)
NAMES = ("Tom", "Mary", "John", "Boston", "Japan", "France", "London", "German", "French", "English", "Japanese")
IN_WORDS = re.compile(rf"\b({'|'.join(WORDS)})\b", re.IGNORECASE)
NAME = re.compile(rf"\b({'|'.join(NAMES)})\b")
VERB = re.compile(r"\b(is|are|was|were|can|will|should|must|could|would|has|have)\b(?! (?:not|n't))(?!n't)")

Change = Callable[[str, random.Random], str | None]


def digits(text: str, rng: random.Random) -> str | None:
    """Another number in digits: near the old one."""
    found = list(re.finditer(r"\d+", text))
    if not found:
        return None
    match = rng.choice(found)
    old = int(match[0])
    new = max(0, old + rng.choice((-10, -3, -2, -1, 1, 2, 3, 10)))
    return f"{text[: match.start()]}{new if new != old else old + 1}{text[match.end() :]}"


def words(text: str, rng: random.Random) -> str | None:
    """Another number in words."""
    return _other(IN_WORDS, WORDS, text, rng)


def entity(text: str, rng: random.Random) -> str | None:
    """Another name."""
    return _other(NAME, NAMES, text, rng)


def negation(text: str, rng: random.Random) -> str | None:  # noqa: ARG001 - one signature for all
    """A `not` after the first verb that takes one, or the first `not` taken away."""
    if re.search(r"\bnot ", text):
        return re.sub(r"\bnot ", "", text, count=1)
    return VERB.sub(r"\1 not", text, count=1) if VERB.search(text) else None


def _other(pattern: re.Pattern[str], choices: tuple[str, ...] | list[str], text: str, rng: random.Random) -> str | None:
    found = list(pattern.finditer(text))
    if not found:
        return None
    match = rng.choice(found)
    new = rng.choice([each for each in choices if each.lower() != match[0].lower()])
    return f"{text[: match.start()]}{new.capitalize() if match[0][0].isupper() else new}{text[match.end() :]}"


def check(rows: list[dict[str, str]]) -> list[dict[str, object]]:
    """The columns of `bitext_checks` for these pairs."""
    scorer = find("scores", "bitext_checks", Scorer)()
    found: list[dict[str, object]] = asyncio.run(
        scorer.score(PairBatch(pa.Table.from_pylist(rows)), Services())
    ).to_pylist()
    return found


def failed(scores: dict[str, object]) -> list[str]:
    return [name for name in CHECKS if scores[name] is False]


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)  # noqa: S311 - sampling
    table = pl.read_parquet(args.file)
    table = table.filter(pl.col("language").map_elements(lambda name: code_of(name) is not None, pl.Boolean))
    sample = rng.sample(table.rows(named=True), min(args.pairs, len(table)))
    pairs = [
        {
            "passage": row["text"],
            "query": row["english"],
            "passage_language": "zh" if row["language"] == "cmn" else row["language"],
            "query_language": "en",
        }
        for row in sample
    ]
    scores = check(pairs)
    fails = [failed(each) for each in scores]
    print(f"{len(pairs)} pairs in {len({row['language'] for row in sample})} languages: {sum(map(bool, fails))} fail")
    print("  " + ", ".join(f"{name} {count}" for name, count in Counter(chain(*fails)).most_common()))
    print("  undecided: " + ", ".join(f"{name} {sum(each[name] is None for each in scores)}" for name in CHECKS))
    for change in (digits, words, entity, negation):
        changed, kinds = [], defaultdict(list)
        for row in pairs:
            text = change(row["query"], rng)
            if text is not None and text != row["query"]:
                kind = "number" if change in (digits, words) else change.__name__
                changed.append({**row, "wrong": text, "error_type": kind})
                kinds["in digits" if re.search(r"\d", row["passage"]) else "not in digits"].append(len(changed) - 1)
        if not changed:
            continue
        as_wrong = check(changed)
        as_right = check([{**row, "query": row["wrong"], "wrong": None} for row in changed])
        caught = [each["numbers_ok"] is False for each in as_right]
        by = ", ".join(f"{kind} in the text {sum(caught[n] for n in ns)} of {len(ns)}" for kind, ns in kinds.items())
        print(f"{change.__name__} changed: {len(changed)}; caught by numbers_ok {sum(caught)} ({by})")
        print(f"  by any check {sum(map(bool, map(failed, as_right)))}; ", end="")
        print(f"as a wrong translation, wrong_ok {dict(Counter(str(each['wrong_ok']) for each in as_wrong))}")


if __name__ == "__main__":
    main()
