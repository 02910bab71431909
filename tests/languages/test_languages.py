"""The table of 119 languages: names, word counts, detection. All sentences were written for these tests."""

import json
import pickle
import unicodedata
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.document import parse
from synth.errors import JobError
from synth.languages import count_words, detect, is_language, language, languages, length_phrase
from synth.languages.detection import only, weigh_scripts
from synth.languages.words import count_characters, in_own_unit
from synth.measures import copied_share, length_error
from synth.types import Requirement

SHARED = Path(__file__).parents[2].parent / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not beside this checkout")

SENTENCES = {
    "en": "Which papers does a tenant need before the landlord gives the deposit back?",
    "de": "Welche Unterlagen braucht ein Mieter, bevor der Vermieter die Kaution zurückzahlt?",
    "fr": "Quels documents le locataire doit-il fournir avant le remboursement de la caution ?",
    "es": "¿Qué documentos necesita el inquilino antes de que le devuelvan la fianza?",
    "it": "Quali documenti servono all'inquilino prima che gli venga restituita la cauzione?",
    "nl": "Welke papieren heeft een huurder nodig voordat de verhuurder de borg terugbetaalt?",
    "pl": "Jakie dokumenty musi mieć najemca, zanim właściciel zwróci mu kaucję?",
    "tr": "Kiracının depozitoyu geri almadan önce hangi belgeleri hazırlaması gerekir?",
    "fi": "Mitä asiakirjoja vuokralainen tarvitsee ennen kuin vakuus palautetaan hänelle?",
    "hu": "Milyen iratokra van szüksége a bérlőnek, mielőtt visszakapja a kauciót?",
    "vi": "Người thuê nhà cần những giấy tờ gì trước khi được trả lại tiền đặt cọc?",
    "ru": "Какие документы нужны арендатору, чтобы хозяин вернул ему залог?",
    "uk": "Які документи потрібні орендарю, щоб власник повернув йому заставу?",
    "el": "Ποια έγγραφα χρειάζεται ο ενοικιαστής πριν του επιστραφεί η εγγύηση;",
    "ar": "ما هي الوثائق التي يحتاجها المستأجر قبل أن يعيد المالك مبلغ التأمين؟",
    "fa": "مستأجر پیش از پس گرفتن ودیعه به چه مدارکی نیاز دارد؟",
    "he": "אילו מסמכים צריך השוכר לפני שבעל הדירה מחזיר את הפיקדון?",
    "hi": "मकान मालिक से जमा राशि वापस लेने के लिए किराएदार को कौन से कागज़ चाहिए?",
    "bn": "জামানত ফেরত পাওয়ার আগে ভাড়াটের কোন কোন কাগজ দরকার?",
    "ta": "வைப்புத்தொகையைத் திரும்பப் பெற வாடகைதாரருக்கு என்ன ஆவணங்கள் தேவை?",
    "th": "ผู้เช่าต้องใช้เอกสารอะไรบ้างก่อนเจ้าของบ้านคืนเงินมัดจำ",
    "ko": "세입자가 보증금을 돌려받기 전에 어떤 서류가 필요합니까?",
    "ja": "借主は敷金を返してもらう前にどんな書類が必要ですか",
    "zh-Hans": "房东退还押金之前，租客需要准备哪些书面材料？",
    "zh-Hant": "房東退還押金之前，租客需要準備哪些書面資料？",
    "yue": "業主畀返按金之前，租客要準備啲乜嘢文件先得嘅？",
    "ka": "რა საბუთები სჭირდება მოიჯარეს დეპოზიტის დაბრუნებამდე?",
}


def test_the_table_has_119_rows_with_codes_and_names_of_their_own():
    rows = languages()
    assert len(rows) == 119
    assert len({row.code for row in rows}) == len({row.name for row in rows}) == 119
    assert all(row.detector or row.kin for row in rows)
    assert {row.words.by for row in rows} == {"spaces", "letters"}
    assert all((row.words.characters == 0) == (row.words.by == "spaces") for row in rows)


def test_no_alias_names_two_languages():
    for row in languages():
        for alias in row.aliases:
            assert language(alias) is row
            assert language(alias.upper()) is row


