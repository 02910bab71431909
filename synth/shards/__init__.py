"""The commit protocol: a shard exists or it does not, whatever crashes, and however many processes write.

`OutputFolder` → `StepFolder` → shards (`folder`). Below them, one idea a module: `shard` (table and record ↔ the same
bytes), `journal` (finished model calls of an open shard), `disk` (write aside, sync, link, sync).
"""

from synth.shards.folder import OutputFolder, StepFolder
from synth.shards.journal import Journal
from synth.shards.shard import Origin, Shard, ShardMeta

__all__ = ["Journal", "Origin", "OutputFolder", "Shard", "ShardMeta", "StepFolder"]
