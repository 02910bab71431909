"""What the checks of a translation say. All sentences were written for these tests."""

import asyncio

import pyarrow as pa
import pytest

from synth.registry import find
from synth.scores import PairBatch, Scorer
from synth.stage import Services

TEXT = "The ferry to the island takes 40 minutes and carries up to 120 cars."
RIGHT = "Die Fähre zur Insel braucht 40 Minuten und befördert bis zu 120 Autos."


def checked(passage=TEXT, query=RIGHT, source="en", target="de", **columns):
    row = {"passage": passage, "query": query, "passage_language": source, "query_language": target, **columns}
    scorer = find("scores", "bitext_checks", Scorer)()
    batch = PairBatch(pa.table({name: pa.array([value], pa.string()) for name, value in row.items()}))
    (found,) = asyncio.run(scorer.score(batch, Services())).to_pylist()
    return found


def test_a_good_translation_passes_all_checks():
    found = checked()
    assert 0.8 < found.pop("length_ratio") < 1.2
    assert found == {
        "languages_ok": True,
        "length_ratio_ok": True,
        "numbers_ok": True,
        "latin_ok": True,
        "wrong_ok": None,
    }


@pytest.mark.parametrize(
    ("column", "query"),
    [
        ("languages_ok", "Le bac pour l'île met 40 minutes et transporte jusqu'à 120 voitures."),
        ("length_ratio_ok", "Die Fähre braucht 40 Minuten, 120."),
        ("numbers_ok", RIGHT.replace("40", "14")),
    ],
)
def test_each_check_finds_its_mistake(column, query):
    assert checked(query=query)[column] is False


@pytest.mark.parametrize(
    ("ok", "passage", "source", "query", "target"),
    [
        (
            True,
            "昨天我买了iPhone和一本关于Linux的书。",
            "zh-Hans",
            "Yesterday I bought an iPhone and a book on Linux.",
            "en",
        ),
        (False, "昨天我买了iPhone和一本关于Linux的书。", "zh-Hans", "Yesterday I bought a phone and a book.", "en"),
        (False, "Write to help@example.org about COVID-19.", "en", "Schreiben Sie uns zu COVID.", "de"),
        (True, "Write to help@example.org about COVID-19.", "en", "Schreiben Sie help@example.org zu COVID-19.", "de"),
        (True, "NATO and the EU met in Warsaw.", "en", "L'OTAN et l'UE se sont réunies à Varsovie.", "fr"),
        (True, "В XX веке дорога была 5 km длиной.", "ru", "In the 20th century the road was 5 kilometres long.", "en"),
    ],
)
def test_what_no_translation_changes_must_be_in_it(ok, passage, source, query, target):
    assert checked(passage, query, source, target)["latin_ok"] is ok


@pytest.mark.parametrize(
    ("ok", "kind", "wrong"),
    [
        (True, "number", RIGHT.replace("40", "50")),
        (False, "number", RIGHT.replace("Autos", "Busse")),
        (False, "term", RIGHT.replace("40", "50")),
        (True, "term", RIGHT.replace("Autos", "Busse")),
        (True, "entity", RIGHT.replace("Insel", "Stadt")),
        (False, "entity", RIGHT.replace("befördert", "trägt")),
        (True, "negation", RIGHT.replace("befördert", "befördert nicht")),
        (True, "omission", "Die Fähre zur Insel braucht 40 Minuten."),
        (False, "omission", RIGHT.replace("Autos", "Autos am Tag")),
        (True, "addition", RIGHT.replace("Autos", "Autos am Tag")),
        (False, "addition", "Die Fähre zur Insel braucht 40 Minuten."),
        (False, "term", RIGHT),
        (False, "term", "Wer seine Wohnung verlässt, schließt besser die Fenster und Türen."),
        (False, "omission", "The ferry to the island takes 40 minutes and carries cars."),
    ],
)
def test_a_wrong_translation_is_wrong_in_the_way_asked(ok, kind, wrong):
    found = checked(wrong=wrong, error_type=kind)
    assert (found["wrong_ok"] is not False and found["languages_ok"] is not False) is ok


def test_pairs_without_languages_are_checked_by_those_detected():
    found = checked(source=None, target=None)
    assert (found["languages_ok"], found["numbers_ok"]) == (True, True)
    unknown = checked("x = y(1)", "z", source="und", target="und")
    assert (unknown["languages_ok"], unknown["numbers_ok"], unknown["length_ratio"]) == (None, None, None)
