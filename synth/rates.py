"""GPU time of a run, from rates that somebody measured with Qwen3-32B; docs/scale.md has the measurements.

Two kinds. Our own were taken with the shipped prompts and tell prompt tokens that had to be computed from generated
ones. Published ones are all tokens a second without a prefix cache, for a mix with few replies and one with many.
"""

from __future__ import annotations

from dataclasses import dataclass

from synth.errors import JobError

MODEL = "Qwen3-32B"


@dataclass(frozen=True, slots=True)
class GpuTime:
    """GPU-hours of all GPUs together, from `low` to `high`, and where the rates are from."""

    low: float
    high: float
    source: str


@dataclass(frozen=True, slots=True)
class _Own:
    """Prompt tokens computed and tokens generated a second; the measurements lie within `off` of them."""

    computed: float
    generated: float
    off: float
    source: str

    def hours(self, computed: float, generated: float) -> tuple[float, float]:
        found = (computed / self.computed + generated / self.generated) / 3600
        return found * (1 - self.off), found * (1 + self.off)


@dataclass(frozen=True, slots=True)
class _Published:
    """All tokens a second, of the mix that was served fastest and slowest."""

    fastest: float
    slowest: float
    source: str

    def hours(self, computed: float, generated: float) -> tuple[float, float]:
        tokens = (computed + generated) / 3600
        return tokens / self.fastest, tokens / self.slowest


_LAB = "published by GPUStack's performance lab"
_MIXES = "2,000 tokens in and 100 out, and ShareGPT"
_RATES: dict[tuple[str, str], _Own | _Published] = {
    ("h200", "bf16"): _Own(9350, 5310, 0.08, "measured with the shipped prompts on vLLM 0.24, 256 calls in flight"),
    ("h100", "bf16"): _Published(3195, 2353, f"{_LAB} with vLLM 0.11: {_MIXES}"),
    ("h100", "fp8"): _Published(5902, 4285, f"{_LAB} with TensorRT-LLM: {_MIXES}"),
    ("a100", "bf16"): _Published(2521, 1857, f"{_LAB}: 2,000 in and 100 out; ShareGPT scaled as on the H100"),
}


def gpu_time(gpu: str, precision: str, computed: float, generated: float) -> GpuTime:
    """GPU-hours for so many prompt tokens to compute and tokens to generate.

    Raises JobError, naming the rates that there are, where nobody measured this GPU at this precision.
    """
    rate = _RATES.get((gpu, precision))
    if rate is None:
        known = ", ".join(f"--gpu {name} --precision {number}" for name, number in _RATES)
        raise JobError(f"no rate was measured of {gpu} at {precision}.", f"There are: {known}.")
    low, high = rate.hours(computed, generated)
    return GpuTime(low, high, rate.source)
