"""The local cross-encoder, on a model with random weights."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from synth.errors import JobError
from synth.registry import find
from synth.servers.probe import PROBE_PAIRS
from synth.stage import ClientSettings

pytestmark = pytest.mark.slow

PAIRS = [
    ("how tides rise", "Tides follow the moon."),
    ("rye bread", "Rye dough is sticky and rises slowly."),
    ("a", "b"),
]


def tiny(folder, labels=1):
    """A BERT of random weights with the tokenizer of the embedded model."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(find("embed", "sentence_transformers")().folder())
    torch.manual_seed(3)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer), num_labels=labels, **size)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def scores(model, pairs, **options):
    stage = find("rerank", "cross_encoder").model_validate({"model": model, "device": "cpu", **options})

    async def ask():
        opened = stage.open(ClientSettings(), "unused")
        try:
            return await opened.score(pairs)
        finally:
            await opened.close()

    return asyncio.run(ask())


def test_scores_are_the_sigmoid_of_the_models_logit(tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tiny(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = [model(**tokenizer(*pair, return_tensors="pt")).logits.item() for pair in PAIRS]
    assert scores(folder, PAIRS) == pytest.approx(1 / (1 + np.exp(-np.array(logits))), abs=1e-6)
    assert scores(folder, []).shape == (0,)


def test_a_model_that_is_no_reranker_is_refused(tmp_path):
    with pytest.raises(JobError, match="3 outputs"):
        scores(tiny(tmp_path / "model", labels=3), PAIRS)
    with pytest.raises(JobError, match="cannot be loaded"):
        scores(str(tmp_path / "missing"), PAIRS)


def test_the_probe_loads_the_model_and_says_whether_it_prefers_an_answer(tmp_path):
    folder = tiny(tmp_path / "model")
    stage = find("rerank", "cross_encoder").model_validate({"model": folder, "device": "cpu"})

    async def ask():
        opened = stage.open(ClientSettings(), "unused")
        try:
            return await opened.probe()
        finally:
            await opened.close()

    (found,) = asyncio.run(ask())
    assert found.server == folder
    assert [found.paraphrase, found.unrelated] == scores(folder, PROBE_PAIRS).tolist()
    assert bool(found.problems) == (found.paraphrase <= found.unrelated)
