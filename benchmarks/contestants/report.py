"""Runs of all rounds -> the figures that are kept: medians, spread, cosines, ratios. Pure; measures nothing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.contestants.roster import Contestant

Runs = Sequence[Mapping[str, Mapping[str, Any]]]
"""One mapping a round: contestant -> its result, or {"failed": why}."""
_SERIES = ("cpu_seconds", "rows", "distinct_ids", "missing_ids", "cosine_min", "cosine_mean", "top10_overlap")


def summarise(
    contestants: Sequence[Contestant], rounds: Runs, packages: Mapping[str, Mapping[str, str]], tokens: int
) -> dict[str, Any]:
    """Figures of every contestant (lists have one entry a round, null where it failed), and ratios."""
    rows = {who.name: _figures(who, rounds, packages[who.name], tokens) for who in contestants}
    ours = [who.name for who in contestants if who.ours]
    peers = [who.name for who in contestants if not who.ours]
    return {
        "rounds": len(rounds),
        "contestants": rows,
        "ratios": {mine: {peer: _ratio(mine, peer, rows) for peer in peers} for mine in ours},
        "failures": [run["failed"] for runs in rounds for run in runs.values() if "failed" in run],
    }


def _figures(who: Contestant, rounds: Runs, packages: Mapping[str, str], tokens: int) -> dict[str, Any]:
    runs = [runs[who.name] for runs in rounds]
    seconds = [run.get("seconds") for run in runs]
    good = [value for value in seconds if value is not None]
    median = round(statistics.median(good), 3) if good else None
    return {
        "title": who.title,
        "seconds": seconds,
        "median_seconds": median,
        "spread_seconds": [min(good), max(good)] if good else None,
        "tokens_per_second": round(tokens / median) if median else None,
        **{name: [run.get(name) for run in runs] for name in _SERIES},
        "settings": dict(who.settings),
        "note": next((run["note"] for run in reversed(runs) if "note" in run), None),
        "versions": dict(packages),
    }


def _ratio(mine: str, peer: str, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float] | None:
    """How many times the peer's seconds are ours: of the medians, and the least and most of any round."""
    both = zip(rows[mine]["seconds"], rows[peer]["seconds"], strict=True)
    each = [theirs / own for own, theirs in both if own and theirs]
    if not each:
        return None
    of_medians = rows[peer]["median_seconds"] / rows[mine]["median_seconds"]
    return {"median": round(of_medians, 3), "min": round(min(each), 3), "max": round(max(each), 3)}


def line(run: Mapping[str, Any]) -> str:
    """One run, as it ends."""
    return f"{run['seconds']:8.1f} s {run['cpu_seconds']:8.1f} CPU s" if "seconds" in run else f"FAILED {run['failed']}"


def table(result: Mapping[str, Any]) -> str:
    """The whole, for a terminal."""
    lines = [f"{result['rows']:,} rows, {result['tokens']:,} tokens, {result['rounds']} rounds"]
    for name, row in result["contestants"].items():
        if row["median_seconds"] is None:
            lines.append(f"{name:<28} failed")
            continue
        low, high = row["spread_seconds"]
        ratios = [f"{each[name]['median']:.2f}x" for each in result["ratios"].values() if each.get(name)]
        cosine = min(value for value in row["cosine_min"] if value is not None)
        lines.append(
            f"{name:<28} {row['median_seconds']:8.1f} s ({low:.1f}-{high:.1f}) {row['tokens_per_second']:>9,} tok/s  "
            f"cosine >= {cosine:.5f}  {' '.join(ratios)}"
        )
    return "\n".join(lines)
