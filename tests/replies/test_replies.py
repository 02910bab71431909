"""Replies: every shape of section "model replies", the recorded rows, the fuzz, and the speed of the plain case."""

import json
import random
import re
import time
import timeit
import unicodedata
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.errors import UnusableReply
from synth.replies import REASONS, RETRYABLE, echo_keys, read_config, read_query
from synth.stage import ChatReply, ConfigInputs, QueryInputs
from synth.types import Candidates, Passage, QueryConfig, Requirement

RECORDED = Path(__file__).parents[2].parent / "shared" / "data" / "recorded" / "recorded_dev.jsonl"
TYPES = ("keywords", "acquire_knowledge", "summary", "yes_or_no", "background")
LEVELS = ("high_school", "university", "phd")
PERSONAS = ("A beekeeper with forty hives.", "A tax adviser.", "A well-read night-shift nurse.")
PASSAGE = Passage(0, "p0", "Bees cluster when it is cold.", "en", "notes")
CANDIDATES = Candidates(PASSAGE, PERSONAS, (0.9, 0.5, 0.4))
CHOICE = {"Character": PERSONAS[0], "Question_Type": "keywords", "Difficulty": "phd"}


def config_inputs(personas=PERSONAS, types=TYPES, levels=LEVELS, used=()):
    return ConfigInputs(Candidates(PASSAGE, personas, (0.5,) * len(personas)), types, levels, used)


QUERY_INPUTS = QueryInputs(
    CANDIDATES, QueryConfig(PERSONAS[0], "keywords", "phd"), Requirement("en", 2, 9, "words"), ("winter bees",)
)


def reply(text, finish="stop"):
    return ChatReply(text, finish, "model")


def query_of(text, finish="stop", *, repair=True):
    return read_query(reply(text, finish), QUERY_INPUTS, repair=repair, echoes=echo_keys(["How deep is  the sea?"]))


def query_reason(text, finish="stop", *, repair=True):
    with pytest.raises(UnusableReply) as caught:
        query_of(text, finish, repair=repair)
    assert caught.value.reason in REASONS
    caught.value.detail.encode()
    return caught.value.reason


def config_reason(values, inputs=None, finish="stop", *, repair=True):
    text = values if isinstance(values, str) else json.dumps(values)
    with pytest.raises(UnusableReply) as caught:
        read_config(reply(text, finish), inputs or config_inputs(), repair=repair)
    return caught.value.reason


@pytest.mark.parametrize(
    "text",
    [
        '{"Query": "cold hive"}',
        '{"Query": "cold hive", "Language": "English", "Length": 2}',
        '  {"Query": " cold hive\\n"}\n',
        '```json\n{"Query": "cold hive"}\n```',
        '```\n{"Query": "cold hive"}\n```\n',
        '<think>\nA {"Query": "draft"} first?\n</think>\n\n{"Query": "cold hive"}',
        '<think>a</think><think>b</think>{"Query": "cold hive"}',
        'well, let me see\n</think>\n{"Query": "cold hive"}',
        '{"Query": "a draft"} no, that copies.</think> Here it is: {"Query": "cold hive"}',
        '<thinking>{"Query": "a draft"}</thinking>{"Query": "cold hive"}',
        '[THINK]{"Query": "a draft"}[/THINK]{"Query": "cold hive"}',
        '<|channel|>analysis<|message|>{"Query": "a"}<|end|><|channel|>final<|message|>{"Query": "cold hive"}',
        '{"Query": "cold hive", "Query": "cold hive"}',
        'Here it is: {"Query": "cold hive"} I hope it helps {smile}.',
        '{"note": 1} {"Query": "cold hive"}',
        '[{"Query": "cold hive"}]',
        '\ufeff{"Query": "cold hive"}',
        '{"Query": "cold hive"} and then {"Query": "never clo',
    ],
)
def test_one_object_is_found_without_repair_whatever_stands_around_it(text):
    assert query_of(text, repair=False) == ("cold hive", False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"Query": "cold hive",}', "cold hive"),
        ("{'Query': 'cold hive'}", "cold hive"),
        ("{'Query': 'the keeper\\'s \"cold\" hive \\xe9\\u00e8', 'Length': None}", 'the keeper\'s "cold" hive éè'),
        ('{"Query": "cold hive", "Done": True, "Rest": [1, -2.5e3, None,],}', "cold hive"),
        ('{"Query": "what is "winter rest" in a hive?"}', 'what is "winter rest" in a hive?'),
        ('```json\n{"Query": ""cluster" of bees" }\n```', '"cluster" of bees'),
        ("{'Query': 'what's a bee's rest'}", "what's a bee's rest"),
        ('{"Query": "a \\"b\\" "c" d"}', 'a "b" "c" d'),
        ('{"查询": "蜂群越冬"}', "蜂群越冬"),
        ('{"Consulta": "colmena en invierno", "Language": "Spanish", "Length": 3}', "colmena en invierno"),
        ('{"query": "cold hive", "why": "short"}', "cold hive"),
        ('{"status": "ok", "result": {"Query": "cold hive", "Length": 9}}', "cold hive"),
        ('{"output": {"query": "cold hive"}, "done": true}', "cold hive"),
    ],
)
def test_stated_repairs_are_made_marked_and_can_be_forbidden(text, expected):
    assert query_of(text) == (expected, True)
    assert query_reason(text, repair=False) in {"json", "key"}


