"""Scorers that look at all shards together: their index is built once, when the last shard is generated."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from synth.run_folder import Run
from synth.scores import PassShard, Scorer
from synth.shards import disk
from synth.stage import Services
from synth.steps.generate import documents


@dataclass(frozen=True, slots=True)
class PassIndex:
    """A finished index, and for every shard how many pairs the shards before it hold."""

    folder: Path
    firsts: dict[int, int]


@dataclass(frozen=True, slots=True)
class GeneratedPass:
    """The shards of `generated/` as a `synth.scores.PassSource`, read one at a time."""

    run: Run
    firsts: dict[int, int]

    def shards(self) -> Iterator[PassShard]:
        """Every shard in the order of its index, with the distinct passages that its pairs may come from."""
        generated, passages = self.run.folder.step("generated"), self.run.folder.step("passages")
        for index, first in self.firsts.items():
            pairs = generated.read(index).table
            texts = pairs["passage"] if self.run.pairs else passages.read_columns(index, ["text"])["text"]
            yield PassShard(index, first, pairs, documents(texts.to_pylist()))


async def build(run: Run, scorer: Scorer, fingerprint: str, services: Services) -> PassIndex:
    """Build the index of a scorer of scope `pass`, or find it built; its folder names scorer and shards.

    Call it when every shard of the pass is generated. Raises what the scorer raises.
    """
    generated = run.folder.step("generated")
    firsts: dict[int, int] = {}
    inputs = hashlib.sha256()
    count = 0
    for index in sorted(generated.done()):
        firsts[index] = count
        count += generated.meta(index).rows_out
        inputs.update(f"{index}:{generated.checksum(index)}\n".encode())
    root = run.folder.path / "index"
    disk.make_folder(root)
    folder = root / f"{fingerprint}-{inputs.hexdigest()[:8]}"
    await scorer.build(GeneratedPass(run, firsts), folder, services)
    return PassIndex(folder, firsts)
