"""Index files of a snapshot (HNSW graphs of usearch): built shard by shard, measured against exact search, and searched."""