def test_rows_survive_pickling():
    row = language("sr")
    assert pickle.loads(pickle.dumps(row)) == row  # noqa: S301 - our own bytes


@needs_shared
def test_every_code_and_name_of_qwen3s_list_resolves():
    for flores, name, iso, reference in json.loads((SHARED / "languages119.json").read_text(encoding="utf-8")):
        row = language(flores)
        others = {iso, name, reference, flores.partition("_")[0]} - {"", "zh", "zho", "Chinese"}
        assert {language(other).code for other in others} == {row.code}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("no", "nb"),
        ("Norwegian bokmal", "nb"),
        ("nn", "nn"),
        ("fa", "fa"),
        ("Farsi", "fa"),
        ("sw", "sw"),
        ("zh", "zh-Hans"),
        ("Chinese", "zh-Hans"),
        ("zh-TW", "zh-Hant"),
        ("zho_Hant", "zh-Hant"),
        ("zh_hant_hk", "zh-Hant"),
        ("zh-yue", "yue"),
        ("ar", "ar"),
        ("Arabic", "ar"),
        ("arz_Arab", "arz"),
        ("lv", "lv"),
        ("lav", "lv"),
        ("sqi", "sq"),
        ("als", "sq"),
        ("pt-BR", "pt"),
        ("es-419", "es"),
        ("GERMAN", "de"),
        ("Odia", "or"),
        ("fil", "tl"),
        ("Ta’izzi-Adeni Arabic", "acq"),
    ],
)
def test_names_in_use_resolve(name, code):
    assert language(name).code == code


@pytest.mark.parametrize(
    ("name", "nearest"), [("Germann", "'de' (German)"), ("Swahilli", "'sw'"), ("zh-Hans-x", "zh-Hans")]
)
def test_an_unknown_language_names_the_nearest(name, nearest):
    with pytest.raises(JobError, match="the nearest is") as caught:
        language(name)
    assert nearest in str(caught.value)
    assert repr(name) in str(caught.value)


def test_a_name_like_no_other_is_refused_without_a_guess():
    with pytest.raises(JobError, match="nothing comes near"):
        language("xx")


def test_a_second_script_is_not_silently_dropped():
    with pytest.raises(JobError, match="sr-Latn"):
        language("sr-Latn")


@pytest.mark.parametrize("value", [None, 3, 0.5, True, False, "", "--", ["en"]])
def test_what_is_no_name_is_refused(value):
    with pytest.raises(JobError, match="is not a language"):
        language(value)


def test_no_in_yaml_is_norwegian():
    document = parse("{no: 0.2, language: no}", "job.yaml")
    assert document.data == {"no": 0.2, "language": "no"}
    assert {language(name).code for name in ("no", document.data["language"])} == {"nb"}


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("", "en", 0),
        ("... — !? 🙂🙂", "en", 0),
        ("A well-known rule, isn't it? 🙂", "en", 5),
        ("one — two…three\nfour", "en", 4),
        ("snake_case and C++ in 2024", "en", 5),
        ("Was kostet das?", "de", 3),
        ("이것은 무엇입니까?", "ko", 2),
        ("यह क्या है?", "hi", 3),
        ("我们学习中文", "zh-Hans", 4),
        ("我们 用 Python 3 学习 中文！", "zh", 10),
        ("我們學習中文", "zh-Hant", 4),
        ("今日は天気です", "ja", 3),
        ("これはPythonですか。", "ja", 6),
        ("วันนี้อากาศดี", "th", 4),
        ("ສະບາຍດີ", "lo", 2),
        ("សួស្តី", "km", 2),
        ("မင်္ဂလာပါ", "my", 2),
        ("がっこう", "ja", 2),
        ("か\u3099っこう", "ja", 2),
    ],
)
def test_words_are_counted_as_the_language_has_them(text, code, words):
    assert count_words(text, code) == words


@pytest.mark.parametrize("code", ["lo", "km", "my"])
def test_spaces_do_not_change_a_count_by_letters(code):
    text = {"lo": "ຂ້ອຍຮັກພາສາ", "km": "ខ្ញុំស្រឡាញ់ភាសា", "my": "ကျွန်တော်စာဖတ်သည်"}[code]
    spread = f"{text[:4]}  {text[4:]} "
    assert count_words(text, code) == count_words(spread, code) > 1


