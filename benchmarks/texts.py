"""Passages of about 1,800 characters for the benchmarks, all different and the same on every machine."""

from __future__ import annotations

import json
import random
from pathlib import Path

SUBJECTS = "the lock keeper;a baker from the coast;the harbour office;our repair shop;the river survey;an old orchard"
VERBS = "measures;repairs;describes;replaces;inspects;compares;records;stores;sells;cleans;paints;lifts;weighs;sorts"
OBJECTS = "wooden gates;copper pipes;rye flour;iron hinges;boat engines;clay tiles;honey jars;paper maps;wool blankets"
MANNERS = "before the winter;with great care;at low tide;every second week;without any help;for a small fee;by hand"
REASONS = "the water rises quickly;prices have fallen;nobody else knows how;the law demands it;visitors ask for it"


def passage(number: int, chars: int = 1800) -> str:
    rng = random.Random(number)  # noqa: S311 - draws words
    sentences: list[str] = []
    size = 0
    while size < chars:
        one, what, how, why = (rng.choice(each.split(";")) for each in (SUBJECTS, OBJECTS, MANNERS, REASONS))
        verb, other = rng.choice(VERBS.split(";")), rng.choice(OBJECTS.split(";"))
        sentences.append(f"In {1200 + rng.randrange(800)} {one} {verb} {what} and {other} {how} because {why}.")
        size += len(sentences[-1]) + 1
    return " ".join(sentences)


def corpus(path: Path, count: int, chars: int = 1800) -> None:
    with path.open("w", encoding="utf-8") as lines:
        for number in range(count):
            lines.write(json.dumps({"id": f"p{number}", "text": passage(number, chars)}) + "\n")
