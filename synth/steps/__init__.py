"""The steps of a run, each a function over one shard: passages → generated → scores/* → kept."""
