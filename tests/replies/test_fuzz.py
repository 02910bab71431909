"""T10: replies that a machine made up: nothing but our own errors comes of them, and no row that breaks the schema.

2,000 replies with every change, 200,000 with SYNTH_FUZZ=200000 (`python -m tests.faults --full`).
"""

from __future__ import annotations

import json
import os
import random

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synth.errors import UnusableReply
from synth.replies import REASONS, echo_keys, read_config, read_query
from synth.stage import ChatReply, ConfigInputs, QueryInputs
from synth.tables import PAIRS, PASSAGES, pair_table
from synth.types import Candidates, Pair, Passage, QueryConfig, Requirement, Usage

pytestmark = pytest.mark.faults

EXAMPLES = int(os.environ.get("SYNTH_FUZZ", "2000"))
PEOPLE = ("a nurse on the night ward", "a baker", "ein Müller")
TYPES = ("keywords", "yes_or_no")
LEVELS = ("high_school", "phd")
PASSAGE = Passage(0, "p0", "The ward sister lights the lamp at nine.", "en", "test")
CANDIDATES = Candidates(PASSAGE, PEOPLE, (0.9, 0.8, 0.7))
CONFIG = ConfigInputs(CANDIDATES, TYPES, LEVELS, ())
ASKED = QueryInputs(
    CANDIDATES, QueryConfig(PEOPLE[0], TYPES[0], LEVELS[0]), Requirement("en", 3, 7, "words"), ("known",)
)
SOURCE = pa.Table.from_pylist([{"position": 0, "id": "p0", "text": PASSAGE.text, "language": "en"}], schema=PASSAGES)
ECHOES = echo_keys(["what is an echo"])
PIECES = [
    '{"Query": "',
    '"}',
    "```json\n",
    "```",
    "<think>",
    "</think>",
    "\\u0000",
    "\\ud800",
    "NaN",
    "'",
    "\x1b[2J",
    "]",
]
PIECES += [
    "{",
    "[",
    ",",
    ":",
    "True",
    "None",
    "1e999",
    "-",
    "\\",
    "<query>",
    "\u202e",
    "I'm sorry, but I can't",
    " " * 50,
]

texts = st.text(st.characters(codec=None), max_size=60)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from([*PEOPLE, *TYPES, *LEVELS]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
keys = st.sampled_from(["Query", "query", "QUERY ", "Character", "Question_Type", "Difficulty", "查询"]) | texts
objects = st.dictionaries(keys, values, max_size=5)
finishes = st.sampled_from(["stop", "stop", "stop", "length", "content_filter", ""])


@st.composite
def replies(draw):
    """A reply that is JSON of some kind, cut, doubled, wrapped and peppered with what breaks parsers."""
    dumped = json.dumps(draw(objects | values), ensure_ascii=draw(st.booleans()))
    rng = random.Random(draw(st.integers(0, 2**32)))  # noqa: S311 - where to damage it
    for _ in range(draw(st.integers(0, 4))):
        place = rng.randrange(len(dumped) + 1)
        match rng.randrange(5):
            case 0:
                dumped = dumped[:place] + rng.choice(PIECES) + dumped[place:]
            case 1:
                dumped = dumped[:place] + dumped[place + rng.randrange(1, 5) :]
            case 2:
                dumped = dumped[:place]
            case 3:
                dumped += rng.choice(["", "\n", " and "]) + dumped
            case _:
                dumped = rng.choice(PIECES) + dumped + rng.choice(PIECES)
    return ChatReply(draw(st.just(dumped) | st.none() | texts), draw(finishes), "m")


def of_ours(read):
    """The value, or None where the reply is unusable for a reason that we list."""
    try:
        return read()
    except UnusableReply as exc:
        why = exc
    assert why.reason in REASONS
    assert why.detail.encode(), "a file must be able to hold it"
    return None


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=EXAMPLES == 2000,
    suppress_health_check=list(HealthCheck),
)
@given(replies(), st.booleans())
def test_whatever_a_model_says_is_a_row_of_the_schema_or_a_listed_reason(reply, repair):
    config = of_ours(lambda: read_config(reply, CONFIG, repair=repair))
    if config is not None:
        chosen, repaired = config
        assert chosen.character in PEOPLE
        assert chosen.question_type in TYPES
        assert chosen.difficulty in LEVELS
        assert repair or not repaired
    query = of_ours(lambda: read_query(reply, ASKED, repair=repair, echoes=ECHOES))
    if query is not None:
        check(*query, repair=repair)


def check(query, repaired, *, repair):
    """An accepted query can be stored, shown and searched for."""
    assert query == query.strip() != ""
    assert any(map(str.isalnum, query))
    assert not any(ord(each) < 32 or 0x7F <= ord(each) < 0xA0 or 0xD800 <= ord(each) < 0xE000 for each in query)
    assert query.casefold() not in {"what is an echo", "known"}
    assert repair or not repaired
    pair = Pair(PASSAGE, 0, ASKED.config, ASKED.requirement, query, "m", 1, Usage(0, 0), "retrieval", "en")
    table = pair_table([pair], "t", 1, SOURCE)
    assert table.schema.names[: len(PAIRS.names)] == PAIRS.names
    assert table["query"].to_pylist() == [query]
