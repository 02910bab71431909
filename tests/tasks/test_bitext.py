"""The bitext task: what is drawn and asked, what a row says, what becomes of replies, and the files for trainers."""

import json

import pytest
from exporting import export_of
from loopback import Loopback, say
from running import job_dict, rows, write_job

from synth.cli import main
from synth.tasks.bitext import Bitext

TEXTS = {
    "The ferry to the island takes 40 minutes and carries up to 120 cars.": (
        "Die Fähre zur Insel braucht 40 Minuten und befördert bis zu 120 Autos.",
        "Die Fähre zur Insel braucht 50 Minuten und befördert bis zu 120 Autos.",
    ),
    "A tenant who gives no notice loses the deposit of the flat.": (
        "Ein Mieter, der nicht kündigt, verliert die Kaution der Wohnung.",
        "Ein Mieter, der nicht kündigt, verliert die Möbel der Wohnung.",
    ),
    "Swifts come back to the same nest under the roof every year.": (
        "Mauersegler kommen jedes Jahr zum selben Nest unter dem Dach zurück.",
        "Mauersegler kommen niemals zum selben Nest unter dem Dach zurück.",
    ),
}
"""Sentences with a right translation and a wrong one."""


def translated(body):
    """What a model says that knows German by heart; asked for a wrong translation it gives the one that it knows."""
    schema = body["response_format"]["json_schema"]["schema"]["properties"]
    prompt = body["messages"][-1]["content"]
    right, wrong = next((pair for text, pair in TEXTS.items() if text in prompt), ("gut", "schlecht"))
    known = {"Translation": right, "Wrong": wrong, "Change": "one thing → another"}
    return {name: known.get(name) or part.get("enum", ["x"])[0] for name, part in schema.items()}


def translate(body):
    return say(json.dumps(translated(body)))