@pytest.mark.parametrize(
    ("reason", "text", "finish"),
    [
        ("think", "<think>\nFirst I look at the passage", "stop"),
        ("think", '<think> {"Query": "draft"}', "length"),
        ("many", '{"Query": "a b"}\n{"Query": "c d"}', "stop"),
        ("many", '[{"Query": "a b"}, {"Query": "c d"}]', "stop"),
        ("many", '```json\n[{"Query": "a b"}, {"Query": "c d"}]\n```', "stop"),
        ("many", "{'Query': 'a b'} or {\"Query\": \"c d\"}", "stop"),
        ("refusal", "I am sorry, I cannot help with this.", "stop"),
        ("refusal", "对不起，我无法完成。", "stop"),
        ("refusal", '{"Query": "I\'m sorry, but I can\'t assist with that."}', "stop"),
        ("refusal", '{"error": "not allowed"}', "stop"),
        ("empty", None, "stop"),
        ("empty", "", "stop"),
        ("empty", " \n\u200b\ufeff", "stop"),
        ("empty", "<think>hm</think>\n", "stop"),
        ("empty", '{"Query": null}', "stop"),
        ("empty", '{"Query": " ?! "}', "stop"),
        ("truncated", '{"Query": "cold hi', "stop"),
        ("truncated", '{"Query": "cold hive", "Lang', "stop"),
        ("truncated", '{"Query": "cold hive"', "stop"),
        ("truncated", "{'Query': 'cold hi", "stop"),
        ("truncated", '```json\n{"Query": "cold hive",\n```', "stop"),
        ("truncated", '{"thoughts": {"Query": "draft"}, "Que', "stop"),
        ("truncated", '{"Query": "cold hive"}', "length"),
        ("truncated", None, "length"),
        ("whitespace_loop", '{"Query":' + "\n \t" * 200, "length"),
        ("whitespace_loop", " " * 500, "length"),
        ("filtered", "", "content_filter"),
        ("filtered", '{"Query": "cold hive"}', "content_filter"),
        ("echo", '{"Query": "<query>"}', "stop"),
        ("echo", '{"Query": "[your query here]"}', "stop"),
        ("echo", '{"Query": "..."}', "stop"),
        ("echo", '{"Query": "how deep is the  SEA?"}', "stop"),
        ("duplicate", '{"Query": "Winter  bees"}', "stop"),
        ("control", '{"Query": "cold\\u0000hive"}', "stop"),
        ("control", '{"Query": "cold \\u001b[31mhive"}', "stop"),
        ("control", '{"Query": "cold\nhive"}', "stop"),
        ("control", '{"Query": "cold\\u009bhive"}', "stop"),
        ("surrogate", '{"Query": "cold \\ud83d hive"}', "stop"),
        ("surrogate", '{"Query": "cold \ud83d hive"}', "stop"),
        ("json", '{"Query": NaN}', "stop"),
        ("json", '{"Query": Infinity}', "stop"),
        ("json", '{Query: "cold hive"}', "stop"),
        ("json", '{"Query": "a "b" c", "Language": "English"}', "stop"),
        ("json", "{'Query': __import__('os').getcwd()}", "stop"),
        ("json", "[]", "stop"),
        ("json", '{"Length": ' + "9" * 5000 + "}", "stop"),
        ("too_large", "[" * 100_000, "stop"),
        ("too_large", '{"a":' * 100_000, "stop"),
        ("too_large", '{"Query": "cold hive", "x": ' + "[" * 40 + "]" * 40 + "}", "stop"),
        ("too_large", '{"Query": "' + "蜂" * 400_000 + '"}', "stop"),
        ("type", '"cold hive"', "stop"),
        ("type", "null", "stop"),
        ("type", '{"Query": 7}', "stop"),
        ("type", '{"Query": ["cold hive"]}', "stop"),
        ("type", '{"Query": {"text": "cold hive"}}', "stop"),
        ("type", json.dumps({"Query": '{"Query": "cold hive"}'}), "stop"),
        ("key", '{"status": "ok"}', "stop"),
        ("key", '{"status": "ok", "result": {"text": "cold hive"}}', "stop"),
        ("key", '{"a": {"b": {"Query": "cold hive"}}}', "stop"),
        ("key", '{"Thought": "cold hive", "Length": 2}', "stop"),
        ("many", '{"draft": {"Query": "a b"}, "final": {"Query": "c d"}}', "stop"),
        ("many", '{"Query": "a b", "Query": "c d"}', "stop"),
        ("many", '{"Query": "a b", "query": "c d"}', "stop"),
        ("many", "{'Query': 'a b', 'Query': 'c d',}", "stop"),
        ("many", '{"result": {"Query": "a b", "Qu\\u0065ry": "c d"}}', "stop"),
        ("refusal", 'First {"Query": "draft"} no.</think>\n\nI am sorry, I cannot write a query.', "stop"),
        ("refusal", '<thinking>{"Query": "draft"}</thinking> I am sorry.', "stop"),
        ("empty", '{"Query": "draft"}\n</think>\n', "stop"),
        ("think", '<thinking>{"Query": "draft"} or', "stop"),
        ("think", '[THINK]{"Query": "draft"}', "stop"),
        ("think", '<|channel|>analysis<|message|>Such as {"Query": "draft"}', "stop"),
        ("refusal", 'So: <think>{"Query": "draft"} maybe', "stop"),
        ("key", '{"a": "cold hive", "b": "warm hive"}', "stop"),
        ("key", "{}", "stop"),
    ],
)
def test_every_other_reply_has_its_reason(reason, text, finish):
    assert query_reason(text, finish) == reason


