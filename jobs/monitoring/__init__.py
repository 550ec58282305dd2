"""The progress display, status.json and Prometheus metrics of a running job."""
