"""A reranker behind vLLM's `/v1/score`."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from pydantic import Field

from synth.batching import Pairs
from synth.prompts import neutralise
from synth.rerank import Send, ServedReranker
from synth.servers.faults import TransientError, by_index
from synth.servers.http import VllmServers
from synth.servers.probe import PROBE_PAIRS
from synth.stage import ClientSettings, RerankStage

__all__ = ["VllmServerReranker"]

_PER_SERVER = 8


class VllmServerReranker(VllmServers, RerankStage):
    """One or more vLLM servers of the same reranker, such as Qwen3-Reranker.

    Qwen3-Reranker is a language model; vLLM reads P(yes) of {yes, no} off it when it is served so (one line):

    vllm serve Qwen/Qwen3-Reranker-0.6B --runner pooling
    --hf-overrides '{"architectures": ["Qwen3ForSequenceClassification"], "classifier_from_token": ["no", "yes"],
    "is_original_qwen3_reranker": true}' --chat-template prompts/reranker/qwen3_reranker.jinja

    The order no, yes and the template matter: without either the scores mean nothing, and vLLM reports no error.
    Cross-encoders that need neither are served with `--runner pooling` alone; they see no instruction.
    """

    model: str
    """The name under which the servers serve it."""
    max_tokens_per_doc: int | None = Field(default=None, gt=0)
    """Cut passages to this many tokens; null cuts none, and a pair that is too long for the model gets no score."""
    batch_size: int = Field(default=32, gt=0)
    """Pairs in one request."""

    def open(self, client: ClientSettings, instruction: str) -> ServedReranker:
        """A Reranker over these servers. Raises JobError when the key or CA file is missing."""
        pairs = PROBE_PAIRS[: self.batch_size]
        canary = self.body(pairs, instruction), partial(_scores, count=len(pairs))
        fleet = self.fleet("/score", client, per_server=_PER_SERVER)
        return ServedReranker(fleet, canary, self.batch_size, partial(self._ask, instruction))

    def body(self, pairs: Pairs, instruction: str) -> dict[str, Any]:
        """The request for some pairs; control tokens in the texts are broken up, the template's own stay."""
        body: dict[str, Any] = {
            "model": self.model,
            "queries": [neutralise(query)[0] for query, _ in pairs],
            "documents": [neutralise(document)[0] for _, document in pairs],
            "instruction": instruction,
        }
        if self.max_tokens_per_doc is not None:
            body["max_tokens_per_doc"] = self.max_tokens_per_doc
        return self.extended(body)

    async def _ask(self, instruction: str, pairs: Pairs, send: Send) -> list[float]:
        scores: list[float] = await send(self.body(pairs, instruction), partial(_scores, count=len(pairs)))
        return scores


def _scores(answer: Any, count: int) -> list[float]:
    """One score for each of `count` pairs, NaN where it is null or NaN.

    Raises TransientError when the answer is not scores, has none at all, or one outside 0..1.
    """
    found: list[float] = []
    for entry in by_index(answer, count, "score"):
        score = math.nan if entry.get("score") is None else entry["score"]
        if not isinstance(score, int | float) or score < 0 or score > 1:
            raise TransientError(f"HTTP 200 with a score of {score!r}; it must lie in 0..1")
        found.append(float(score))
    if all(map(math.isnan, found)):
        raise TransientError("HTTP 200 without a score")
    return found
