"""What vectors are worth on labelled rows: steps, a distributed probe, and metrics that are summed over shards."""
