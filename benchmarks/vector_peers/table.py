"""The table of docs/benchmarks.md for one result of benchmarks/vector_peers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.vector_peers.roster import ROSTER

HEADER = ("task", "", "quality", "CPU s", "peak MiB", "before the work")


def told(result: Mapping[str, Any]) -> str:
    """What the table is of."""
    return (
        f"{result['rows']:,} vectors of {result['dim']} components ({result['model']}) of {result['corpus']}; trained on "
        f"{result['training_rows']:,} rows, tested on the others; {result['clusters']} clusters; a sample of "
        f"{result['sample']:,} rows; pairs >= {result['threshold']}; each contestant a process of its own on one thread, "
        f"medians of {result['rounds']} rounds"
    )


def rows_of(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """In the order of the roster."""
    contestants = result["contestants"]
    least = contestants.get("faiss_kmeans", {}).get("inertia")
    rows = []
    for who in ROSTER:
        found = contestants.get(who.function)
        if found is None:
            continue
        memory = tuple(f"{found[name]:,.0f}" for name in ("peak_mib", "before_mib"))
        rows.append((who.task, who.title, _quality(found, least), f"{found['cpu_seconds']:,.1f}", *memory))
    return rows


def _quality(found: Mapping[str, Any], least: float | None) -> str:
    """In words, by what was measured."""
    told = []
    if "macro_f1" in found:
        told.append(f"macro-F1 {found['macro_f1']:.4f}, accuracy {found['accuracy']:.4f}")
    if "v_measure" in found:
        told.append(f"V-measure {found['v_measure']:.4f}")
    if least and "inertia" in found:
        told.append(f"inertia {found['inertia'] / least:.4f} of faiss's")
    if "clusters" in found:
        told.append(f"{found['clusters']:.0f} clusters, {found['left_out']:.0%} of the rows in none")
    if "pairs_found" in found:
        told.append(f"{found['pairs_found']:.2%} of the pairs")
    if "recall_at_10" in found:
        told.append(f"recall@10 {found['recall_at_10']:.4f}, {found['ms_a_query']:.2f} ms a query")
    return "; ".join(told)
