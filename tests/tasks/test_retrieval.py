"""What the retrieval task asks for, and what becomes of every reply: a pair, another try, or a rejected item."""

import asyncio
import json
import random
from collections import Counter

import pytest

from synth.errors import RequestRejected, ServerUnavailable
from synth.hashing import item_seed
from synth.prompts import Prompts
from synth.shipped import shipped
from synth.stage import ChatReply, ConfigInputs
from synth.tasks import TaskSettings, Writer
from synth.tasks._options import USUAL_LENGTHS
from synth.tasks.retrieval import DIFFICULTIES, FORMS, QUESTION_TYPES, USUAL_FORMS, USUAL_TYPING, Retrieval
from synth.types import Candidates, Pair, Passage, Rejected

PROMPTS = Prompts.load(shipped("prompts", "retrieval"))
TEXT = "The ferry to the island leaves at nine every morning and takes forty minutes in calm weather."
PEOPLE = ("a ferry captain", "a pupil", "a nurse", "a baker", "a diver")


class Scripted:
    """A chat model that answers by a function of the request: text, a ChatReply, or an exception."""

    slots = 4

    def __init__(self, query=None, config=None):
        self.query = query or (lambda request: {"Query": f"when does the ferry leave {request.seed % 1000003}"})
        self.config = config or first_free
        self.asked = []

    async def complete(self, request):
        self.asked.append(request)
        answer = (self.config if request.key.stage == "config" else self.query)(request)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, ChatReply):
            return answer
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return ChatReply(text, "stop", "scripted", 100, 10)

    async def close(self):
        pass

    def stage(self, stage):
        return [request for request in self.asked if request.key.stage == stage]


def first_free(request):
    inputs = request.inputs
    for person in inputs.candidates.personas or (None,):
        for kind in inputs.question_types:
            for level in inputs.difficulties or (None,):
                used = [(c.character, c.question_type, c.difficulty) for c in inputs.used]
                if (person, kind, level) not in used:
                    reply = {"Character": person, "Question_Type": kind, "Difficulty": level}
                    return {key: value for key, value in reply.items() if value is not None}
    raise AssertionError("nothing is free")


def finished(text, reason):
    return ChatReply(text, reason, "scripted", 100, 10)