@pytest.mark.parametrize(
    "text", ["ليش بيتجمع النحل بالشتا", "👩‍🌾 hive", "a <b>bold</b> *hive*", "cafe\u0301 hive", "{{7*7}} braces"]
)
def test_markup_scripts_and_joiners_stay_byte_equal(text):
    assert query_of(json.dumps({"Query": text}))[0] == text
    assert query_of(json.dumps({"Query": text}, ensure_ascii=False))[0] == text


def test_brackets_inside_strings_are_not_nesting():
    assert query_of(json.dumps({"Query": "why [[[[ " + "{" * 60}))[0].startswith("why")


def test_config_gives_values_back_as_offered():
    text = json.dumps({"Character": PERSONAS[0].upper(), "Question_Type": "Acquire-Knowledge", "Difficulty": "PhD"})
    assert read_config(reply(text), config_inputs(), repair=False) == (
        QueryConfig(PERSONAS[0], "acquire_knowledge", "phd"),
        False,
    )


def test_texts_are_compared_whatever_their_unicode_form():
    inputs = config_inputs(personas=("A Zürich café owner.", "A nurse."))
    text = json.dumps({**CHOICE, "Character": unicodedata.normalize("NFD", "A Zürich café owner.")})
    assert read_config(reply(text), inputs, repair=False)[0].character == "A Zürich café owner."
    written = QueryInputs(CANDIDATES, QUERY_INPUTS.config, QUERY_INPUTS.requirement, ("café in winter",))
    with pytest.raises(UnusableReply, match="duplicate"):
        read_query(reply('{"Query": "cafe\\u0301 in winter"}'), written, repair=True, echoes=())