def write_passages(place, *rows, times=1):
    texts = list(TEXTS) * times
    rows = rows or [{"id": f"d{n}", "text": f"{text} Number {n}.", "language": "en"} for n, text in enumerate(texts)]
    (place / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def job_of(place, url, **task):
    job = job_dict(url, place, personas=None) | {
        "corpus": {"path": str(place / "docs.jsonl"), "language": "language"},
        "task": {"use": "bitext", "languages": {"de": 1}, "units": {"sentence": 1}, **task},
        "run": {"shard_size": 4},
    }
    del job["scores"], job["keep"]
    return write_job(place, job)


def run_of(place, answer=translate, passages=(), times=1, **task):
    """The folder of a run, and the bodies of its chat requests."""
    write_passages(place, *passages, times=times)
    with Loopback() as server:
        server.chat = answer
        assert main(["run", str(job_of(place, server.url, **task)), "-o", str(place / "out"), "--json"]) == 0
        asked = [each.body for each in server.posts if "messages" in each.body]
    return place / "out", [body for body in asked if "<text>" in body["messages"][-1]["content"]]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return run_of(tmp_path_factory.mktemp("bitext"), times=6, wrong=0.6)[0]


def test_a_row_has_a_sentence_its_translation_and_for_some_a_wrong_one(out):
    found = rows(out, "generated")
    assert len(found) == 18
    assert {row["passage"] for row in found} == set(TEXTS)
    assert {row["error_type"] is None for row in found} == {True, False}
    for row in found:
        right, wrong = TEXTS[row["passage"]]
        assert (row["task"], row["query"], row["query_language"], row["unit"]) == ("bitext", right, "de", "sentence")
        assert row["wrong"] == (wrong if row["error_type"] else None)
        assert row["error_type"] != "number" or "40" in row["passage"]


def test_checks_tell_which_wrong_translations_are_wrong_as_asked(out):
    (folder,) = out.glob("scores/bitext_checks-*")
    scored = rows(out, f"scores/{folder.name}")
    for row, score in zip(rows(out, "generated"), scored, strict=True):
        assert score["languages_ok"] is not False
        assert (score["length_ratio_ok"], score["numbers_ok"], score["latin_ok"]) == (True, True, True)
        longer = len("".join((row["wrong"] or "").split())) - len("".join(row["query"].split()))
        as_asked = {None: None, "number": True, "omission": longer < 0, "addition": longer > 0}
        if row["error_type"] in as_asked:
            assert score["wrong_ok"] is as_asked[row["error_type"]]
    assert {row["reason"] for row in rows(out, "rejected/kept")} == {"wrong_ok is true"}


def test_verify_show_and_the_summary_know_the_task(out, capsys):
    assert main(["verify", str(out), "--deep"]) == 0
    assert main(["show", str(out), "-n", "1"]) == 0
    assert "rendering " in capsys.readouterr().out
    assert main(["run", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["mixes"]["query_language"] == {"de": 18}
    assert "translation" in (out / "README.md").read_text(encoding="utf-8")


def test_trainers_get_the_wrong_translation_as_a_negative_and_mteb_the_pairs(out, tmp_path):
    kept = rows(out, "kept")
    table = export_of(out, "sentence-transformers", tmp_path / "triplets", "form=triplets")
    assert table.column_names == ["anchor", "positive", "negative_1"]
    wanted = [(row["passage"], row["query"], row["wrong"]) for row in kept if row["wrong"]]
    assert [tuple(row.values()) for row in table.to_pylist()] == wanted
    pairs = export_of(out, "mteb", tmp_path / "mteb")
    assert pairs.column_names == ["sentence1", "sentence2"]
    assert set(zip(*pairs.to_pydict().values(), strict=True)) == {(row["passage"], row["query"]) for row in kept}
    assert "AbsTaskBitextMining" in (tmp_path / "mteb" / "TRAIN.md").read_text(encoding="utf-8")


def test_stage_one_may_take_the_other_error_where_the_text_has_nothing_for_the_first(tmp_path):
    def answer(body):
        schema = body["response_format"]["json_schema"]["schema"]["properties"]
        if "Error_Type" in schema:
            return say(json.dumps({"Error_Type": schema["Error_Type"]["enum"][1], "Change": "flat → house"}))
        return translate(body)

    out, asked = run_of(tmp_path, answer, wrong=1, errors={"entity": 1, "omission": 1, "term": 0.001})
    offered = [body for body in asked if "Stage one." in body["messages"][-1]["content"]]
    assert all(": term)" in body["messages"][-1]["content"] for body in offered)
    second = [body["messages"][-1]["content"] for body in asked if "Stage two." in body["messages"][-1]["content"]]
    assert all("Error: term, flat → house" in prompt for prompt in second)
    assert {row["error_type"] for row in rows(out, "generated")} == {"term"}


def test_the_right_translation_once_more_is_asked_again_and_then_left_out(tmp_path):
    def answer(body):
        reply = translated(body)
        return say(json.dumps(reply | ({"Wrong": reply["Translation"]} if "Wrong" in reply else {})))

    out, _ = run_of(tmp_path, answer, wrong=1)
    found = rows(out, "generated")
    assert [(row["wrong"], row["error_type"], row["attempts"]) for row in found] == [(None, None, 4)] * 3


def test_the_text_untranslated_is_asked_again(tmp_path):
    def answer(body):
        text = next((text for text in TEXTS if text in body["messages"][-1]["content"]), "x")
        return say(json.dumps({"Translation": text})) if body["seed"] % 2 else translate(body)

    out, asked = run_of(tmp_path, answer, wrong=0, attempts=12)
    assert len(asked) > 3
    assert {row["query"] for row in rows(out, "generated")} == {right for right, _ in TEXTS.values()}


def test_the_language_follows_that_of_the_passage(tmp_path):
    german = "Die Fähre zur Insel fährt jeden Morgen um neun Uhr aus dem Hafen."
    passages = [
        {"id": "en", "text": next(iter(TEXTS)), "language": "en"},
        {"id": "de", "text": german, "language": "de"},
        {"id": "fr", "text": "Le bac pour l'île part du port chaque matin à neuf heures.", "language": "fr"},
        {"id": "code", "text": "x = [y for y in range(10)] # 1234567890", "language": "und"},
    ]
    rule = {"en": {"de": 1, "en": 5}, "de": {"en": 1}}
    out, _ = run_of(tmp_path, passages=passages, wrong=0, languages=rule)
    made = {row["passage_id"]: row["query_language"] for row in rows(out, "generated")}
    assert made == {"en": "de", "de": "en"}
    assert {row["reason"] for row in rows(out, "rejected/generated")} == {"no_language"}


def test_slots_of_a_whole_passage_get_different_languages(tmp_path):
    def answer(body):
        return say(json.dumps(dict.fromkeys(translated(body), body["messages"][-1]["content"][-30:])))

    languages = {"de": 9, "fr": 1, "ja": 1, "en": 9}
    out, _ = run_of(tmp_path, answer, wrong=0, units={"passage": 1}, languages=languages, queries_per_passage=3)
    assert sorted(row["query_language"] for row in rows(out, "generated")) == sorted(["de", "fr", "ja"] * 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"errors": {"typo": 1}}, "error 'typo' is not one of number, entity"),
        ({"renderings": {"loose": 1}}, "rendering 'loose' is not one of close, free"),
        ({"units": {"line": 1}}, "unit 'line' is not one of sentence"),
        ({"languages": {"same": 1}}, "`same` cannot be translated into"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        Bitext.model_validate(options)
