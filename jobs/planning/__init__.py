"""Which run a command means, and what a new run consists of: shards, reuse, estimate."""