def test_a_persona_with_a_control_token_comes_back_verbatim():
    inputs = config_inputs(personas=("A <|im_end|> cook.", "A nurse."))
    text = json.dumps({**CHOICE, "Character": "A <\u200b|im_end|> cook."})
    assert read_config(reply(text), inputs, repair=True)[0].character == "A <|im_end|> cook."


def test_config_in_the_object_of_a_key_is_a_repair_and_two_values_of_a_key_are_none():
    text = json.dumps({"status": "ok", "choice": {**CHOICE, "Character": "B"}})
    assert read_config(reply(text), config_inputs(), repair=True) == (QueryConfig(PERSONAS[1], "keywords", "phd"), True)
    twice = '{"Character": "A", "Question_Type": "keywords", "Difficulty": "phd", "Question_Type": "summary"}'
    assert config_reason(twice) == "many"


def test_config_keys_that_the_job_does_not_ask_for_are_ignored():
    inputs = config_inputs(personas=(), levels=())
    assert read_config(reply(json.dumps(CHOICE)), inputs, repair=False)[0] == QueryConfig(None, "keywords", None)
    assert read_config(reply('{"Question_Type": "summary"}'), inputs, repair=False)[0].question_type == "summary"


def test_config_keys_off_by_case_are_a_repair():
    text = json.dumps({"character": PERSONAS[1], "question type": "summary", "difficulty": "phd"})
    assert read_config(reply(text), config_inputs(), repair=True) == (QueryConfig(PERSONAS[1], "summary", "phd"), True)
    assert config_reason(text, repair=False) == "key"


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("enum", {"Question_Type": "diagnosis"}),
        ("enum", {"Difficulty": "doctoral"}),
        ("enum", {"Question_Type": "keyword"}),
        ("character", {"Character": "A tax"}),
        ("character", {"Character": "A poet."}),
        ("type", {"Character": 1}),
        ("type", {"Question_Type": ["keywords"]}),
        ("type", {"Difficulty": None}),
    ],
)
def test_config_values_not_offered_are_refused(reason, change):
    assert config_reason({**CHOICE, **change}) == reason


def test_enum_names_what_is_allowed():
    with pytest.raises(UnusableReply, match="high_school, university, phd"):
        read_config(reply(json.dumps({**CHOICE, "Difficulty": "expert"})), config_inputs(), repair=True)


def test_config_without_a_key_is_refused():
    assert config_reason({"Character": PERSONAS[0], "Question_Type": "keywords"}) == "key"


def test_ambiguous_character_is_not_guessed():
    inputs = config_inputs(personas=("A tax-adviser.", "A tax adviser."))
    assert config_reason({**CHOICE, "Character": "a Tax Adviser."}, inputs) == "character"


def test_used_configuration_is_refused_while_another_is_left():
    used = QueryConfig(PERSONAS[0], "keywords", "phd")
    assert config_reason(CHOICE, config_inputs(used=(used,))) == "duplicate"


def test_reasons_are_documented_once_each():
    assert len(set(REASONS.values())) == len(REASONS)
    assert {"exhausted", "filtered"} == REASONS.keys() - RETRYABLE


