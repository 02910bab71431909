"""Numbers of two texts in different languages: what counts as the same. All sentences were written for these tests."""

import pytest

from synth.languages.numbers import has_number, same_numbers
from synth.languages.translation import length_ratio, most_characters

SAME = [
    ("en", "It costs 1,250.50 euros.", "de", "Es kostet 1.250,50 Euro."),
    ("en", "About 1,250,000 people live there.", "fr", "Environ 1 250 000 personnes y vivent."),
    ("en", "The index rose by 12.5 points.", "hi", "सूचकांक १२.५ अंक बढ़ा।"),
    ("en", "He was born on October 10, 1972.", "ko", "그는 1972년 10월 10일에 태어났다."),
    ("en", "The meeting is on 3 May 2024.", "pl", "Spotkanie jest 03.05.2024."),
    ("en", "We meet at 2:30.", "es", "Nos vemos a las 14:30."),
    ("de", "Wir treffen uns um halb drei.", "en", "We meet at 2:30."),
    ("en", "The train leaves at 7.", "ru", "Поезд отходит в семь."),
    ("en", "The city has 3 million inhabitants.", "ja", "その町の人口は300万人です。"),
    ("en", "It took 45 minutes.", "de", "Es dauerte fünfundvierzig Minuten."),
    ("fr", "Il a vingt et un ans.", "en", "He is 21 years old."),
    ("en", "She read it in the twentieth century.", "es", "Lo leyó en el siglo XX."),
    ("en", "Read chapter 8.", "ru", "Прочтите главу VIII."),
    ("en", "There are 25 rooms.", "ar", "هناك ٢٥ غرفة."),
    ("en", "Eighteen ships came.", "tr", "On sekiz gemi geldi."),
    ("pl", "Mieszkają tu cztery koty i pięć psów.", "en", "Four cats and five dogs live here."),
    ("en", "The road is 2 km long.", "zh-Hans", "这条路长两公里。"),
    ("en", "Nobody came.", "de", "Niemand kam."),
    ("en", "He has 1 dog.", "fr", "Il a un chien."),
    ("en", "I see both of them.", "fr", "Je vois les deux."),
]
OTHER = [
    ("en", "It costs 1,250.50 euros.", "de", "Es kostet 1.520,50 Euro."),
    ("en", "He was born on October 10, 1972.", "ko", "그는 1973년 10월 10일에 태어났다."),
    ("en", "We meet at 2:30.", "es", "Nos vemos a las 3:30."),
    ("de", "Wir treffen uns um halb drei.", "en", "We meet at 4:30."),
    ("en", "The city has 3 million inhabitants.", "ja", "その町の人口は3万人です。"),
    ("en", "It took 45 minutes.", "de", "Es dauerte sechsundvierzig Minuten."),
    ("fr", "Il a vingt et un ans.", "en", "He is 22 years old."),
    ("en", "There are 25 rooms.", "ar", "هناك ٥٢ غرفة."),
    ("en", "There are rooms.", "de", "Es gibt 25 Zimmer."),
    ("pl", "Mieszkają tu cztery koty i pięć psów.", "en", "Four cats and six dogs live here."),
    ("en", "Seven ships came.", "de", "Schiffe kamen."),
]


@pytest.mark.parametrize("pair", SAME)
def test_the_same_numbers_are_found_however_they_are_written(pair):
    code, text, other, translation = pair
    assert same_numbers(text, code, translation, other) is True
    assert same_numbers(translation, other, text, code) is True


@pytest.mark.parametrize("pair", OTHER)
def test_another_number_is_found(pair):
    code, text, other, translation = pair
    assert same_numbers(text, code, translation, other) is False
    assert same_numbers(translation, other, text, code) is False


@pytest.mark.parametrize(
    ("text", "other", "translation"),
    [
        ("The train leaves at 2:30.", "fr", "Le train part dans l'après-midi."),  # words tell times in many ways
        ("We have 25 rooms.", "scn", "Avemu vinticincu càmmari."),  # words of a language that is not known
    ],
)
def test_what_cannot_be_told_is_null(text, other, translation):
    assert same_numbers(text, "en", translation, other) is None


def test_words_count_as_numbers_where_they_mean_little_else():
    assert has_number("It has ٣ rooms.", "en")
    assert has_number("It has three rooms.", "en")
    assert not has_number("Perché non sei venuto?", "it")
    assert not has_number("One of us came.", "en")


def test_the_length_of_a_translation_is_measured_in_its_script():
    text = "Lichens grow on bare rock where no plant finds soil, and they grow very slowly."
    chinese = "地衣生长在植物找不到土壤的裸岩上，而且生长得非常缓慢。"
    ratio, usual = length_ratio(text, "en", chinese, "zh-Hans")
    assert usual
    assert 0.7 < ratio < 1.4
    assert length_ratio(chinese, "zh-Hans", text, "en")[0] == pytest.approx(1 / ratio)
    assert not length_ratio(text, "en", chinese[:8], "zh-Hans")[1]
    assert 2 * len(chinese) < most_characters(text, "en", "zh-Hans") < 2 * len(text)
