"""Texts that show whether vectors and scores are meaningful: an answer must beat an unrelated text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from synth.stage import ProbeResult

QUESTION = "How do I change a password that I have forgotten?"
ANSWER = "If you no longer know your password, choose “forgotten” on the login page and set a new one."
UNRELATED = "Spring tides follow the new and the full moon by about two days on this coast."
PROBE_PAIRS = ((QUESTION, ANSWER), (QUESTION, UNRELATED))
_NOISE = (
    "the answer to a question scores {:.2f}, an unrelated text {:.2f}: is this a reranker, served with the overrides "
    "and the chat template that it needs?"
)


def judge(server: str, scores: Sequence[float]) -> ProbeResult:
    """What the scores of `PROBE_PAIRS` show about a reranker; NaN is a pair without a score."""
    answer, unrelated = scores
    problems: tuple[str, ...] = ()
    if math.isnan(answer) or math.isnan(unrelated):
        problems = ("gives no score for a short question and a short text: is this a reranker?",)
    elif answer <= unrelated:
        problems = (_NOISE.format(answer, unrelated),)
    return ProbeResult(server, reachable=True, problems=problems, paraphrase=answer, unrelated=unrelated)
