"""The 119 languages of Qwen3: names and codes, how long a text is, and whether a text is in the language asked for.

`table.tsv` holds one row per language and is the place to correct a name, an alias or a code of the detector.
"""

from synth.languages.detection import Detected, detect, is_language
from synth.languages.table import Language, code_of, language, languages
from synth.languages.words import count_words, length_phrase

__all__ = [
    "Detected",
    "Language",
    "code_of",
    "count_words",
    "detect",
    "is_language",
    "language",
    "languages",
    "length_phrase",
]
