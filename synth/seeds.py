"""Sampling is by position: every draw has its own seed, so no order of work can change it."""

from __future__ import annotations

import hashlib
import random


def item_seed(run_seed: int, stage: str, position: int, slot: int = 0, attempt: int = 0) -> int:
    """63-bit seed of one draw: the first 8 bytes of sha256 over the five values, top bit cleared (signed servers)."""
    text = f"{run_seed}/{stage}/{position}/{slot}/{attempt}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def item_random(run_seed: int, stage: str, position: int, slot: int = 0, attempt: int = 0) -> random.Random:
    """A generator private to one draw."""
    return random.Random(item_seed(run_seed, stage, position, slot, attempt))  # noqa: S311 - sampling, not secrets