def one_by_one(*answers):
    """Answers in turn, the last one for ever."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def candidates(position=0, language="en", people=PEOPLE, text=TEXT, source="s"):
    passage = Passage(position, f"p{position}", text, language, source)
    return Candidates(passage, people, tuple(0.9 - 0.1 * n for n in range(len(people))))


def generate(chat, options=None, given=None, **settings):
    task = Retrieval.model_validate_json(json.dumps(options or {}))
    given = given or candidates()
    settings = {"seed": 7, "max_tokens": 256, "repair": True, "top_k": len(given.personas)} | settings
    return asyncio.run(Writer(task, PROMPTS, TaskSettings(**settings)).write(given, chat))


def test_an_item_is_two_calls_and_its_pair_says_what_was_asked():
    chat = Scripted()
    (pair,) = generate(chat)
    assert [request.key.stage for request in chat.asked] == ["config", "query"]
    assert pair.id == "0-0"
    assert (pair.config.character, pair.config.question_type, pair.config.difficulty) == (
        PEOPLE[0],
        QUESTION_TYPES[0],
        DIFFICULTIES[0],
    )
    assert (pair.requirement.language, pair.requirement.length_unit) == ("en", "words")
    assert (pair.requirement.length_min, pair.requirement.length_max) == USUAL_LENGTHS[pair.config.question_type]
    assert (pair.model, pair.attempts, pair.repaired) == ("scripted", 2, False)
    assert (pair.usage.prompt_tokens, pair.usage.completion_tokens) == (200, 20)


def test_each_try_has_its_own_seed_from_position_slot_and_attempt():
    chat = Scripted(query=one_by_one("no", "{}", {"Query": "when does the ferry leave"}))
    (pair,) = generate(chat, given=candidates(position=12))
    assert isinstance(pair, Pair)
    assert pair.attempts == 4
    assert [request.seed for request in chat.stage("query")] == [item_seed(7, "query", 12, 0, n) for n in range(3)]
    assert [request.key.attempt for request in chat.stage("query")] == [0, 1, 2]


@pytest.mark.parametrize("attempts", [1, 3, 5])
def test_attempts_are_a_limit_and_a_rejected_item_carries_them_all(attempts):
    chat = Scripted(query=lambda _: "I would rather not write that.")
    (item,) = generate(chat, {"attempts": attempts})
    assert isinstance(item, Rejected)
    assert item.reason == "refusal"
    assert item.detail.startswith("query: ")
    assert len(chat.stage("query")) == attempts
    assert [(a.stage, a.reason) for a in item.attempts] == [("config", None), *[("query", "refusal")] * attempts]
    assert item.attempts[1].reply == "I would rather not write that."
    assert item.usage.prompt_tokens == 100 * (attempts + 1)


def test_stage_one_has_its_own_attempts():
    chat = Scripted(config=lambda _: {"Character": "a stranger", "Question_Type": "keywords", "Difficulty": "phd"})
    (item,) = generate(chat)
    assert item.reason == "character"
    assert item.detail.startswith("config: ")
    assert (len(chat.stage("config")), len(chat.stage("query"))) == (3, 0)


def test_a_truncated_reply_gets_twice_the_room_and_no_more():
    chat = Scripted(query=lambda _: finished('{"Query": "when', "length"))
    (item,) = generate(chat, {"attempts": 4})
    room = chat.stage("query")[0].max_tokens
    assert item.reason == "truncated"
    assert [request.max_tokens for request in chat.stage("query")] == [room, 2 * room, 2 * room, 2 * room]


def test_a_filtered_reply_is_final():
    chat = Scripted(query=lambda _: finished("", "content_filter"))
    (item,) = generate(chat)
    assert item.reason == "filtered"
    assert len(chat.stage("query")) == 1


def test_a_request_that_the_server_will_never_answer_rejects_its_item_only():
    refuse_first = one_by_one(RequestRejected("too_long", "9000 tokens"), {"Query": "when does the ferry leave"})
    chat = Scripted(query=refuse_first)
    first, second = generate(chat, {"queries_per_passage": 2})
    assert (first.reason, first.detail) == ("too_long", "query: 9000 tokens")
    assert [a.reason for a in first.attempts] == [None, "too_long"]
    assert isinstance(second, Pair)


def test_an_outage_is_not_the_items_fault():
    with pytest.raises(ServerUnavailable):
        generate(Scripted(query=lambda _: ServerUnavailable("gone")))


def test_slots_share_no_configuration_and_see_what_is_written():
    chat = Scripted()
    pairs = generate(chat, {"queries_per_passage": 6})
    assert len({pair.config for pair in pairs}) == 6
    assert [len(request.inputs.used) for request in chat.stage("config")] == [0, 1, 2, 3, 4, 5]
    last = chat.stage("query")[-1]
    assert last.inputs.written == tuple(pair.query for pair in pairs[:5])
    assert pairs[0].query in last.messages[-1][1]


def test_an_equal_query_is_asked_again_and_then_rejected():
    chat = Scripted(query=lambda _: {"Query": "When does  the ferry leave"})
    first, second = generate(chat, {"queries_per_passage": 2})
    assert isinstance(first, Pair)
    assert second.reason == "duplicate"
    assert len(chat.stage("query")) == 1 + 3


def test_a_used_configuration_is_asked_again():
    again = {"Character": PEOPLE[0], "Question_Type": "keywords", "Difficulty": "phd"}
    chat = Scripted(config=one_by_one(again, again, again, {**again, "Difficulty": "university"}))
    first, second = generate(chat, {"queries_per_passage": 2})
    assert (first.config.difficulty, second.config.difficulty) == ("phd", "university")
    assert len(chat.stage("config")) == 4


def test_when_every_configuration_is_used_they_come_again():
    chat = Scripted(config=lambda r: {"Character": r.inputs.candidates.personas[0], "Question_Type": "summary"})
    options = {"queries_per_passage": 3, "question_types": {"summary": 1}, "difficulties": None}
    pairs = generate(chat, options, candidates(people=PEOPLE[:1]))
    assert [type(pair) for pair in pairs] == [Pair] * 3


def test_a_configuration_that_this_slot_cannot_choose_does_not_count_as_used():
    options = {"queries_per_passage": 12, "question_types": {"summary": 1, "keywords": 1}, "difficulties": None}
    chat = Scripted()
    generate(chat, options, candidates(people=PEOPLE[:2]))
    for request in chat.stage("config"):
        assert {config.question_type for config in request.inputs.used} <= set(request.inputs.question_types)


def test_a_single_choice_costs_no_call():
    chat = Scripted()
    options = {"question_types": {"keywords": 1}, "difficulties": {"phd": 1}}
    (pair,) = generate(chat, options, candidates(people=()))
    assert not chat.stage("config")
    assert (pair.config.character, pair.config.question_type, pair.config.difficulty) == (None, "keywords", "phd")
    assert pair.attempts == 1


def test_without_personas_and_difficulties_none_is_asked():
    chat = Scripted()
    (pair,) = generate(chat, {"difficulties": None}, candidates(people=()))
    assert set(chat.stage("config")[0].schema["properties"]) == {"Question_Type"}
    assert (pair.config.character, pair.config.difficulty) == (None, None)


def test_a_question_type_of_ones_own_is_explained_in_the_prompt():
    chat = Scripted()
    options = {"question_types": {"duty": {"weight": 1, "means": "who must do what by when"}}}
    (pair,) = generate(chat, options)
    assert pair.config.question_type == "duty"
    assert all("who must do what by when" in json.dumps(request.messages) for request in chat.asked)


@pytest.mark.parametrize(
    ("wish", "bad", "good"),
    [
        ("length", "when", "when does the ferry to the island leave in the morning"),
        ("copying", TEXT, "at what hour can one cross over to the island by boat"),
        (
            "language",
            "Wann fährt die Fähre am Morgen zur Insel hinüber",
            "when does the ferry to the island leave today",
        ),
    ],
)
def test_retry_on_asks_again_and_falls_back_on_the_first_usable(wish, bad, good):
    options = {"retry_on": [wish], "question_types": {"summary": 1}, "lengths": {"default": [5, 20]}}
    chat = Scripted(query=one_by_one({"Query": bad}, {"Query": good}))
    (pair,) = generate(chat, options)
    assert pair.query == good
    chat = Scripted(query=one_by_one("none", {"Query": bad}, {"Query": bad + "?"}))
    (pair,) = generate(chat, options)
    assert pair.query == bad
    assert len(chat.stage("query")) == 3
    chat = Scripted(query=one_by_one({"Query": bad}, RequestRejected("too_long")))
    (pair,) = generate(chat, options)
    assert pair.query == bad, "what is usable is not thrown away for a failed wish"


def test_a_pool_gives_each_item_other_personas_and_always_the_same():
    people = tuple(f"person {n}" for n in range(40))
    offered = []
    for _ in range(2):
        chat = Scripted()
        for position in range(6):
            generate(chat, {"queries_per_passage": 2}, candidates(position, people=people), top_k=5)
        offered.append([request.inputs.candidates.personas for request in chat.stage("config")])
    assert offered[0] == offered[1]
    assert len(set(offered[0])) == 12
    for drawn in offered[0]:
        assert len(drawn) == 5
        assert list(drawn) == sorted(drawn, key=people.index), "nearest first"


def test_drawn_shares_follow_the_weights():
    count = 1200
    weights = {"keywords": 2, "summary": 5, "background": 3}
    options = {
        "question_types": weights,
        "difficulties": {"phd": 1, "university": 3},
        "languages": {"same": 0.8, "de": 0.2},
        "lengths": {"default": [{"range": [3, 7]}, {"range": [8, 24], "weight": 3}], "keywords": [2, 6]},
    }
    task = Retrieval.model_validate_json(json.dumps(options))
    writer = Writer(task, PROMPTS, TaskSettings(seed=1, max_tokens=9, repair=True, top_k=0))
    chat = Scripted()

    async def all_items():
        found = []
        for position in range(count):
            found += await writer.write(candidates(position, people=()), chat)
        return found

    pairs = asyncio.run(all_items())
    assert not chat.stage("config"), "one type and one level are drawn, nothing is left to choose"
    near(Counter(pair.config.question_type for pair in pairs), weights)
    near(Counter(pair.config.difficulty for pair in pairs), {"phd": 1, "university": 3})
    near(Counter(pair.requirement.language for pair in pairs), {"en": 8, "de": 2})
    lengths = {"keywords": {(2, 6)}, "summary": {(3, 7), (8, 24)}, "background": {(3, 7), (8, 24)}}
    for pair in pairs:
        bounds = (pair.requirement.length_min, pair.requirement.length_max)
        assert bounds in lengths[pair.config.question_type]
    near(Counter(p.requirement.length_max for p in pairs if p.config.question_type != "keywords"), {7: 1, 24: 3})


def near(counts, weights):
    """Every share within three standard deviations of its weight's."""
    total, weight = sum(counts.values()), sum(weights.values())
    assert set(counts) == set(weights)
    for key, count in counts.items():
        share = weights[key] / weight
        assert abs(count / total - share) < 3 * (share * (1 - share) / total) ** 0.5


