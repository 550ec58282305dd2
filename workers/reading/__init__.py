"""A shard -> windows of documents, and the rows that are quarantined."""
