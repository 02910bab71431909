"""The loss of the Qwen3-Embedding report (arXiv 2506.05176, section 3.2), for sentence-transformers.

InfoNCE whose denominator has, for query i with positive d⁺ᵢ: the positive itself, every document of the batch, the
other queries (against qᵢ), and the documents of the others (against d⁺ᵢ). A term is left out when its similarity
exceeds s(qᵢ, d⁺ᵢ) + margin, because it is then probably a false negative, or when its document equals d⁺ᵢ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.gradcache import CachedLossMixin
from sentence_transformers.base.losses.merged_forward import embed_columns
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F  # noqa: N812 - torch's own name for it


def masked_info_nce(
    queries: Tensor, documents: Sequence[Tensor], same: Tensor, *, temperature: float, margin: float | None
) -> Tensor:
    """The mean loss over a batch, a scalar.

    `queries` is (n, width); `documents[0]` are the positives, the others hard negatives, each (n, width). `same` is (n,
    n · columns), the columns one after the other: whether a document is the same text as the positive of query i. A
    query whose own negative is the same text as its positive has none there: that document counts for no query.
    `temperature` divides cosines. Without a `margin` the loss is plain InfoNCE: only equal texts are masked, and
    neither queries nor documents are compared among themselves.

    Cosines and loss are in float32, or in float64 where queries are: under bfloat16 autocast gradients are off by 5 to
    12 % at temperatures of .01 to .02.
    """
    with torch.autocast(queries.device.type, enabled=False):
        wide = torch.float64 if queries.dtype == torch.float64 else torch.float32
        q, d = (F.normalize(each.to(wide), dim=-1) for each in (queries, torch.cat(list(documents))))
        n = len(q)
        own = torch.eye(n, dtype=torch.bool, device=q.device)
        owner = own.repeat(1, len(documents))
        padding = (same & owner).any(0)
        padding[:n] = False
        excluded = same | padding
        q_d = q @ d.T
        positive = q_d.diagonal()[:, None]
        terms = [positive, q_d]  # the positive is the "same" text in q_d, and comes as column 0 instead
        left_out = [torch.zeros_like(own[:, :1]), excluded]
        if margin is not None:
            q_q, d_d = q @ q.T, d[:n] @ d.T
            limit = positive.detach() + margin
            terms += [q_q, d_d]
            left_out = [
                left_out[0],
                excluded | (q_d.detach() > limit),
                own | (q_q.detach() > limit),
                excluded | owner | (d_d.detach() > limit),
            ]
        logits = torch.cat(terms, 1).masked_fill(torch.cat(left_out, 1), -torch.inf) / temperature
        return F.cross_entropy(logits, torch.zeros(n, dtype=torch.long, device=q.device))


def same_text(features: Sequence[dict[str, Tensor]]) -> Tensor:
    """`same` of `masked_info_nce`, from the tokens of queries and documents: dropout gives one text two vectors."""
    numbers: dict[tuple[int, ...], int] = {}
    codes = [
        numbers.setdefault(tuple(ids[mask.bool()].tolist()), len(numbers))
        for column in features[1:]
        for ids, mask in zip(column["input_ids"].cpu(), column["attention_mask"].cpu(), strict=True)
    ]
    found = torch.tensor(codes, device=features[0]["input_ids"].device)
    return found[: len(features[0]["input_ids"]), None] == found


class MaskedLoss(CachedLossMixin, Module):  # type: ignore[misc]  # both are untyped here
    """`masked_info_nce` over the columns query, positive, negatives.

    With a `mini_batch_size`, texts are embedded in mini-batches twice (GradCache, arXiv 2101.06983), so that the batch
    may be larger than what fits in memory; loss and gradients are the same.
    """

    def __init__(
        self, model: SentenceTransformer, temperature: float, margin: float | None, mini_batch_size: int | None = None
    ) -> None:
        super().__init__()
        self.model, self.temperature, self.margin = model, temperature, margin
        self.uses_gradient_cache = mini_batch_size is not None
        self.mini_batch_size = mini_batch_size or 0

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """The loss of a batch of tokenized columns: queries, positives, negatives."""
        features = [dict(each) for each in sentence_features]
        self._same = same_text(features)
        if self.uses_gradient_cache:
            return self.forward_cached(features, labels)
        queries, *documents = embed_columns(self.model, features)
        return self._loss(queries, documents)

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        """What GradCache asks for: the loss of the mini-batches' vectors."""
        del labels
        queries, *documents = (torch.cat(each) for each in reps)
        loss = self._loss(queries, documents)
        if with_backward:
            loss.backward()
            loss = loss.detach()
        return loss

    def get_config_dict(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "margin": self.margin}

    def _loss(self, queries: Tensor, documents: Sequence[Tensor]) -> Tensor:
        return masked_info_nce(queries, documents, self._same, temperature=self.temperature, margin=self.margin)
