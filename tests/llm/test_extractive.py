"""The test double for a language model: in range, valid, deterministic, and never lost on odd passages."""

from __future__ import annotations

import asyncio
import json
from itertools import product

import pytest

from synth.languages import count_words
from synth.llm.extractive import Extractive
from synth.stage import ChatReply, ChatRequest, ClientSettings, ConfigInputs, JudgeInputs, QueryInputs, ReplyKey
from synth.types import Candidates, Passage, QueryConfig, Requirement

TYPES = ("keywords", "acquire_knowledge", "summary", "yes_or_no", "background")
LEVELS = ("high_school", "university", "phd")
PERSONAS = ("A marine biologist", "A harbour pilot", "A school teacher", "A coastal engineer", "A tax adviser")
SIMILARITIES = (0.55, 0.5, 0.48, 0.41, 0.2)

TEXTS = {
    "en": (
        "Tidal barrages generate electricity from the difference in water level between the two sides of a dam. The "
        "Rance power station in Brittany, opened in 1966, was the first large plant of this kind. Because sediment "
        "settles behind the wall, engineers flush the reservoir twice a month. Migrating eels pass through a ladder, "
        "and the annual output of the bulb turbines reaches 500 gigawatt hours."
    ),
    "zh-Hans": (
        "潮汐电站利用堤坝两侧的水位差发电。朗斯电站位于法国布列塔尼，于1966年投入运行，是世界上第一座大型潮汐电站。"
        "由于泥沙会在堤坝后面沉积，工程师每月冲洗水库两次。鳗鱼可以通过鱼梯洄游，灯泡式水轮机的年发电量达到五亿千瓦时。"
    ),
    "de": (
        "Gezeitenkraftwerke gewinnen Strom aus dem Unterschied der Wasserstände vor und hinter "
        "einem Damm. Das Kraftwerk "
        "an der Rance in der Bretagne wurde 1966 eröffnet und war die erste große Anlage dieser "
        "Art. Weil sich hinter der "
        "Mauer Schlamm absetzt, spülen die Ingenieure das Becken zweimal im Monat. Aale wandern "
        "durch eine Fischtreppe, "
        "und die Rohrturbinen liefern im Jahr rund 500 Gigawattstunden."
    ),
    "es": (
        "Las centrales mareomotrices obtienen electricidad de la diferencia de nivel del agua "
        "entre los dos lados de un "
        "dique. La central del río Rance, en Bretaña, fue la primera gran instalación de este tipo. Debido a los "
        "sedimentos del embalse, los ingenieros limpian el fondo dos veces al mes. Las anguilas suben por una "
        "escala de peces, y la producción anual de las turbinas de bulbo alcanza quinientos gigavatios hora."
    ),
    "ar": (
        "تولد محطات المد والجزر الكهرباء من فرق مستوى المياه بين جانبي السد. كانت محطة نهر الرانس في منطقة بريتاني أول "
        "محطة كبيرة من هذا النوع. بسبب تراكم الرواسب خلف الجدار ينظف المهندسون الخزان مرتين في الشهر. تعبر أسماك "
        "الأنقليس من خلال سلم الأسماك، ويبلغ الإنتاج السنوي من التوربينات الأنبوبية نحو خمسمئة غيغاواط في الساعة."
    ),
}
OTHERS = {
    "fr": (
        "Les usines marémotrices tirent de l'électricité de la différence de niveau entre les deux côtés d'un barrage."
    ),
    "ja": "潮力発電所は、堤防の両側の水位差を利用して電力を生み出す。ランス発電所は世界初の大型潮力発電所である。",
    "ru": "Приливные электростанции используют разницу уровней воды по обе стороны плотины. Первая крупная станция.",
    "ko": "조력 발전소는 방조제 양쪽의 수위 차이를 이용하여 전기를 생산한다. 시화호 조력 발전소는 세계 최대 규모이다.",
    "th": "โรงไฟฟ้าพลังน้ำขึ้นน้ำลงผลิตไฟฟ้าจากความแตกต่างของระดับน้ำระหว่างสองฝั่งของเขื่อน",
    "sw": (
        "Vituo vya umeme wa mawimbi huzalisha umeme kutokana na tofauti ya kina cha maji kati ya pande mbili za bwawa."
    ),
    "hi": "ज्वारीय बिजलीघर बाँध के दोनों ओर के जलस्तर के अंतर से बिजली बनाते हैं।",
}
ODD = {
    "one word": "Photosynthesis",
    "digits": "4711 0815 3.14159 2026",
    "emoji": "🎉🎊 🥳",
    "code": "for (int i = 0; i < n; ++i) {\n  sum += weights[i] * inputs[i];  // {b} {0} %s\n}\nreturn sum;",
    "stop words": "It is what it is, and that was that.",
    "punctuation": "... --- !!!",
    "long token": "A" * 3000,
    "control tokens": "<|im_end|> system\x07 {a}{b} <think>",
}


def passage(text: str, code: str = "en") -> Candidates:
    return Candidates(Passage(3, "p3", text, code, "test"), PERSONAS, SIMILARITIES)


def answer(inputs, seed=1, attempt=0) -> ChatReply:
    async def once() -> ChatReply:
        model = Extractive().open(ClientSettings())
        request = ChatRequest(ReplyKey(3, 0, "query", attempt), (), {}, "any", seed, 512, inputs)
        reply = await model.complete(request)
        await model.close()
        return reply

    return asyncio.run(once())


def choice(inputs: ConfigInputs, seed=1) -> QueryConfig:
    found = json.loads(answer(inputs, seed).text or "")
    return QueryConfig(found.get("Character"), found["Question_Type"], found.get("Difficulty"))


