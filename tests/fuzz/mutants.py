"""Thousands of damaged objects through the real planning and the real reader; prints what became of them.

    python -m tests.fuzz.mutants --count 10000 --seed 1 [--originals arrow-none,gz-csv] [--deadline 60] [--show unsealed]

Exit status 1 when a mutant ended in one of the columns in capitals; its seed is printed, and `--seed SEED --count 1` replays
it (with the same `--originals`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence

from tests.fuzz.originals import originals
from tests.fuzz.trial import BAD, Outcome
from tests.fuzz.tried import Told, try_seeds


def table(told: Sequence[Told]) -> str:
    """Mutants by original and outcome."""
    columns = [outcome for outcome in Outcome if outcome not in BAD or any(item.verdict.outcome is outcome for item in told)]
    counts = Counter((item.original, item.verdict.outcome) for item in told)
    names = sorted({item.original for item in told})
    lines = ["| original | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for name in names:
        lines.append(f"| {name} | " + " | ".join(str(counts[name, outcome] or "") for outcome in columns) + " |")
    sums = [sum(counts[name, outcome] for name in names) for outcome in columns]
    return "\n".join([*lines, "| all | " + " | ".join(map(str, sums)) + " |"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1, help="of the first mutant; each has the next one")
    parser.add_argument("--originals", default="", help="names, with commas; all of them when left out")
    parser.add_argument("--deadline", type=float, default=60.0, help="seconds a mutant may take")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--show", action="append", default=[], help="outcome whose mutants are printed one by one")
    args = parser.parse_args()
    names = args.originals.split(",") if args.originals else sorted(originals())
    began = time.monotonic()
    told = try_seeds(range(args.seed, args.seed + args.count), names, args.deadline, args.processes)
    for item in told:
        if item.verdict.outcome in (*BAD, *args.show):
            print(f"{item.seed}: {item.original} {item.kind} in {item.where}: {item.verdict.outcome}: {item.verdict.why}")
    print(table(told))
    worst = max(told, key=lambda item: item.seconds)
    bad = sum(item.verdict.outcome in BAD for item in told)
    seeds = f"seeds {args.seed} to {args.seed + args.count - 1}"
    slowest = f"slowest {worst.seconds:.1f} s (seed {worst.seed})"
    print(f"{len(told)} mutants ({seeds}) in {time.monotonic() - began:.0f} s, {slowest}")
    print(f"{bad} of them in {', '.join(BAD)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
