"""The figures of docs/scaling.md, made from benchmarks/results/scale_*.json: rewrites the marked block in place.

    python -m benchmarks.scale_tables [--check]

--check changes nothing and exits 1 if the block differs from the files.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.scale_weather import SCENARIOS
from benchmarks.tables import RESULTS, ROOT, markdown, replaced, where

PAGE = ROOT / "docs" / "scaling.md"


Results = Sequence[tuple[Mapping[str, Any], str]]  # each with the name of its file


def simulations(results: Results) -> str:
    """One table for each size, with the scenarios, and the driver's time by step in the last scenario."""
    sizes: dict[str, dict[str, Mapping[str, Any]]] = {}
    for result, _ in results:
        for name, found in result["scenarios"].items():
            shards, replicas = found["shards"]["planned"], found["replicas"]
            size = f"{shards:,} shards, {replicas:,} replicas, {found['shard_seconds']:g} s a shard"
            sizes.setdefault(size, {})[name] = found
    tables = [(f"{size}:", _scenarios(found), _steps(found)) for size, found in sizes.items()]
    return "\n\n".join(block for blocks in tables for block in blocks if block)


def _scenarios(scenarios: Mapping[str, Mapping[str, Any]]) -> str:
    header = (
        "", "hours", "efficiency", "of the replicas wanted", "attempts", "preempted", "failed", "longest attempt, s",
        "tail, s", "driver CPU, ms a shard", "peak memory, MiB", "requests a shard",
    )  # fmt: skip
    rows = []
    for name in sorted(scenarios, key=list(SCENARIOS).index):
        found = scenarios[name]
        happened, attempt = found["happened"], found["attempt_seconds"]
        rows.append(
            (
                name,
                f"{found['virtual_hours']:.2f}",
                f"{found['efficiency']:.2%}",
                f"{found['efficiency_of_wanted']:.2%}",
                f"{found['attempts']:,}",
                f"{happened['preempted']:,}",
                f"{happened['failed']:,}",
                f"{attempt['max']:,.0f}",
                f"{found['tail_seconds']:,.0f}",
                *_driver(found),
            )
        )
    return markdown(header, rows)


def _driver(found: Mapping[str, Any]) -> tuple[str, str, str]:
    if not found["published"]:  # receipts were not stored: only what replicas did with their time was looked at
        return "", "", ""
    memory = f"{found['peak_rss_bytes'] / 2**20:,.0f}"
    return f"{found['driver_cpu_ms_a_shard']:.3f}", memory, f"{found['requests_a_shard']:.2f}"


def _steps(scenarios: Mapping[str, Mapping[str, Any]]) -> str:
    name = max((name for name, found in scenarios.items() if found["published"]), key=list(SCENARIOS).index, default="")
    if not name:
        return ""
    found = scenarios[name]
    count = found["shards"]["planned"]
    rows = []
    for step, took in found["steps"].items():
        cpu, peak = took["cpu_seconds"], took["peak_rss_bytes_until_then"] / 2**20
        rows.append((STEPS[step], f"{cpu:,.1f}", f"{cpu / count * 1e6:,.0f}", f"{peak:,.0f}"))
    return f"The driver in the {name}:\n\n" + markdown(
        ("", "CPU, s", "CPU, µs a shard", "peak memory until then, MiB"), rows
    )


STEPS = {
    "dispatch": "embedding: dispatch, receipts, status",
    "load": "receipts found again, at start and end",
    "account": "account and gate",
    "publish": "publishing",
    "add_report": "report",
}


def storage(results: Results) -> str:
    header = ("", "items", "wall, s", "CPU, µs an item", "peak memory, MiB", "requests")
    rows = []
    for result, _ in results:
        place = "S3 server" if result["options"].get("store") == "s3" else "local folder"
        for name, found in result.items():
            if isinstance(found, dict) and "cpu_us_an_item" in found:
                asked = ", ".join(f"{count:,} {what}" for what, count in found["requests"].items() if count > 2)
                rows.append(
                    (
                        f"{STORED[name]}, {place}",
                        f"{found['items']:,}",
                        f"{found.get('first_dispatch_seconds', found['wall_seconds']):,.1f}",
                        f"{found['cpu_us_an_item']:,.0f}",
                        f"{found['peak_rss_bytes'] / 2**20:,.0f}",
                        asked,
                    )
                )
    return f"State on storage:\n\n{markdown(header, rows)}"


STORED = {
    "begin": "shards cut and stored as a manifest",
    "write": "receipts written",
    "load": "receipts loaded",
    "load_one_by_one": "receipts loaded without the log",
    "resume": "a run resumed, to its first dispatch",
}


def asking_ray(results: Results) -> str:
    header = ("calls in flight", "CPU, ms a look", "wall, ms a look", "CPU, µs a short call")
    rows = []
    for result, _ in results:
        for count, found in result["ray"].items():
            figures = f"{found['cpu_ms_a_look']:.1f}", f"{found['wall_ms_a_look']:.1f}", f"{found['cpu_us_a_call']:.0f}"
            rows.append((f"{int(count):,}", *figures))
    return f"Asking a real Ray which of so many calls have ended:\n\n{markdown(header, rows)}"


SECTIONS = (
    (("simulate",), simulations),
    (("receipts", "resume"), storage),
    (("ray",), asking_ray),
)


def render(folder: Path) -> str:
    """All tables, each with its sources."""
    found = [(json.loads(path.read_text()), path.name) for path in sorted(folder.glob("scale_*.json"))]
    blocks = []
    for sections, make in SECTIONS:
        results = [(result, name) for result, name in found if result["section"] in sections]
        if results:
            links = ", ".join(f"[{name}](../benchmarks/results/{name})" for _, name in results)
            blocks.append(f"{make(results)}\n\n{'; '.join(dict.fromkeys(where(result) for result, _ in results))}: {links}.")
    return "\n\n".join(blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    text = PAGE.read_text()
    new = replaced(text, render(RESULTS))
    if not options.check:
        PAGE.write_text(new)
    elif new != text:
        sys.exit("docs/scaling.md: its figures are not what the results say; run: python -m benchmarks.scale_tables")


if __name__ == "__main__":
    main()