def test_one_thought_has_a_like_number_of_words_in_every_script():
    lengths = {code: count_words(text, code) for code, text in SENTENCES.items()}
    assert all(5 <= n <= 20 for n in lengths.values()), lengths


def test_counting_takes_linear_time_on_hostile_text():
    assert count_words("-" * 300_000, "en") == 0
    assert count_words("a" * 300_000, "zh") == 200_000
    assert is_language("@" * 300_000, "de") is None


@pytest.mark.parametrize(
    ("code", "low", "high", "phrase"),
    [
        ("en", 8, 24, "8 to 24 words"),
        ("de", 1, 1, "1 word"),
        ("ko", 7, 7, "7 words"),
        ("zh", 8, 24, "12 to 36 characters"),
        ("ja", 10, 10, "22 characters"),
        ("my", 2, 4, "9 to 18 characters"),
    ],
)
def test_a_length_is_said_so_that_a_model_can_keep_it(code, low, high, phrase):
    assert length_phrase(language(code), low, high) == phrase


@given(
    st.sampled_from([row for row in languages() if row.words.characters]),
    st.integers(1, 400),
    st.integers(0, 400),
    st.text("漢かຂကកท aA1。", max_size=60),
)
def test_where_no_spaces_part_words_the_length_asked_is_the_length_measured(row, low, more, text):
    least, most, unit = in_own_unit(row, low, low + more)
    assert length_phrase(row, low, low + more).startswith(f"{least} ")
    requirement = Requirement(row.code, least, most, unit)
    asked = text * (1 + least // max(1, count_characters(text)))
    assert (length_error(asked, requirement) == 0) == (least <= count_characters(asked) <= most)
    if least <= count_characters(asked) <= most:
        assert low <= count_words(asked, row.code) <= low + more


@needs_shared
@pytest.mark.parametrize("name", ["xquad_zh", "cmrc2018_zh"])
def test_no_query_of_the_characters_asked_counts_as_short(name):
    path = SHARED / "data" / "retrieval" / name / "queries.parquet"
    texts = pq.read_table(path, columns=["text"])["text"].to_pylist()
    least, most, unit = in_own_unit(language("zh-Hans"), 8, 24)
    asked = [text for text in texts if least <= len("".join(text.split())) <= most]
    assert len(asked) > 1000
    requirement = Requirement("zh-Hans", least, most, unit)
    assert not [text for text in asked if length_error(text, requirement) or count_words(text, "zh-Hans") < 8]


@pytest.mark.parametrize(("code", "text"), SENTENCES.items(), ids=SENTENCES)
def test_unicode_forms_give_one_answer(code, text):
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]
    assert len({detect(each) for each in forms}) == len({is_language(each, code) for each in forms}) == 1
    assert len({count_words(each, code) for each in forms}) == len(set(map(count_characters, forms))) == 1
    assert copied_share(forms[0], forms[1]) == copied_share(forms[1], forms[0]) == 1


@pytest.mark.parametrize(("code", "text"), SENTENCES.items(), ids=SENTENCES)
def test_a_sentence_is_detected_and_confirmed(code, text):
    found = detect(text)
    assert found.code == code
    assert 0.5 <= found.confidence <= 1.0
    assert is_language(text, code) is True


@pytest.mark.parametrize("code", [code for code in SENTENCES if code != "en"])
def test_english_is_refuted_where_another_language_was_asked_for(code):
    assert is_language(SENTENCES["en"], code) is False
    assert is_language(SENTENCES[code], "en") is False


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("ru", "uk"),
        ("de", "nl"),
        ("es", "it"),
        ("ar", "fa"),
        ("zh-Hans", "zh-Hant"),
        ("zh-Hant", "zh-Hans"),
        ("ja", "zh"),
    ],
)
def test_a_neighbour_in_the_same_script_is_refuted(written, asked):
    assert is_language(SENTENCES[written], asked) is False


def test_a_macro_code_answers_for_its_members():
    for code in ("zh-Hans", "zh-Hant"):
        assert is_language(SENTENCES[code], "zh") is True
        assert is_language(SENTENCES[code], "yue") is True
    for dialect in ("arz", "apc", "ars", "acm", "acq", "aeb", "ary"):
        assert is_language(SENTENCES["ar"], dialect) is True
    assert is_language("Hva slags dokumenter trenger leietakeren før depositumet utbetales?", "nn") is True
    assert is_language(SENTENCES["fa"], "prs") is True


