"""Merging: the formulas against numpy, and whole models."""

import json

import numpy as np
import pytest
import tiny_qwen3

import synth
from synth import cli
from synth.errors import JobError, OutputError

QUERIES = ["where does the ferry go", "who bakes bread in Porto"]


def reference(one, other, t):
    """Slerp as mergekit defines it: directions decide the angle, above a cosine of 0.9995 it is linear."""
    a, b = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    cosine = np.sum(a / np.linalg.norm(a) * (b / np.linalg.norm(b)))
    if abs(cosine) > 0.9995:
        return ((1 - t) * a + t * b).reshape(one.shape)
    whole = np.arccos(cosine)
    part = whole * t
    return (np.sin(whole - part) / np.sin(whole) * a + np.sin(part) / np.sin(whole) * b).reshape(one.shape)


@pytest.mark.parametrize("distance", [0.0, 0.01, 0.5, 3.0, 100.0])
@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_slerp_is_that_of_the_definition(distance, t):
    import torch

    from synth.training.merge import slerp

    draw = np.random.default_rng(7)
    one = draw.normal(size=(40, 12)).astype(np.float32)
    other = one + distance * draw.normal(size=one.shape).astype(np.float32)
    found = slerp(torch.tensor(one), torch.tensor(other), t).numpy()
    assert found.dtype == np.float32
    assert np.abs(found - reference(one, other, t)).max() < 1e-5


def test_on_the_arc_lengths_stay_and_zeros_are_no_direction():
    import torch

    from synth.training.merge import slerp

    one, other = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    assert slerp(one, other, 0.5).norm().item() == pytest.approx(2)
    assert slerp(one, torch.zeros(2), 0.25).tolist() == [1.5, 0.0]


def in_full(folder):
    return tiny_qwen3.load(folder, model_kwargs={"dtype": "float32"})


@pytest.fixture(scope="module", name="models")
def two_models(tmp_path_factory):
    """A model and one with other weights; and the same change as LoRA adapters on the first."""
    import torch
    from peft import LoraConfig, TaskType

    folder = tmp_path_factory.mktemp("models")
    base = tiny_qwen3.write(folder, QUERIES)
    changed = in_full(base)
    changed.add_adapter(LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, r=2, target_modules="all-linear"))
    torch.manual_seed(1)
    for name, weight in changed.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
        elif "norm" in name:
            weight.data *= 1 + torch.rand_like(weight)
    changed.save_pretrained(str(folder / "adapters"), create_model_card=False)
    return base, folder / "adapters"


def weights(folder):
    return in_full(folder).state_dict()


def test_adapters_are_merged_first_and_the_mean_of_all_is_their_average(models, tmp_path):
    base, adapters = models
    whole = synth.merge([base, adapters], out=tmp_path / "whole", t=1)
    assert not (whole / "adapter_config.json").exists()
    with_adapters = in_full(adapters)
    merged = tiny_qwen3.load(whole)
    assert merged.prompts["query"] == tiny_qwen3.PROMPT
    assert np.abs(merged.encode_query(QUERIES) - with_adapters.encode_query(QUERIES)).max() < 1e-5
    mean = weights(synth.merge([base, whole, whole], out=tmp_path / "mean", by="mean"))
    first, second = weights(base), weights(whole)
    assert max((mean[key] - (first[key] + 2 * second[key]) / 3).abs().max().item() for key in mean) < 1e-6


def test_the_command_slerps_weights_and_averages_norms(models, tmp_path, capsys):
    import torch

    base, _ = models
    other = in_full(base)
    torch.manual_seed(2)
    for weight in other.parameters():
        weight.data += torch.randn_like(weight) * weight.std().nan_to_num(1)
    other.save_pretrained(str(tmp_path / "other"), create_model_card=False)
    out = tmp_path / "out"
    assert cli.main(["merge", str(base), str(tmp_path / "other"), "-o", str(out), "--t", "0.3"]) == 0
    assert str(out) in capsys.readouterr().out
    found, first, second = weights(out), weights(base), weights(tmp_path / "other")
    for key, value in found.items():
        one, two = first[key].numpy(), second[key].numpy()
        expected = one * 0.7 + two * 0.3 if "norm" in key else reference(one, two, 0.3)
        assert np.abs(value.numpy() - expected).max() < 1e-5, key
    record = json.loads((out / "train.json").read_bytes())
    assert record["by"] == "slerp"
    assert record["t"] == 0.3
    with pytest.raises(OutputError, match="already exists"):
        synth.merge([base, base], out=out)


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (3, {}, "slerp merges two models, not 3"),
        (1, {"by": "mean"}, "mean merges two or more models, not 1"),
        (2, {"by": "ties"}, "expects slerp or mean"),
        (2, {"t": 1.5}, "from 0 to 1"),
    ],
)
def test_what_cannot_be_merged_says_why(count, options, message, tmp_path):
    with pytest.raises(JobError, match=message):
        synth.merge(["model"] * count, out=tmp_path / "out", **options)
