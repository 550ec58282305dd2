"""The job that embeds a corpus. `python -m jobs.embed CONFIG` runs it."""
