"""Text → clauses of tokens: what a phrase may consist of, in spaced scripts, Chinese, Japanese and Thai.

Segmentation here looks for terms; how long a query is, `synth.languages.count_words` alone decides.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from synth.llm._extractive.wording import Wording

if TYPE_CHECKING:
    from budoux import Parser

_NOISE = re.compile(r"https?://\S+|www\.\S+|\S+@\S+\.\S+|\[[^\]]{0,12}\]|[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")
_CLAUSE_END = re.compile(
    r"[.,:](?=\s|$)|[.](?=[^\w\s])|[;!?…()\[\]{}\"“”„«»‹›<>|=*~^`#\\@•·\n\t。，、！？；：「」『』（）《》〈〉【】،؟؛।॥။၊።]"
    r"|(?<=[\u3040-\u9fff])[.,:](?=[\u3040-\u9fff])|\s[-–—/&+]+\s|[–—]|--+|\s['’‘]|['’‘](?=\s|$)"
)
_EDGE = "'’‘-_/.,:+&%$£€§\u200b\u200e\u200f"
_ELISION = re.compile(r"\b((?:[ldjmtsnc]|qu|dell|all|dall|nell|sull|un)['’])(?=\w)", re.IGNORECASE)
_ALNUM = re.compile(r"[^\W_]")
_JAPANESE = re.compile(
    r"[\u3400-\u9fff々〆ヶ\u30a0-\u30fa\u30fc-\u30ffA-Za-z0-9０-９]+(?:[.・-](?=[A-Za-z0-9\u30a0-\u30ff]))*|[\u3041-\u309f]+"
)
_HIRAGANA = re.compile(r"[\u3041-\u309f]+")
_KANJI_LAST = re.compile("[\u3400-\u9fff]$")
_ENDING = re.compile("[はがをにのとでもへやだしさすせ]|か[らつ]|まで|より|など|くら|ほど")
_ENDING_OF_ONE = re.compile("[はがをにのとでもへや]")
_NO_TERM = "ー"
_LETTER_RUN = re.compile(r"[A-Za-z0-9.%+-]+|[^A-Za-z0-9\s]+")
_ARABIC_MARKS = re.compile("[\u064b-\u0652\u0670\u0640]")
_ARABIC_ARTICLE = re.compile("^(?:[وف]?[بكل]?ال|[وف]?لل)(?=..)")
_ARABIC_JOINED_ARTICLE = re.compile("^(?:(?:[وف][بك]?|[بك])ال|[وف]?لل)(?=...)")
_KOREAN_PARTICLE = re.compile(
    "(?<=[가-힣]{2})(?:에서는|으로는|에게는|에서|으로|에는|까지|부터|은|는|이|가|을|를|의|에|로|와|과|도)$"
)
_ROOT = 3  # letters that a word keeps when an ending or prefix is taken off
_LONGEST = 40  # characters of a token; longer ones are data, not words


class Kind(Enum):
    """Whether a token can be in a phrase, join two of its words, announce it, or end it."""

    CONTENT = 0
    CONNECTOR = 1
    ARTICLE = 2
    STOP = 3


class Token(NamedTuple):
    """A word as written, its key for counting (case, plural and Arabic prefixes folded), and its kind."""

    surface: str
    key: str
    kind: Kind


def clauses(text: str, words: Wording) -> Iterator[list[Token]]:
    """The clauses of a text in order, each a list of tokens; brackets, links and citation marks fall away."""
    plain = _NOISE.sub(" ", unicodedata.normalize("NFC", text))
    for piece in _CLAUSE_END.split(plain):
        tokens = list(_tokens(piece.strip(), words))
        if tokens:
            yield tokens


def join(surfaces: Iterable[str], words: Wording) -> str:
    """Words written one after the other as the script does it; an elided article clings to its noun."""
    if words.script in {"Hans", "Hant", "Jpan", "Thai", "Laoo", "Khmr", "Mymr"}:
        return re.sub(r"(?<=[A-Za-z0-9])\0(?=[A-Za-z0-9])", " ", "\0".join(surfaces)).replace("\0", "")
    text = " ".join(surfaces)
    if words.code == "en":
        return text.removesuffix("'s").removesuffix("’s")
    return text.replace("' ", "'").replace("’ ", "’")


def _tokens(piece: str, words: Wording) -> Iterator[Token]:
    script = words.script
    surfaces: Iterable[str]
    if script in {"Hans", "Hant", "Thai"}:
        surfaces = _segments(piece, script)
    elif script == "Jpan":
        surfaces = _japanese(piece)
    else:
        surfaces = (_ELISION.sub(r"\1 ", piece) if words.code in {"fr", "it"} else piece).replace("\u200b", " ").split()
    before: Token | None = None
    for raw in _unjoined(surfaces, words) if words.and_prefix else surfaces:
        token = _token(raw, words)
        if token is None:
            continue
        if before and token.kind is Kind.STOP and _named(token.surface, words):
            token = token._replace(kind=Kind.CONTENT)
        elif before and token.kind is Kind.CONTENT and _is_verb(token, before, words):
            token = token._replace(kind=Kind.STOP)
        yield token
        before = token


def _is_verb(token: Token, before: Token, words: Wording) -> bool:
    """Whether the word before betrays a verb: a pronoun, an auxiliary, or a plural noun that it does not agree with."""
    if not token.surface[0].islower():
        return False
    if before.surface.casefold() in words.verb_after:
        return True
    if not words.plural or before.kind is not Kind.CONTENT or not before.surface.islower():
        return False
    return before.surface[-1] in words.plural and token.surface[-1] not in words.plural


def _named(surface: str, words: Wording) -> bool:
    """Whether a capital inside a clause makes an ordinary word part of a name: `New York`, `United States`."""
    if words.script != "Latn" or words.nouns_capital or len(surface) < 3 or not surface[:1].isupper():  # noqa: PLR2004 - `In`
        return False
    return surface.casefold() not in words.verb_after


def _unjoined(surfaces: Iterable[str], words: Wording) -> Iterator[str]:
    """Arabic words without the `and` or preposition written onto them, each of which comes as a word of its own."""
    for surface in surfaces:
        prefix = _ARABIC_JOINED_ARTICLE.match(surface)
        if prefix and surface not in words.rooted:
            yield words.and_prefix
            yield "ال" + surface[prefix.end() :]
        elif len(surface) > _ROOT and surface.startswith(words.and_prefix) and surface not in words.rooted:
            yield words.and_prefix
            yield surface[1:]
        else:
            yield surface


def _token(raw: str, words: Wording) -> Token | None:
    elided = raw[-1:] in "'’"
    surface = raw if elided else raw.strip(_EDGE)
    if not _ALNUM.search(surface) or len(surface) > _LONGEST:
        return Token("", "", Kind.STOP) if surface else None
    if words.script == "Hang" and surface not in words.stop:
        surface = _KOREAN_PARTICLE.sub("", surface)
    lower = surface.casefold().replace("’", "'")
    if words.code == "en":
        lower = lower.removesuffix("'s")
    return Token(surface, _key(lower, words), _kind(surface, lower, words))


def _key(lower: str, words: Wording) -> str:
    if words.script == "Latn":
        return lower[:-1] if len(lower) > _ROOT and lower.endswith("s") and not lower.endswith("ss") else lower
    if words.script == "Arab":
        bare = _ARABIC_ARTICLE.sub("", _ARABIC_MARKS.sub("", lower))
        return bare.replace("أ", "ا").replace("إ", "ا").replace("آ", "ا").replace("ة", "ه").replace("ى", "ي")
    return lower


def _kind(surface: str, lower: str, words: Wording) -> Kind:
    if lower in words.connectors:
        return Kind.CONNECTOR
    if lower in words.articles:
        return Kind.ARTICLE
    if (
        lower in words.stop
        or (words.script == "Arab" and _ARABIC_MARKS.sub("", lower) in words.stop)
        or (len(lower) == 1 and words.script not in {"Hans", "Hant", "Jpan", "Thai"})
    ):
        return Kind.STOP
    if words.script == "Jpan" and (surface == _NO_TERM or _HIRAGANA.fullmatch(surface)):
        return Kind.STOP
    if words.breaks and not surface[0].isupper() and words.breaks.search(surface):
        return Kind.STOP
    return Kind.CONTENT


def _japanese(piece: str) -> Iterator[str]:
    """Runs of kanji, katakana and letters as terms; a verb or adjective loses its stem to the kana that ends it."""
    runs = _JAPANESE.findall(piece)
    for run, following in zip(runs, [*runs, ""][1:], strict=True):
        ending = _ENDING if len(run) > 1 else _ENDING_OF_ONE
        inflected = _KANJI_LAST.search(run) and _HIRAGANA.match(following) and not ending.match(following)
        yield _NO_TERM if inflected else run


def _segments(piece: str, script: str) -> Iterator[str]:
    for run in _LETTER_RUN.findall(piece):
        if run[0].isascii():
            yield run
        else:
            yield from _parser(script).parse(run)


@cache
def _parser(script: str) -> Parser:
    import budoux  # noqa: PLC0415 - loads its models, and spaced languages never need it

    if script == "Thai":
        thai: Parser = budoux.load_default_thai_parser()
        return thai
    name = "traditional" if script == "Hant" else "simplified"
    chinese: Parser = getattr(budoux, f"load_default_{name}_chinese_parser")()
    return chinese
