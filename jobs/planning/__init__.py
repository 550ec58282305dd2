"""Planning: which run a command resumes or begins, and the shards, reuse and estimate of a new run."""
