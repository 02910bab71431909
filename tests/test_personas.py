"""The shipped library is what it promises, the search is exact, and vectors are encoded once per library and model."""

import asyncio
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synth.embed.sentence_transformers import SentenceTransformersEmbedder
from synth.errors import InputError, RequestRejected, SystemFault
from synth.personas import Library, Personas, cache_folder, encode_library, load_library, nearest
from synth.shipped import shipped
from synth.stage import ClientSettings, Encoded

GENERAL = shipped("personas", "general.jsonl")


class Counting:
    """An encoder of two numbers per text that counts what it is given."""

    def __init__(self):
        self.texts = []

    async def encode(self, texts, role):
        assert role == "document"
        self.texts += texts
        angles = np.array([len(text) for text in texts], np.float32)
        return Encoded(np.stack([np.cos(angles), np.sin(angles)], axis=1), np.zeros(len(texts), bool))

    async def close(self):
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder()


@pytest.fixture
def library(tmp_path):
    path = tmp_path / "people.txt"
    path.write_text("a baker\na nurse on night shift\n\na baker\na diver\n", encoding="utf-8")
    return load_library(path)


def rows(seed, count, width=8, distinct=None):
    vectors = np.random.default_rng(seed).normal(size=(distinct or count, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors[np.arange(count) % len(vectors)]


def brute_force(passages, personas, count):
    return [sorted(range(len(personas)), key=lambda n, row=row: (-row[n], n))[:count] for row in passages @ personas.T]


@pytest.mark.parametrize("home", ["/dev/null", "~nobody-of-this-name"])
def test_without_a_home_nothing_is_remembered(library, monkeypatch, tmp_path, home):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", home)
    for _ in range(2):
        encoder = Counting()
        assert len(asyncio.run(encode_library(library, encoder, "m"))) == 3
        assert len(encoder.texts) == 3
    assert not list(tmp_path.glob("~*"))


def test_the_shipped_library_is_large_short_and_balanced():
    people = [json.loads(line) for line in GENERAL.read_text(encoding="utf-8").splitlines()]
    for column in ("persona", "about"):
        assert len({each[column] for each in people}) == len(people) >= 2500
    assert max(len(each["persona"].split()) for each in people) <= 26
    assert max(len(each["about"].split()) for each in people) <= 22
    fields = Counter(each["field"] for each in people)
    assert len(fields) >= 250
    assert max(fields.values()) <= 2 * min(fields.values())


@pytest.mark.slow
def test_no_two_shipped_personas_say_the_same():
    sentences = load_library(GENERAL).sentences

    async def encode():
        encoder = SentenceTransformersEmbedder().open(ClientSettings(), "")
        return (await encoder.encode(sentences, "document")).vectors

    vectors = asyncio.run(encode())
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, 0)
    print(  # noqa: T201 - the figure is worth seeing
        f"\n{len(sentences)} personas, nearest two {cosines.max():.3f}"
    )
    assert cosines.max() < 0.92


@pytest.mark.parametrize("block", [1, 400, 64_000_000])
def test_the_search_is_exact_in_blocks_of_any_size(monkeypatch, block):
    monkeypatch.setattr("synth.personas.BLOCK_BYTES", block)
    passages, personas = rows(1, 37), rows(2, 101)
    indices, cosines = nearest(passages, personas, 7)
    assert indices.tolist() == brute_force(passages, personas, 7)
    np.testing.assert_allclose(cosines, np.take_along_axis(passages @ personas.T, indices, 1), rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 20])
def test_of_equal_personas_the_first_ones_are_taken(count):
    passages = np.eye(4, dtype=np.float32)[:3]
    personas = np.eye(4, dtype=np.float32)[np.array([3, 0, 1, 0, 2, 0, 1, 0, 0, 2, 1, 0])]
    indices, _ = nearest(passages, personas, count)
    assert indices.tolist() == brute_force(passages, personas, count)


def test_fewer_personas_than_asked_for_are_all_given():
    indices, cosines = nearest(rows(1, 3), rows(2, 2), 5)
    assert indices.shape == cosines.shape == (3, 2)
    assert np.all(np.diff(cosines, axis=1) <= 0)


def test_vectors_of_another_width_are_refused():
    with pytest.raises(SystemFault, match="8 wide, passage vectors 4"):
        nearest(rows(1, 2, width=4), rows(2, 3), 1)


def test_a_library_is_encoded_once(cache, library):
    encoder = Counting()
    first = asyncio.run(encode_library(library, encoder, "model-a"))
    assert encoder.texts == ["a baker", "a nurse on night shift", "a diver"]
    again = asyncio.run(encode_library(library, encoder, "model-a"))
    assert len(encoder.texts) == 3
    assert np.array_equal(first, again)
    asyncio.run(encode_library(library, encoder, "model-b"))
    assert len(encoder.texts) == 6
    assert len(list(cache.iterdir())) == 2, "nothing but the two finished files"


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw[:-24] + bytes(24),
        lambda raw: b"\x80\x04." + raw,
    ],
)
def test_a_damaged_cache_is_made_anew(cache, library, damage):
    first = np.array(asyncio.run(encode_library(library, Counting(), "m")))
    (path,) = cache.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    encoder = Counting()
    assert np.array_equal(asyncio.run(encode_library(library, encoder, "m")), first)
    assert len(encoder.texts) == 3
    assert np.array_equal(np.load(path), first)


