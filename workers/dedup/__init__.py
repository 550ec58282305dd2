"""Texts that need not be embedded: met before in the shard, or embedded by an earlier snapshot."""
