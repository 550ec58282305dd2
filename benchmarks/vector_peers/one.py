"""One contestant in this process: PYTHON -m benchmarks.vector_peers.one FOLDER here|elsewhere FUNCTION."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from benchmarks.vector_peers.material import Material


def main() -> None:
    folder, module, function = sys.argv[1:]
    work = getattr(importlib.import_module(f"benchmarks.vector_peers.{module}"), function)
    quality, spent = work(Material(Path(folder)))
    print(json.dumps(dict(quality) | dict(spent)))


if __name__ == "__main__":
    main()
