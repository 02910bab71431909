"""A chat model as reranker: P(yes) from the log-probabilities of the reply's first token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field

from synth.batching import Pairs
from synth.errors import RequestRejected
from synth.prompts import neutralise
from synth.rerank import Send, ServedReranker
from synth.servers.faults import TransientError
from synth.servers.probe import PROBE_PAIRS
from synth.servers.sdk import Provider
from synth.stage import ClientSettings, RerankStage

__all__ = ["ChatLogprobsReranker"]

_SLOTS = 64
_SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
"""As Qwen3-Reranker was trained with; other models understand it too."""
_NEGLIGIBLE = 1e-3


class ChatLogprobsReranker(Provider, RerankStage):
    """Any OpenAI-compatible chat server that returns log-probabilities, asked yes or no with Qwen3-Reranker's prompt.

    The score is P(yes) over {yes, no}, adding up spellings that differ in case or space. When one of the two is not
    among the tokens that the server lists, more are requested; if it is still missing and could change the score by
    more than 0.001, the pair gets no score.
    """

    model: str
    """The name by which the server knows it."""
    top_logprobs: int = Field(default=5, ge=2, le=128)
    """Tokens to list at first."""
    most_logprobs: int = Field(default=20, ge=2, le=128)
    """Tokens to list when yes or no is missing."""
    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    """What the server calls it; older ones know only `max_tokens`."""
    extra_body: dict[str, Any] = Field(default_factory=lambda: {"chat_template_kwargs": {"enable_thinking": False}})
    """Further fields of the request; {} for OpenAI itself, which rejects fields it does not know. They replace ours of
    the same name, and null leaves one of ours out."""
    cures: ClassVar[Mapping[str, str]] = {
        "max_completion_tokens": "max_tokens_field: max_tokens",
        "max_tokens": "max_tokens_field: max_completion_tokens",
    }

    def open(self, client: ClientSettings, instruction: str) -> ServedReranker:
        """A Reranker over this server. Raises JobError when the key or CA file is missing."""
        canary = self.body(*PROBE_PAIRS[0], instruction, self.most_logprobs), _verdict
        fleet = self.fleet("chat", client, slots=_SLOTS)
        return ServedReranker(fleet, canary, 1, partial(self._ask, instruction))

    def body(self, query: str, document: str, instruction: str, listed: int) -> dict[str, Any]:
        """The request for one pair, with so many tokens listed."""
        asked = f"<Instruct>: {instruction}\n<Query>: {neutralise(query)[0]}\n<Document>: {neutralise(document)[0]}"
        body = {
            "model": self.model,
            "messages": [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": asked}],
            "temperature": 0.0,
            self.max_tokens_field: 1,
            "logprobs": True,
            "top_logprobs": listed,
        }
        return self.extended(body)

    async def _ask(self, instruction: str, pairs: Pairs, send: Send) -> list[float]:
        return [await self._verdict(instruction, pair, send) for pair in pairs]

    async def _verdict(self, instruction: str, pair: tuple[str, str], send: Send) -> float:
        listed = self.top_logprobs
        while True:
            score = p_yes(await send(self.body(*pair, instruction, listed), _first_token))
            if score is not None:
                return score
            if listed >= self.most_logprobs:
                raise RequestRejected("score", f"yes or no is not among the {listed} likeliest tokens")
            listed = self.most_logprobs


def p_yes(listed: Mapping[str, float]) -> float | None:
    """P(yes) over {yes, no} from token log-probabilities; None when a missing one could matter.

    A token that is not listed is at most as likely as the least likely one that is.
    """
    sums = {"yes": 0.0, "no": 0.0}
    for token, logprob in listed.items():
        word = token.strip().strip("\u2581\u0120").casefold()
        if word in sums:
            sums[word] += math.exp(logprob)
    total = sums["yes"] + sums["no"]
    least = math.exp(min(listed.values(), default=0.0))
    if not total or (not all(sums.values()) and least > _NEGLIGIBLE * total):
        return None
    return sums["yes"] / total


def _verdict(answer: Any) -> float:
    score = p_yes(_first_token(answer))
    if score is None:
        raise RequestRejected("score", "yes or no is not among the likeliest tokens")
    return score


def _first_token(answer: Any) -> dict[str, float]:
    """Log-probabilities of the first token by text.

    Raises TransientError when the answer is not a completion and RequestRejected when it has no log-probabilities.
    """
    try:
        logprobs = answer["choices"][0].get("logprobs") or {}
        if not (content := logprobs.get("content")):
            raise RequestRejected("score", "the server returns no log-probabilities")
        listed = [(each["token"], float(each["logprob"])) for each in content[0].get("top_logprobs") or content[:1]]
    except (AttributeError, TypeError, ValueError, LookupError):
        raise TransientError("HTTP 200 with something that is not a chat completion with log-probabilities") from None
    found: dict[str, float] = {}
    for token, logprob in listed:
        if not isinstance(token, str) or math.isnan(logprob):
            raise TransientError("HTTP 200 with damaged log-probabilities")
        found[token] = max(logprob, found.get(token, -math.inf))
    return found
