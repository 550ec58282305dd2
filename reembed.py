"""The entry point: `reembed COMMAND …`, `python -m reembed COMMAND …`.

Both packages have plain names, and Python takes the first `jobs` and `workers` that it finds. This module stands outside
them, so that it still runs when another project's packages are found first, and can say so.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

PACKAGES = ("jobs", "workers")
EXIT_USAGE = 2


def foreign_package(names: Sequence[str] = PACKAGES) -> str | None:
    """Which package of this program is hidden by another one of its name, on one line; None: both are ours.

    Imports nothing: the other project's code is not run.
    """
    ours = Path(__file__).resolve().parent
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None:
            return f"the package `{name}` is missing beside {ours / 'reembed.py'}; install reembed again"
        found = [Path(place).resolve() for place in spec.submodule_search_locations or [spec.origin or name]]
        if ours / name not in found:
            return (
                f"Python finds another `{name}` before reembed's: {found[0]}; rename it, or take {found[0].parent} off "
                "PYTHONPATH and sys.path (as a Ray job: submit with a --working-dir that holds no such folder)"
            )
    return None


def run(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and end the process with its exit status."""
    told = foreign_package()
    if told is not None:
        print(f"reembed: {told}", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_USAGE)
    from jobs.cli import run as run_command

    run_command(arguments)


if __name__ == "__main__":
    run()
