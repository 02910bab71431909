"""How long the search for the nearest personas takes: `python benchmarks/personas.py [personas] [passages] [width]`."""

import sys
import time

import numpy as np

from synth.personas import nearest


def unit(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    vectors = rng.standard_normal((count, width), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def main(personas: int = 50_000, passages: int = 500, width: int = 384) -> None:
    rng = np.random.default_rng(0)
    library, texts = unit(rng, personas, width), unit(rng, passages, width)
    runs = []
    for _ in range(5):
        begun = time.perf_counter()
        nearest(texts, library, 5)
        runs.append(time.perf_counter() - begun)
    print(
        f"{personas:,} personas x {passages:,} passages, width {width}: best {min(runs):.2f} s, worst {max(runs):.2f} s"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
