from __future__ import annotations

import re
from itertools import pairwise

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from synth.sources.passages import between_characters, chunk, sentences, truncate

FAMILY = "\U0001f469\u200d\U0001f469\u200d\U0001f467"
SCOTLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
PIECES = st.sampled_from(
    [
        "word ",
        "Satz. ",
        "eins\n\n",
        "two\r\n",
        "汉字",
        "句子。",
        "é",
        "e\u0301",
        "ก็",
        "한",
        "\u1112\u1161\u11ab",
        "क्षि",
        FAMILY,
        SCOTLAND,
        "\U0001f1e9\U0001f1ea",
        "\U0001f44d\U0001f3fd",
        "؟ ",
        "3.14 ",
        "\u3000",
        "x" * 9,
        "!”",
        "e.g. ",
    ]
)
TEXTS = st.lists(PIECES, max_size=200).map("".join)


def squeezed(text):
    return re.sub(r"\s+", "", text)


@given(TEXTS, st.integers(16, 80))
def test_chunks_lose_nothing_but_white_space_and_respect_the_limit(text, limit):
    chunks = chunk(text, limit)
    assert squeezed("".join(chunks)) == squeezed(text)
    assert all(len(piece) <= limit for piece in chunks)
    assert (chunks == [text]) == (len(text) <= limit) or len(chunks) <= 1


@given(TEXTS, st.integers(32, 80))
def test_no_chunk_is_a_tiny_tail(text, limit):
    raw = chunk(squeezed(text), limit)
    if len(raw) > 1:
        assert min(len(piece) for piece in raw) >= limit // 8


@given(TEXTS, st.integers(40, 80))
def test_grapheme_clusters_stay_whole(text, limit):
    clusters = regex.findall(r"\X", text)
    starts, position = {len(text)}, 0
    for cluster in clusters:
        starts.add(position)
        position += len(cluster)
    position = 0
    for piece in chunk(text, limit):
        position = text.index(piece, position)
        assert position in starts
        position += len(piece)
        assert position in starts


@given(TEXTS)
def test_every_allowed_cut_is_a_cluster_boundary(text):
    starts = {match.start() for match in regex.finditer(r"\X", text)} | {len(text)}
    assert {place for place in range(len(text) + 1) if between_characters(text, place)} - {0} <= starts


def test_a_paragraph_end_beats_a_nearer_sentence_end():
    text = "One two three. Four five.\n\nSix seven eight nine ten. Eleven twelve thirteen."
    assert chunk(text, 55) == ["One two three. Four five.", "Six seven eight nine ten. Eleven twelve thirteen."]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Dr. Smith pays 3.50 e.g. on No. 5 here.", "Then he goes home to see his dog."),
        ("第一句话在这里结束了。", "第二句话从这里开始吧。"),
        ("यह पहला वाक्य है जो यहाँ समाप्त होता है।", "यह दूसरा वाक्य है जो यहाँ आरंभ होता है।"),
        ("هل هذا سؤال قصير عن الطقس اليوم؟", "نعم هذا سؤال قصير عن الطقس."),
        ("Er sagte: „Wir gehen jetzt nach Hause.”", "Dann gingen sie alle drei los."),
        ("これは「最初の文です。」", "そして次の文が続きます。"),
        ("これは最初の文です！！", "そして次の文が続きます。"),
    ],
)
def test_sentences_of_many_scripts_stay_whole(first, second):
    text = f"{first} {second}"
    assert chunk(text, max(len(first), len(second)) + 6) == [first, second]


def test_text_without_any_boundary_is_cut_evenly():
    assert [len(piece) for piece in chunk("x" * 1001, 500)] == [333, 334, 334]


def test_a_cluster_longer_than_a_chunk_is_cut_hard():
    assert [len(piece) for piece in chunk("e" + "\u0301" * 99, 20)] == [20] * 5


def test_ends_of_the_text_keep_their_white_space():
    chunks = chunk("  a b c d e f g h i j k l m n o p\n", 20)
    assert chunks[0].startswith("  a")
    assert chunks[-1].endswith("p\n")


def test_truncation_prefers_the_end_of_a_sentence():
    assert truncate("A first sentence. And a second one", 25) == "A first sentence."
    assert truncate("short", 25) == "short"
    assert truncate("a" * 30 + FAMILY, 31) == "a" * 30


@given(TEXTS, st.integers(16, 60))
def test_truncation_is_a_prefix_within_the_limit(text, limit):
    got = truncate(text, limit)
    assert text.startswith(got)
    assert len(got) <= limit


@pytest.mark.slow
def test_pieces_cover_ten_megabytes_quickly():
    text = "The quick brown fox jumps over the lazy dog. " * 200_000
    chunks = chunk(text, 8000)
    assert {len(piece) <= 8000 for piece in chunks} == {True}
    assert min(map(len, chunks)) > 4000
    assert all(a.endswith("dog.") for a, _ in pairwise(chunks))


def test_an_ordinal_does_not_end_a_sentence():
    text = "Die Hanse entstand im 12. Jahrhundert. Sie wuchs bis 1500. Dann (um den 15. Mai) sank sie."
    assert sentences(text) == [
        "Die Hanse entstand im 12. Jahrhundert.",
        "Sie wuchs bis 1500.",
        "Dann (um den 15. Mai) sank sie.",
    ]