def wish(candidates, kind="acquire_knowledge", level="university", bounds=(8, 24), written=()) -> QueryInputs:
    requirement = Requirement(candidates.passage.language, *bounds, "words")
    return QueryInputs(candidates, QueryConfig(PERSONAS[0], kind, level), requirement, tuple(written))


def query(inputs: QueryInputs, seed=1, attempt=0) -> str:
    found = json.loads(answer(inputs, seed, attempt).text or "")
    assert list(found) == ["Query"]
    return found["Query"]


@pytest.mark.parametrize("kind", [*TYPES, "obligation"])
@pytest.mark.parametrize("code", TEXTS)
def test_every_type_stays_in_range(code, kind):
    for seed, (bounds, level) in enumerate(product([(3, 7), (8, 24), (2, 3), (5, 5), (10, 14)], LEVELS)):
        text = query(wish(passage(TEXTS[code], code), kind, level, bounds), seed)
        assert bounds[0] <= count_words(text, code) <= bounds[1], text


def test_range_in_characters():
    inputs = wish(passage(TEXTS["zh-Hans"], "zh-Hans"))
    for bounds in [(6, 12), (15, 40)]:
        requirement = Requirement("zh-Hans", *bounds, "characters")
        for seed in range(10):
            text = query(QueryInputs(inputs.candidates, inputs.config, requirement, ()), seed)
            assert bounds[0] <= len(text) <= bounds[1]


def test_query_is_made_of_the_words_of_the_passage():
    text = query(wish(passage(TEXTS["en"]), "keywords"))
    assert all(word in TEXTS["en"] for word in text.split())
    assert query(wish(passage(TEXTS["en"]), "acquire_knowledge")).endswith("?")
    chinese = query(wish(passage(TEXTS["zh-Hans"], "zh-Hans"), "keywords"))
    assert chinese.count(" ") < 3  # between a number and the next word, never within a phrase


@pytest.mark.parametrize("code", OTHERS)
def test_other_languages_get_a_query_within_the_maximum(code):
    for kind in TYPES:
        text = query(wish(passage(OTHERS[code], code), kind, bounds=(3, 9)))
        assert 0 < count_words(text, code) <= 9


def test_same_request_same_reply_and_seeds_and_attempts_differ():
    inputs = wish(passage(TEXTS["en"]))
    assert answer(inputs, 5) == answer(inputs, 5)
    assert len({query(inputs, seed) for seed in range(20)}) > 10
    assert len({query(inputs, 5, attempt) for attempt in range(5)}) > 2
    choices = ConfigInputs(inputs.candidates, TYPES, LEVELS, ())
    assert choice(choices, 5) == choice(choices, 5)
    assert len({choice(choices, seed) for seed in range(20)}) > 5


def test_used_configurations_never_come_again_while_others_are_left():
    used: list[QueryConfig] = []
    total = len(PERSONAS) * len(TYPES) * len(LEVELS)
    for seed in range(total):
        found = choice(ConfigInputs(passage(TEXTS["en"]), TYPES, LEVELS, tuple(used)), seed)
        assert found not in used
        assert found.character in PERSONAS
        used.append(found)
    assert choice(ConfigInputs(passage(TEXTS["en"]), TYPES, LEVELS, tuple(used))) in used


def test_keys_that_nothing_is_asked_for_are_left_out():
    nobody = Candidates(passage(TEXTS["en"]).passage, (), ())
    assert json.loads(answer(ConfigInputs(nobody, TYPES, (), ())).text or "").keys() == {"Question_Type"}


def test_the_nearest_persona_is_chosen_most_often():
    near = Candidates(passage(TEXTS["en"]).passage, PERSONAS, (0.9, 0.2, 0.2, 0.2, 0.2))
    chosen = [choice(ConfigInputs(near, TYPES, LEVELS, ()), seed).character for seed in range(40)]
    assert chosen.count(PERSONAS[0]) > 20


@pytest.mark.parametrize("code", ["en", "zh-Hans", "de"])
def test_written_queries_never_come_again(code):
    written: list[str] = []
    for seed in range(12):
        text = query(wish(passage(TEXTS[code], code), TYPES[seed % 5], written=written), seed=1)
        folded = [" ".join(each.casefold().split()) for each in written]
        assert " ".join(text.casefold().split()) not in folded
        written.append(text)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", ODD)
def test_odd_passages_get_some_query_within_the_maximum(name, kind):
    for code, bounds in product(["en", "zh-Hans", "ar"], [(1, 2), (3, 7), (8, 24)]):
        inputs = wish(passage(ODD[name], code), kind, bounds=bounds)
        text = query(inputs)
        assert text.strip()
        assert text.isprintable()
        assert count_words(text, code) <= bounds[1]
        choice(ConfigInputs(inputs.candidates, TYPES, LEVELS, ()))


def test_when_nothing_new_can_be_asked_it_says_so():
    reply = answer(wish(passage("Photosynthesis"), "keywords", bounds=(1, 1), written=["photosynthesis"]))
    assert reply.text is not None
    assert not reply.text.startswith("{")


def test_other_languages_and_judging_are_refused_in_a_sentence():
    inputs = wish(passage(TEXTS["en"]))
    crossed = QueryInputs(inputs.candidates, inputs.config, Requirement("de", 3, 7, "words"), ())
    for refused in (crossed, JudgeInputs("query", "passage")):
        reply = answer(refused)
        assert (reply.text or "").startswith("Sorry")
        assert reply.finish_reason == "stop"
    assert not Extractive().writes("de", "en")


def test_reply_counts_no_tokens_and_names_the_baseline():
    reply = answer(wish(passage(TEXTS["en"])))
    assert (reply.model, reply.finish_reason) == ("extractive-baseline", "stop")
    assert (reply.prompt_tokens, reply.completion_tokens) == (0, 0)
