"""Scores beside the judgements of people: the rank correlation of the cosine with graded similarity."""

import json
from pathlib import Path

import polars as pl
import pytest

from synth.cli import main

ROOT = Path(__file__).parents[2]
JSTS = ROOT.parent / "shared" / "data" / "sts" / "jsts.parquet"


def agreement(place, rows, capsys):
    """Spearman of MiniLM's cosine with the grades, as `synth sweep` prints it."""
    path = place / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    embed = "embed={use: sentence_transformers, model: all-MiniLM-L6-v2}"
    names = ["-s", "data.query=a", "-s", "data.passage=b", "-s", "data.label=null"]
    given = ["filter", str(path), "-o", str(place / "out"), *names, "-s", embed, "-s", "scores=[{use: cosine}]"]
    assert main([*given, "-s", "keep={}", "--json"]) == 0
    capsys.readouterr()
    assert main(["sweep", str(place / "out"), "--score", "cosine", "--label-column", "grade", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["spearman"]["cosine"]
    print(f"Spearman of the cosine with {len(rows)} grades: {found:.3f}")  # noqa: T201 - what the test is for
    return found


GRADED = [
    (5.0, "A man is playing a guitar on the street.", "On the street a man plays his guitar."),
    (5.0, "The shop closes at six.", "The store shuts at six o'clock."),
    (4.5, "Two dogs run along the beach.", "A pair of dogs is running on the beach."),
    (4.0, "The council approved the new bridge on Tuesday.", "The new bridge got the council's approval."),
    (4.0, "She slices an onion for the soup.", "She is cutting onions in the kitchen for a soup."),
    (3.0, "The train to Lyon leaves at nine.", "Trains to Lyon leave every hour."),
    (3.0, "Heavy rain flooded the cellar of the school.", "The school had to be dried out after the storm."),
    (2.0, "The bakery sells rye bread on Fridays.", "The bakery is looking for a new apprentice."),
    (2.0, "The surgeon operated on the patient's knee.", "The patient hurt her knee when skiing."),
    (1.0, "The museum lends its paintings abroad.", "An exhibition of photographs opens in May."),
    (1.0, "Bees collect nectar from the lime trees.", "Farmers mow the meadow twice a year."),
    (0.0, "The printer is out of paper.", "Salmon swim up the river in autumn."),
    (0.0, "A child draws a house with chalk.", "The share price fell by three percent."),
]
"""Of our own, graded by hand: 0 nothing in common, 5 the same meaning."""


def test_the_cosine_agrees_with_grades_given_by_hand(tmp_path, capsys):
    rows = [{"a": a, "b": b, "grade": grade} for grade, a, b in GRADED]
    assert agreement(tmp_path, rows, capsys) > 0.8


@pytest.mark.slow
@pytest.mark.skipif(not JSTS.is_file(), reason="the JSTS data is not beside this checkout")
def test_the_cosine_agrees_with_people_on_jsts(tmp_path, capsys):
    data = pl.read_parquet(JSTS)
    rows = [{"a": a, "b": b, "grade": g} for a, b, g in data.select("sentence1", "sentence2", "score").iter_rows()]
    assert agreement(tmp_path, rows, capsys) > 0.5
