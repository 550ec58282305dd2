"""The record of a finished run: summary.json and report.html."""
