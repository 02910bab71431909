"""The commit protocol: a shard exists or it does not, whatever crashes, and however many processes write.

`OutputFolder` → `StepFolder` → shards. Below them, one idea a module: `shard` (table and record ↔ the same bytes),
`journal` (finished model calls of an open shard), `tree` (names that stay inside the folder), `disk` (write aside,
sync, link, sync).
"""

from synth.shards.folder import OutputFolder
from synth.shards.journal import Journal
from synth.shards.shard import Origin, Shard, ShardMeta
from synth.shards.step import StepFolder

__all__ = ["Journal", "Origin", "OutputFolder", "Shard", "ShardMeta", "StepFolder"]
