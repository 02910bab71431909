"""The `keep:` mapping of a job: which pairs are good enough, read from stored columns without any model call."""

from synth.rules.conditions import Mask
from synth.rules.ruleset import Rules, Verdict, known_columns

__all__ = ["Mask", "Rules", "Verdict", "known_columns"]