@pytest.mark.parametrize("bad", [[0.0, 0.0], [np.nan, 1.0], [np.inf, 0.0]])
def test_a_persona_without_a_vector_is_named(cache, library, bad):
    class Broken(Counting):
        async def encode(self, texts, role):
            found = await super().encode(texts, role)
            found.vectors[[n for n, text in enumerate(texts) if "diver" in text]] = bad
            return found

    with pytest.raises(InputError, match=r"people\.txt: .* 1 of 3 personas: 'a diver' \(embedding: "):
        asyncio.run(encode_library(library, Broken(), "m"))
    assert not list(cache.glob("*")), "a library without all of its vectors is not remembered"


def test_a_persona_that_the_embedder_refuses_is_named(library):
    class Refusing(Counting):
        async def encode(self, texts, role):
            if any("night" in text for text in texts):
                raise RequestRejected("too_long", "at most 3 words")
            return await super().encode(texts, role)

    with pytest.raises(InputError, match=r"'a nurse on night shift' \(too_long: at most 3 words\)"):
        asyncio.run(encode_library(library, Refusing(), "m"))


def test_a_cache_that_cannot_be_written_is_none(tmp_path, monkeypatch, library):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert asyncio.run(encode_library(library, Counting(), "m")).shape == (3, 2)


def test_libraries_come_as_text_jsonl_and_parquet(tmp_path):
    people = ["a baker", "a diver\u2028who writes", "a {{ 7*7 }} fan"]
    (tmp_path / "a.txt").write_text("\ufeffa baker\r\na diver\u2028who writes\n\na {{ 7*7 }} fan\na baker\n", "utf-8")
    lines = [json.dumps({"id": n, "who": text}, ensure_ascii=False) for n, text in enumerate(people)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), "utf-8")
    pq.write_table(pa.table({"who": [*people, None]}), tmp_path / "a.parquet")
    assert list(load_library(tmp_path / "a.txt").sentences) == people
    assert list(load_library(tmp_path / "a.jsonl", "who").sentences) == people
    assert list(load_library(tmp_path / "a.parquet", "who").sentences) == people


@pytest.mark.parametrize(
    ("name", "content", "wrong"),
    [
        ("p.txt", b"", "holds no personas"),
        ("p.txt", b"\n \n", "holds no personas"),
        ("p.txt", b"caf\xe9\n", "byte 3 is not UTF-8"),
        ("p.jsonl", b'{"text": "a"}\n', "row 1: field persona: not there (the row has: text)"),
        ("p.jsonl", b'{"persona": "a"}\n{"persona": 3}\n', "row 2: field persona: expects text, not int"),
        ("p.jsonl", b'{"persona": "\\ud800"}\n', "row 1: field persona: holds half of a surrogate pair"),
        ("p.jsonl", b'{"persona": "a"}\n{"pers', "row 2: not valid JSON"),
        ("p.jsonl", b"[1]\n", "row 1: field persona: not there (the row has: list)"),
        ("p.parquet", b"PAR1", "not a readable Parquet file"),
    ],
)
def test_a_library_that_cannot_be_used_says_why(tmp_path, name, content, wrong):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_library(path)
    assert caught.value.exit_code == 3
    assert f"{path}: " in str(caught.value)
    assert wrong in str(caught.value)


def test_a_library_without_its_column_says_what_there_is(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "p.parquet")
    with pytest.raises(InputError, match=r"field persona: not there \(the file has: text\)"):
        load_library(tmp_path / "p.parquet")


def test_what_a_persona_is_about_is_embedded_and_its_sentence_offered(tmp_path):
    path = tmp_path / "people.jsonl"
    rows = [{"persona": "A farrier.", "about": "horse shoes"}, {"persona": "A cook."}]
    path.write_text("\n".join(map(json.dumps, rows)))
    library = load_library(path)
    assert library.sentences == ("A farrier.", "A cook.")
    assert library.about == ("horse shoes", "A cook.")


def offers(passages, people, **limits):
    library = Library("people", tuple(map(str, range(len(people)))), (), "0")
    found = Personas(library, unit(people), None).offer(unit(passages), 2, **{"least": -1.0, "most": 9} | limits)
    return [[number for number, _ in each] for each in found]


def unit(rows):
    rows = np.array(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_persona_that_is_too_far_is_not_offered():
    assert offers([[1, 0], [0, 1]], [[1, 0.1], [-1, 0.5]], least=0.3) == [[0], [1]]
    assert offers([[0, -1]], [[1, 0.1], [-1, 0.5]], least=0.3) == [[]]


def test_a_favourite_goes_to_the_nearest_passages_and_the_others_get_their_next():
    passages, people = [[1, 0.3], [1, 0], [1, 0.2]], [[1, 0], [1, 1], [1, -1]]
    assert [each[0] for each in offers(passages, people)] == [0, 0, 0]
    assert [each[0] for each in offers(passages, people, most=2)] == [1, 0, 0]
    assert all(len(each) <= 2 for each in offers(passages, people, most=1))


def test_a_passage_for_which_none_is_free_keeps_its_nearest():
    assert offers([[1, 0], [1, 0.1], [1, 0.2]], [[1, 0]], most=1) == [[0], [0], [0]]