JSONISH = st.text(alphabet=list("{}[]\"'\\:, QueryNaN10etruf\n\x00\ud800查<think>/`")) | st.lists(
    st.sampled_from(['{"Query": ', '"cold', ' hive"', "}", "{'Query': '", "'", "<think>", "</think>", "```json", ","])
).map("".join)


def verdict(read):
    """What `read` gives, or the reason it refuses with; any other exception is a failure."""
    try:
        return read()
    except UnusableReply as exc:
        str(exc).encode()
        return exc.reason


@given(JSONISH | st.text() | st.none(), st.sampled_from(["stop", "length", "content_filter", ""]), st.booleans())
def test_nothing_but_unusable_reply_escapes(text, finish, repair):
    query = verdict(lambda: query_of(text, finish, repair=repair))
    assert query in REASONS or query[0].encode() == query[0].strip().encode() != b""
    config = verdict(lambda: read_config(reply(text, finish), config_inputs(), repair=repair))
    assert config in REASONS or config[0].character in PERSONAS


@pytest.mark.parametrize(
    "text",
    [
        '"' + '\\"' * 300_000 + "[" * 40,
        "{" * 32 + '"' + " " * 500_000 + "x",
        '{"a":' * 32 + '"' * 300_000,
        "{'Query': '" + "\\'" * 300_000,
        '{"Query": "' + '" }' * 200_000,
    ],
)
@pytest.mark.timeout(10)
def test_hostile_replies_cost_no_more_than_their_length(text):
    query_reason(text)


def test_plain_replies_cost_little():
    config, query = reply(json.dumps(CHOICE)), reply('{"Query": "how do bees keep warm in a cold hive"}')
    inputs = config_inputs()
    runs = 500
    slow = 10  # the target is 20 µs on an idle core; a shared one gets room
    for call in (
        lambda: read_config(config, inputs, repair=True),
        lambda: read_query(query, QUERY_INPUTS, repair=True, echoes=frozenset()),
    ):
        assert min(timeit.repeat(call, timer=time.process_time, number=runs, repeat=5)) / runs < slow * 20e-6


PIECES = (
    *(
        '{"Query": "a draft"}',
        "<think>",
        "</think>",
        "</thinking>",
        "```json\n",
        "```",
        "'",
        '"',
        '\\"',
        "{",
        "}",
        "[",
        "]",
        ",",
    ),
    *(
        ":",
        "\n",
        "null",
        "True",
        "\\u0000",
        "<query>",
        '{"status": "ok"} ',
        '"Query": ',
        '"query": "b", ',
        "’",
        "”",
        " " * 9,
    ),
)
FRAMES = (
    '{"status": "ok", "result": %s}',
    '{"status": "ok", "data": {"result": %s}}',
    '{"draft": {"Query": "a draft"}, "final": %s}',
    '<think>{"Query": "a draft"}</think>%s',
    '{"Query": "a draft"} no.</think>\n%s',
    "%s</think>I am sorry.",
    '{"Thought": "a draft", "Query": null} %s',
    "```json\n%s\n```",
    "[%s]",
    "%s %s",
)


def mutated(text, rng):
    """The text with up to four places cut, doubled, swapped or spoilt, or put into another frame."""
    for _ in range(rng.randrange(5)):
        place, length = rng.randrange(len(text) + 1), rng.choice((1, 1, 2, 5, 40))
        match rng.randrange(7):
            case 0:
                text = text[:place] + text[place + length :]
            case 1:
                text = text[:place] + rng.choice(PIECES) + text[place:]
            case 2:
                text = text[:place] + text[place : place + length] * 2 + text[place + length :]
            case 3:
                frame = rng.choice(FRAMES)
                text = frame.replace("%s", text)
            case 4:
                text = text.replace('"', rng.choice(("'", '\\"', "“", "")), rng.choice((1, -1)))
            case 5:
                text = text.replace("Query", rng.choice(("query", "Status", "Query", "query ", "Queries")), 1)
            case _:
                text = text[:-1] + f', "{rng.choice(("Query", "Note", "query", "Language"))}": "of another key"}}'
    return text


