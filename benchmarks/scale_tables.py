"""The figures of docs/scaling.md, made from benchmarks/results/scale_*.json: rewrites the marked block in place.

    python -m benchmarks.scale_tables [--check]

--check changes nothing and exits 1 when the block is not what the files say.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.tables import RESULTS, ROOT, markdown, replaced, where

PAGE = ROOT / "docs" / "scaling.md"


def simulations(result: Mapping[str, Any]) -> str:
    header = (
        "", "hours", "efficiency", "of the replicas wanted", "attempts", "preempted", "failed", "longest attempt, s",
        "tail, s", "driver CPU, ms a shard", "peak memory, MiB", "requests a shard",
    )  # fmt: skip
    rows = []
    for name, found in result["scenarios"].items():
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
                f"{found['driver_cpu_ms_a_shard']:.3f}",
                f"{found['peak_rss_bytes'] / 2**20:,.0f}",
                f"{found['requests_a_shard']:.2f}",
            )
        )
    some = next(iter(result["scenarios"].values()))
    return (
        f"{some['shards']['planned']:,} shards, {some['replicas']:,} replicas, {some['shard_seconds']:g} s a shard in the "
        f"median:\n\n{markdown(header, rows)}\n\n{steps(result)}"
    )


def steps(result: Mapping[str, Any]) -> str:
    """Where the driver's processor time goes, of the last scenario."""
    name, found = list(result["scenarios"].items())[-1]
    count = found["shards"]["planned"]
    rows = [
        (step, f"{took['cpu_seconds']:,.1f}", f"{took['cpu_seconds'] / count * 1e6:,.0f}", f"{took['wall_seconds']:,.1f}")
        for step, took in found["steps"].items()
    ]
    return f"Of which, in the {name}:\n\n" + markdown(("step", "CPU, s", "CPU, µs a shard", "wall, s"), rows)


def storage(result: Mapping[str, Any]) -> str:
    header = ("", "receipts", "wall, s", "CPU, µs each", "peak memory, MiB", "requests")
    rows = []
    for name, found in result.items():
        if isinstance(found, dict) and "cpu_us_an_item" in found:
            asked = ", ".join(f"{count:,} {what}" for what, count in found["requests"].items() if count > 2)
            rows.append(
                (
                    name.replace("_", " "),
                    f"{found.get('done', found['items']):,}",
                    f"{found.get('first_dispatch_seconds', found['wall_seconds']):,.1f}",
                    f"{found['cpu_us_an_item']:,.0f}",
                    f"{found['peak_rss_bytes'] / 2**20:,.0f}",
                    asked,
                )
            )
    place = "the S3 server" if result["options"].get("store") == "s3" else "a local folder"
    return f"{result['section']}, {place}:\n\n{markdown(header, rows)}"


def asking_ray(result: Mapping[str, Any]) -> str:
    header = ("calls in flight", "CPU, ms a look", "wall, ms a look", "CPU, µs a short call")
    rows = [
        (
            f"{int(count):,}",
            f"{found['cpu_ms_a_look']:.1f}",
            f"{found['wall_ms_a_look']:.1f}",
            f"{found['cpu_us_a_call']:.0f}",
        )
        for count, found in result["ray"].items()
    ]
    return f"Asking a real Ray which of so many calls have ended:\n\n{markdown(header, rows)}"


SECTIONS = {"simulate": simulations, "receipts": storage, "resume": storage, "ray": asking_ray}


def render(folder: Path) -> str:
    """All tables, by section, then by file name."""
    return "\n\n".join(_rendered(folder))


def _rendered(folder: Path) -> Iterator[str]:
    found = [(json.loads(path.read_text()), path.name) for path in sorted(folder.glob("scale_*.json"))]
    for section, make in SECTIONS.items():
        for result, name in found:
            if result["section"] == section:
                yield f"{make(result)}\n\n{where(result)} ([{name}](../benchmarks/results/{name}))."


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