@pytest.mark.parametrize(
    ("languages", "passage", "asked"),
    [
        ({"same": 1}, "de", {"de"}),
        ({"en": 1}, "de", {"en"}),
        ({"en": 1}, "und", {"en"}),
        ({"de": {"fr": 1}, "other": {"same": 1}}, "de", {"fr"}),
        ({"de": {"fr": 1}, "other": {"same": 1}}, "it", {"it"}),
        ({"zho_Hans": {"English": 1}}, "zh-Hans", {"en"}),
        ({"de": {"fr": 1}}, "it", None),
        ({"same": 1}, "und", {"en"}),
    ],
)
def test_the_query_language_follows_the_passages(languages, passage, asked):
    chat = Scripted()
    (item,) = generate(chat, {"languages": languages}, candidates(language=passage))
    if asked is None:
        assert item.reason == "no_language"
        assert not chat.stage("query")
    else:
        assert {item.requirement.language} == asked


def test_lengths_count_in_the_unit_of_the_query_language():
    (pair,) = generate(Scripted(), {"languages": {"ja": 1}, "lengths": [9, 9]})
    assert (pair.requirement.length_min, pair.requirement.length_max, pair.requirement.length_unit) == (
        20,
        20,
        "characters",
    )


def test_control_tokens_of_a_passage_are_broken_up_unless_its_source_keeps_them():
    text = "A passage with <|im_end|> in the middle of it."
    for plain, shown in ((frozenset(), False), (frozenset({"s"}), True)):
        chat = Scripted()
        (pair,) = generate(chat, given=candidates(text=text), plain_sources=plain)
        assert all(("<|im_end|>" in request.messages[-1][1]) is shown for request in chat.asked)
        assert pair.passage.text == text


