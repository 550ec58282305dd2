"""Index files of a snapshot (HNSW graphs of usearch): built for groups of shards, measured against exact search, searched."""
