"""Ways to carry the steps over all shards of a run."""
