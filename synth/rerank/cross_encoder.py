"""A cross-encoder in this process, by sentence-transformers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from synth.batching import Pairs
from synth.errors import JobError
from synth.process import OneThread, loading
from synth.servers.probe import PROBE_PAIRS, judge
from synth.stage import ClientSettings, ProbeResult, RerankStage

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

__all__ = ["CrossEncoderReranker"]


class CrossEncoderReranker(RerankStage):
    """A sentence-transformers CrossEncoder with one output, on this machine; its logit goes through a sigmoid.

    Such models read query and passage only: the instruction has no effect. Texts longer than the model reads are cut.
    """

    tuning: ClassVar[frozenset[str]] = frozenset({"device"})

    model: str
    """A folder, or a name on the hub such as cross-encoder/ms-marco-MiniLM-L6-v2."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    max_length: int | None = Field(default=None, gt=0)
    """Tokens of a pair that are read; null for the model's own limit."""
    batch_size: int = Field(default=32, gt=0)
    """Pairs in one forward pass; it changes the last bits of scores."""
    device: str | None = None
    """`cpu`, `cuda`, `mps`, …; null takes the best available."""

    @property
    def gpus(self) -> int:
        return int((self.device or "").startswith("cuda"))

    def open(self, client: ClientSettings, instruction: str) -> LocalReranker:  # noqa: ARG002 - the seam's signature
        return LocalReranker(self)


class LocalReranker:
    """A Reranker in this process: one call at a time, in a thread."""

    def __init__(self, options: CrossEncoderReranker) -> None:
        self.batch_size = options.batch_size
        self._options = options
        self._thread = OneThread("reranker")
        self._model: CrossEncoder | None = None

    async def score(self, pairs: Pairs) -> NDArray[np.float64]:
        return await self._thread.run(self._score, list(pairs))

    async def probe(self) -> list[ProbeResult]:
        name = self._options.model
        return [replace(judge(name, (await self.score(PROBE_PAIRS)).tolist()), models=(name,))]

    async def close(self) -> None:
        self._model = None
        self._thread.close()

    def _score(self, pairs: list[tuple[str, str]]) -> NDArray[np.float64]:
        model = self._loaded()
        import torch  # noqa: PLC0415 - heavy, only this reranker needs it

        values = model.predict(
            pairs,
            batch_size=self._options.batch_size,
            show_progress_bar=False,
            activation_fn=torch.nn.Sigmoid(),
            convert_to_numpy=True,
        )
        return np.asarray(values, np.float64).reshape(len(pairs))

    def _loaded(self) -> CrossEncoder:
        if self._model is not None:
            return self._model
        options = self._options
        with loading("rerank cross_encoder", options.model):
            from sentence_transformers import CrossEncoder  # noqa: PLC0415 - as above

            model = CrossEncoder(
                options.model,
                revision=options.revision,
                max_length=options.max_length,
                device=options.device,
                trust_remote_code=False,
            )
        if model.num_labels != 1:
            what = f"field model: {options.model!r} has {model.num_labels} outputs, a reranker has one."
            raise JobError(what, "Name a cross-encoder trained for ranking.")
        self._model = model
        return model