def test_han_without_kana_is_never_japanese():
    text = "1987年货币危机怎样影响了出口行业的工资"
    assert detect(text).code == "zh-Hans"
    assert is_language(text, "ja") is False
    assert is_language("大阪 空港 設計 歴史", "ja") is None


@pytest.mark.parametrize(
    "text",
    [
        "日本国憲法草案の国会審議は何年8月？",
        "国際連合総会の第17回総会は何年",
        "世界と文化人類学、宗教経典類、宗教の経典、古来、民間伝承の関係は？",
        "東京大学医学部附属病院ト国際医療研究会議 開催地",
        "か\u3099 国立競技場改修工事費用総額予算",
    ],
)
def test_any_kana_settles_japanese(text):
    assert detect(text).code == "ja"
    assert is_language(text, "ja") is True
    assert is_language(text, "zh") is False


@pytest.mark.parametrize(
    "text", ["3代目三遊亭圓歌 真打 多菊千代 女性落語家 古今亭菊千代", "東京大学医学部附属病院 国際会議 開催地 参加費用"]
)
def test_japanese_names_without_kana_are_not_refuted(text):
    assert is_language(text, "ja") is None


@pytest.mark.parametrize(
    "text", ["鬼滅の刃 第二季 什么时候播出 在哪里可以观看", "优の良品 这个牌子的零食怎么样 值得买吗"]
)
def test_a_stray_kana_in_simplified_chinese_is_a_name(text):
    assert detect(text).code == "zh-Hans"
    assert is_language(text, "zh") is True


def test_keywords_in_english_are_not_refuted_by_a_small_chance():
    assert is_language("python how to dump to json file", "en") is not False


def test_chinese_full_of_latin_names_stays_chinese():
    text = "ThinkPad X220 BIOS 升级 无线 网卡 Intel AX200 Linux"
    assert is_language(text, "zh-Hans") is True
    assert is_language("How is the word 升级 used in Chinese manuals today?", "zh-Hans") is False


@pytest.mark.parametrize("text", ["", "   ", "12345 !!", "🙂🙂", "ok", "ThinkPad X220 BIOS"])
def test_what_cannot_be_told_is_neither_true_nor_false(text):
    assert is_language(text, "de") is None
    assert is_language(text, "ja") is None


def test_text_without_letters_is_undetermined():
    assert detect("2024 — 🙂").code == "und"
    assert detect("").confidence == 0.0


def test_a_relative_leaves_an_unknown_language_open_and_a_stranger_refutes_it():
    assert is_language(SENTENCES["pl"], "szl") is None
    assert is_language(SENTENCES["en"], "szl") is False


def test_newlines_links_and_long_texts_do_no_harm():
    text = "https://example.org/some/english/path\n\n" + "\n".join([SENTENCES["de"]] * 2000)
    assert detect(text).code == "de"
    assert detect(text) == detect(text)


@needs_shared
def test_recorded_queries_are_judged_rightly():
    lines = (SHARED / "data/recorded/recorded_dev.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["query"]]
    verdicts = [(row["fault"], is_language(row["query"], row["language"])) for row in rows]
    assert [verdict for fault, verdict in verdicts if fault == "wrong_language"] == [False] * 5
    assert False not in [verdict for fault, verdict in verdicts if fault != "wrong_language"]


@given(st.text(st.characters(max_codepoint=127)), st.booleans())
def test_text_of_plain_ascii_is_weighed_and_stripped_as_any_other_text_is(text, running):
    weights, longer = weigh_scripts(text, running=running), weigh_scripts(f"{text} é", running=running)
    assert longer["Latn"] == weights["Latn"] + 1
    assert only(f"{text} é", "Latn") == f"{only(text, 'Latn')} é".strip()


def test_a_text_in_capitals_is_not_taken_for_another_language():
    shouted = SENTENCES["en"].upper()
    assert detect(shouted).code == "en"
    assert detect(f"{shouted} (by law)").code == "en"
    assert is_language(shouted, "en") is True
