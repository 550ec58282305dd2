"""Passes over the vectors of a snapshot: what each shard answers, and the parts that are derived from its parts."""