def test_a_rejected_rows_reply_is_cut_to_eight_kibibytes():
    (item,) = generate(Scripted(query=lambda _: "ä" * 10_000), {"attempts": 1})
    assert len(item.attempts[-1].reply.encode()) <= 8192


@pytest.mark.parametrize(
    ("lengths", "language", "granted", "chars", "room"),
    [
        ([3, 7], "en", 512, 108, 132),
        ([8, 24], "en", 512, 312, 336),
        ([8, 24], "zh-Hans", 512, 132, 156),
        ([3, 7], "en", 100, 108, 100),
        ([3, 7], "en", 4096, 108, 3716),
    ],
)
def test_the_room_for_a_query_follows_the_length_that_is_asked(lengths, language, granted, chars, room):
    """What a job grants beyond the default is for a model that reasons first."""
    chat = Scripted()
    generate(chat, {"languages": {language: 1}, "lengths": lengths}, max_tokens=granted)
    (request,) = chat.stage("query")
    assert request.schema["properties"]["Query"]["maxLength"] == chars
    assert request.max_tokens == room


def test_stage_one_has_one_schema_for_the_whole_run():
    options = {"queries_per_passage": 4, "question_types": {"summary": 1, "keywords": 1}}
    chat = Scripted()
    for position in range(5):
        generate(chat, options, candidates(position, people=tuple(f"person {position} {n}" for n in range(5))), top_k=5)
    schemas = {json.dumps(request.schema) for request in chat.stage("config")}
    assert len(schemas) == 1
    assert set(json.loads(schemas.pop())["properties"]) == {"Character", "Difficulty"}, "the type is drawn, not asked"


