"""Classification: a probe that is fitted over shards, k nearest neighbours, and the figures of both."""
