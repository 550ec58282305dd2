"""The job that finds near-duplicates in a snapshot. `python -m jobs.dedup CONFIG` runs it."""
