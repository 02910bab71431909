"""Cross-encoder relevance probability of a passage for its query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pyarrow as pa

from synth.batching import rerank_all
from synth.registry import NestedReranker
from synth.scores._scorer import PairBatch, ScoreColumn, Scorer
from synth.stage import ChatModel, ClientSettings, Encoder, Reranker, Services

__all__ = ["RerankerScore"]


class RerankerScore(Scorer):
    """P(yes) of a reranker for query and passage, 0 to 1; null where it refuses the pair or gives no verdict.

    `model` names it as `llm` and `embed` do theirs: {use: vllm_server, model: Qwen/Qwen3-Reranker-0.6B, base_urls:
    [http://localhost:8200/v1]}, {use: chat_logprobs, …} or {use: cross_encoder, …}; see `synth list rerank`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reranker"})
    outputs = (ScoreColumn("reranker", pa.float64(), low=0.0, high=1.0),)

    model: NestedReranker
    """The reranker and where it runs."""
    instruction: str | None = None
    """What a good passage does for the query, one English sentence; null takes the task's."""

    def open(self, client: ClientSettings, instruction: str) -> Mapping[str, ChatModel | Encoder | Reranker]:
        return super().open(client, self.instruction or instruction)

    async def score(self, batch: PairBatch, services: Services) -> pa.Table:
        """Score each distinct pair once."""
        assert services.reranker is not None  # noqa: S101 - this scorer brings its own
        rows = list(zip(batch.texts("query"), batch.texts("passage"), strict=True))
        found = await rerank_all(services.reranker, rows, batch.remember)
        return self.table([found[row] for row in rows])
