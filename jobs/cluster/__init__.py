"""The job that divides a snapshot into clusters. `python -m jobs.cluster CONFIG` runs it."""
