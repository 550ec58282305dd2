"""Index files of a snapshot (HNSW graphs of usearch): built by groups of shards, measured against exact search, searched."""
