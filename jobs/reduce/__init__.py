"""The job that makes a snapshot of fewer components. `python -m jobs.reduce CONFIG` runs it."""