def test_stage_one_may_answer_by_letter_or_by_sentence():
    for character in ("C", PEOPLE[2], f"C. {PEOPLE[2]}"):
        reply = {"Character": character, "Question_Type": "summary", "Difficulty": "phd"}
        (pair,) = generate(Scripted(config=lambda _, reply=reply: reply))
        assert pair.config.character == PEOPLE[2]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (PROMPTS.examples[0].reply.query, "echo"),
        (PROMPTS.examples[0].reply.query + "?", "echo"),
        ("so " + PROMPTS.examples[0].reply.query, "echo"),
        ("Spark transmitters changed this", "echo"),
        ("ferry ferry ferry ferry", "repetition"),
        ("when does the ferry leave when does the ferry leave", "repetition"),
        (" ".join(f"word{n}" for n in range(49)), "run_on"),
        ("-".join(map(str, range(120))), "run_on"),
    ],
)
def test_a_reply_that_repeats_an_example_or_itself_or_runs_on_is_refused(query, reason):
    (item,) = generate(Scripted(query=lambda _: {"Query": query}))
    assert item.reason == reason


def test_stage_one_offers_exactly_what_the_job_allows():
    chat = Scripted()
    generate(chat)
    request = chat.stage("config")[0]
    assert isinstance(request.inputs, ConfigInputs)
    enums = {name: tuple(part["enum"]) for name, part in request.schema["properties"].items()}
    assert enums == {
        "Character": ("A", "B", "C", "D", "E", "none"),
        "Question_Type": (*QUESTION_TYPES, "none"),
        "Difficulty": DIFFICULTIES,
    }


def test_a_character_may_be_none_and_then_the_query_prompt_names_nobody():
    answer = {"Character": "none", "Question_Type": "summary", "Difficulty": "phd"}
    chat = Scripted(config=lambda _: answer)
    (pair,) = generate(chat)
    assert (pair.config.character, pair.config.question_type) == (None, "summary")
    assert "Character:" not in chat.stage("query")[0].messages[-1][1]


def test_a_passage_without_candidates_is_asked_for_no_character():
    chat = Scripted()
    (pair,) = generate(chat, given=candidates(people=()), top_k=5)
    assert set(chat.stage("config")[0].schema["properties"]) == {"Question_Type", "Difficulty"}
    assert pair.config.character is None


def test_an_exhausted_passage_is_asked_no_further():
    end = {"Character": "none", "Question_Type": "none", "Difficulty": "phd"}
    first = {"Character": PEOPLE[0], "Question_Type": "summary", "Difficulty": "phd"}
    chat = Scripted(config=one_by_one(first, end))
    pair, *rest = generate(chat, {"queries_per_passage": 4})
    assert isinstance(pair, Pair)
    assert [(item.reason, len(item.attempts)) for item in rest] == [
        ("exhausted", 1),
        ("exhausted", 0),
        ("exhausted", 0),
    ]
    assert len(chat.stage("config")) == 2


