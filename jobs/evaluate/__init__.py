"""The job that says what a snapshot's vectors are worth: one module a task. `python -m jobs.evaluate CONFIG` runs it."""