KEY = re.compile(r"""["']\s*(?:q\s*u\s*e\s*r\s*y|查询|查詢|suchanfrage|consulta)\s*["']\s*:\s*(["'])""", re.IGNORECASE)
THOUGHT_ENDS = re.compile(r"</think(?:ing)?>")


def query_strings(text):
    """Every text that may be read as the string under a Query key behind the last thought: to each possible end."""
    answer = THOUGHT_ENDS.split(text)[-1]
    with suppress(ValueError):
        json.loads(text, strict=False)
        answer = text  # where all of it is JSON, a tag belongs to a string
    for key in KEY.finditer(answer):
        quote, start = key[1], key.end()
        for end in (each.start() for each in re.finditer(re.escape(quote) + r"\s*[,}]", answer[start:])):
            raw = answer[start : start + end]
            bare = re.sub(r"\\'", "'", raw)
            for inner in (raw, re.sub(r'\\.|"', lambda m: m[0] if len(m[0]) > 1 else r"\"", bare)):
                with suppress(ValueError):
                    yield json.loads(f'"{inner}"', strict=False).strip()


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded replies lie outside the project")
@pytest.mark.parametrize("count", [600, pytest.param(20_000, marks=pytest.mark.slow)])
def test_of_mutated_replies_no_query_is_stored_but_one_string_of_its_key(count):
    rng = random.Random(13)  # noqa: S311 - the same replies every time
    recorded = [json.loads(line)["query_text"] for line in RECORDED.read_text("utf-8").splitlines()]
    table = Counter()
    for _ in range(count):
        text = mutated(rng.choice(recorded), rng)
        outcome = verdict(lambda: query_of(text))  # noqa: B023 - called at once
        if isinstance(outcome, tuple):
            assert outcome[0] in query_strings(text), text
        table[outcome if isinstance(outcome, str) else "repaired" if outcome[1] else "accepted"] += 1
    print(*table.most_common(), sep="\n")  # noqa: T201 - the table is shown when asked for with -s
    assert table["accepted"] > count / 5
    assert table["repaired"] > count / 50


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded replies lie outside the project")
def test_recorded_replies_are_read_as_they_should_be():
    table = Counter()
    for line in RECORDED.read_text("utf-8").splitlines():
        row = json.loads(line)
        passage = Passage(0, row["passage_id"], row["passage"], row["passage_language"], "recorded")
        candidates = Candidates(passage, tuple(row["candidates"]), (0.5,) * 5)
        inputs = ConfigInputs(candidates, TYPES, LEVELS, ())
        config = verdict(lambda: read_config(reply(row["config_text"]), inputs, repair=True)[0])  # noqa: B023 - called at once
        wanted = QueryConfig(row["character"], row["question_type"], row["difficulty"])
        assert config == wanted or (row["fault_stage"] == "config" and isinstance(config, str)), row["id"]
        table["config", config if isinstance(config, str) else "accepted"] += 1
        asked = QueryInputs(candidates, wanted, Requirement(row["language"], 1, 99, "words"), ())
        query = verdict(lambda: read_query(reply(row["query_text"]), asked, repair=True, echoes=()))  # noqa: B023 - called at once
        assert (query[0] if isinstance(query, tuple) else None) == row["query"], row["id"]
        table["query", query if isinstance(query, str) else "accepted"] += 1
    for (stage, outcome), count in sorted(table.items()):
        print(f"{stage:7} {outcome:10} {count:4}")  # noqa: T201 - the table is shown when asked for with -s
    assert table == {
        ("config", "accepted"): 197,
        ("config", "enum"): 2,
        ("config", "character"): 1,
        ("query", "accepted"): 196,
        ("query", "refusal"): 2,
        ("query", "truncated"): 2,
    }
