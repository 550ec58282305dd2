"""The names under which Ray exports our metrics to Prometheus."""

from __future__ import annotations

from jobs.monitoring.metrics import Kind, Metric


def exported(metric: Metric) -> str:
    """Ray prefixes every name, and appends _total to a counter's; tests/integration holds that against a running Ray."""
    return f"ray_{metric.name}" + ("_total" if metric.kind is Kind.COUNTER else "")
