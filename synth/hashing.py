"""Seeds of draws, and hashes of runs of tokens.

Sampling is by position: every draw has its own seed, so the order of work cannot change it.
"""

from __future__ import annotations

import random
import re
import unicodedata
from functools import lru_cache
from hashlib import blake2b, sha256
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def item_seed(run_seed: int, stage: str, position: int, slot: int = 0, attempt: int = 0) -> int:
    """63-bit seed of one draw: the first 8 bytes of sha256 over the five values, top bit cleared (signed servers)."""
    text = f"{run_seed}/{stage}/{position}/{slot}/{attempt}".encode()
    return int.from_bytes(sha256(text).digest()[:8], "big") >> 1


def item_random(run_seed: int, stage: str, position: int, slot: int = 0, attempt: int = 0) -> random.Random:
    return random.Random(item_seed(run_seed, stage, position, slot, attempt))  # noqa: S311 - sampling, not secrets


Shingles = NDArray[np.uint64]

_UNSPACED = (
    "\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\U00020000-\U0003ffff"
)
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\s\u200b{_UNSPACED}]+")
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_STEP = np.uint64(0x9E3779B97F4A7C15)


def tokens(text: str) -> list[str]:
    """Words without the punctuation around them, and single characters of unspaced scripts; casefolded, in NFKC."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return [bare for token in _TOKEN.findall(folded) if (bare := _bare(token))]


def terms(text: str) -> list[str]:
    """Search terms of a text: casefolded words, in unspaced scripts characters and pairs of neighbours."""
    words = tokens(text)
    pairs = [a + b for a, b in pairwise(words) if len(a) == len(b) == 1 and not (a + b).isascii()]
    return words + pairs


def windows(text: str, size: int) -> Shingles:
    """Hashes of every run of `size` tokens, in order: uint64, never empty.

    A text of fewer tokens is one window, and so is a text without any, such as a row of dashes.
    """
    found = tokens(text) or [" ".join(text.split()).casefold()]
    hashes = np.array([_hash(token) for token in found], np.uint64)
    size = min(size, len(hashes))
    value = np.full(len(hashes) - size + 1, size, np.uint64)
    for offset in range(size):
        value = mix(value * _STEP + hashes[offset : offset + len(value)])
    return value


def shingles(text: str, size: int) -> Shingles:
    return np.unique(windows(text, size))


def jaccard(a: Shingles, b: Shingles) -> float:
    """Size of the intersection by size of the union of two ascending sets."""
    shared = np.intersect1d(a, b, assume_unique=True).size
    return float(shared / (a.size + b.size - shared))


def mix(value: Shingles) -> Shingles:
    """A bijection of 64-bit values that spreads every bit (the finaliser of SplitMix64, Steele et al. 2014)."""
    value = (value ^ (value >> np.uint64(30))) * _MIX[0]
    value = (value ^ (value >> np.uint64(27))) * _MIX[1]
    return np.asarray(value ^ (value >> np.uint64(31)), np.uint64)


@lru_cache(maxsize=1 << 17)
def _bare(token: str) -> str:
    return token.strip("".join(c for c in token if unicodedata.category(c)[0] in "PSZC"))


@lru_cache(maxsize=1 << 17)
def _hash(token: str) -> int:
    return int.from_bytes(blake2b(token.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
