"""The progress display, status.json, Prometheus metrics and lineage events of a running job."""
