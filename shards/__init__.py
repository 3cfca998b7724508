"""The shard format: plan, pack, index, verify, read, stream, browse."""
