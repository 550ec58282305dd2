"""The job that builds index files for a snapshot. `python -m jobs.index CONFIG` runs it."""