def test_a_drawn_question_type_cannot_be_answered_with_none():
    answer = {"Character": PEOPLE[0], "Question_Type": "none", "Difficulty": "phd"}
    chat = Scripted(config=lambda _: answer)
    (pair,) = generate(chat, {"question_types": {"summary": 1}})
    assert pair.config.question_type == "summary"
    assert "Question_Type" not in chat.stage("config")[0].schema["properties"]


@pytest.mark.parametrize(
    ("text", "options", "asked"),
    [
        ("let x = f(y) + g(z); // on calcule la somme des deux valeurs avant de rendre la main", {}, "fr"),
        ("# wartet, bis der Server antwortet, und gibt dann die Verbindung zurück\nx = f(y)", {}, "de"),
        ("x = f(y) + g(z)", {}, "en"),
        ("x = f(y) + g(z)", {"fallback_language": "German"}, "de"),
    ],
)
def test_source_code_is_asked_about_in_the_language_of_its_comments(text, options, asked):
    chat = Scripted()
    (pair,) = generate(chat, options, candidates(language="und", text=text))
    assert pair.requirement.language == asked


def test_what_no_language_rule_covers_costs_no_call():
    chat = Scripted()
    (item,) = generate(chat, {"languages": {"de": {"fr": 1}}}, candidates(language="it"))
    assert (item.reason, chat.asked) == ("no_language", [])


def test_a_type_is_never_asked_for_outside_its_lengths_or_in_a_form_that_does_not_suit_it():
    chat = Scripted(config=any_choice)
    seen = Counter()
    settings = TaskSettings(seed=7, max_tokens=256, repair=True, top_k=len(candidates().personas))
    writer = Writer(Retrieval(queries_per_passage=10, attempts=1), PROMPTS, settings)

    async def all_items():
        return [item for n in range(100) for item in await writer.write(candidates(position=n), chat)]

    for item in asyncio.run(all_items()):
        if isinstance(item, Pair):
            kind, form = item.config.question_type, item.columns["form"]
            assert (item.requirement.length_min, item.requirement.length_max) == USUAL_LENGTHS[kind]
            assert kind in FORMS[form]
            seen[form] += 1
            seen[item.columns["typing"]] += 1
    assert seen.keys() == {*USUAL_FORMS, *USUAL_TYPING}
    drawn = sum(seen[name] for name in USUAL_TYPING)
    assert drawn > 500
    assert abs(seen["written"] / drawn - USUAL_TYPING["written"]) < 0.08


def any_choice(request):
    inputs, rng = request.inputs, random.Random(request.seed)  # noqa: S311 - a test
    offered = {"Character": (*inputs.candidates.personas, "none"), "Question_Type": inputs.question_types}
    return {key: rng.choice(values) for key, values in {**offered, "Difficulty": inputs.difficulties}.items()}


def test_form_and_typing_are_said_in_the_prompt_and_explained():
    chat = Scripted(config=lambda _: {"Character": PEOPLE[0], "Question_Type": "yes_or_no", "Difficulty": "phd"})
    (pair,) = generate(chat, {"forms": {"conditional": 1}, "typing": {"typed": 1}})
    system, ask = (text for _, text in chat.stage("query")[0].messages)
    assert "Form: conditional\nTyping: typed\n" in ask
    assert f"conditional: {PROMPTS.definitions.forms['conditional']}" in system
    assert "misspelt" not in system
    assert pair.columns == {"form": "conditional", "typing": "typed"}


def test_templates_that_ask_for_no_form_get_none(tmp_path):
    for name in ("config", "query"):
        (tmp_path / f"{name}.j2").write_text("{{ passage }}")
    settings = TaskSettings(seed=7, max_tokens=256, repair=True, top_k=5)
    (pair,) = asyncio.run(Writer(Retrieval(), Prompts.load(tmp_path), settings).write(candidates(), Scripted()))
    assert pair.columns == {"form": None, "typing": None}
