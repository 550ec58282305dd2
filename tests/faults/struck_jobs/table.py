"""The table of what was struck, of the records that __main__.py writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tests.faults.struck_jobs.snapshot import JOBS

HEADS = (
    "job", "place", "night", "passes on actors", "starts", "actors killed", "drivers killed after a pass", "in publication",
    "at random", "outputs", "differ", "vector bytes read",
)  # fmt: skip


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line for each job, place and night, and the sums."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["job"], record["place"], record["night"]), []).append(record)
    lines = [_line(HEADS), _line(["---"] * 3 + ["---:"] * (len(HEADS) - 3))]
    lines += [_line([*map(str, key), *_cells(group)]) for key, group in groups.items()]
    lines.append(_line(["all", "", "", *_cells(records)[:-1], ""]))
    seconds = sum(record["seconds"] for record in records)
    bad = [record for record in records if not record["ok"]]
    lines += [
        "",
        f"{sum(record['starts'] for record in records)} starts, {seconds:,.0f} s; {len(bad)} of {len(records)} differ",
    ]
    lines += [f"second night, {words}" for words in fewer(records)]
    return "\n".join(lines)


def fewer(records: Iterable[dict[str, Any]]) -> list[str]:
    """Of each job and place: how many times fewer vector bytes the calm second night read than the first."""
    read = {(one["job"], one["place"], one["night"]): one.get("vector_bytes_read", 0)
            for one in records if one["way"] == "calm"}  # fmt: skip
    said = []
    for (job, place, night), first in read.items():
        if night == 1 and (second := read.get((job, place, 2))):
            said.append(f"{job} {place}: {first:,} and {second:,} vector bytes: {first / second:.1f}x fewer")
    return said


def too_many_read(records: Iterable[dict[str, Any]], parts: int) -> list[str]:
    """Jobs that keep a state, and whose second night read more than twice the new part, of so many.

    The others read all (docs/snapshot_jobs.md).
    """
    return [
        words
        for words in fewer(records)
        if JOBS[words.split()[0]].keeps and float(words.rpartition(": ")[2].partition("x")[0]) < parts / 2
    ]


def _cells(group: Sequence[dict[str, Any]]) -> list[str]:
    strikes = [record["strikes"] for record in group]
    passes = [line for found in strikes for line in found["driver"] if line.startswith("pass ")]
    counts = (
        max(len(found["actors"]) for found in strikes),
        sum(record["starts"] for record in group),
        sum(len(found["actors"]) for found in strikes),
        len(passes),
        sum(len(found["driver"]) for found in strikes) - len(passes),
        sum(len(found["driver-random"]) for found in strikes),
        len(group),
        sum(not record["ok"] for record in group),
    )
    read = [record.get("vector_bytes_read", 0) for record in group if record["way"] == "calm"]
    return [*map(str, counts), f"{sum(read):,}"]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
