"""Two nights of `reembed index`: one shard in a hundred has other vectors on the second, and only its file is built.

    python -m benchmarks.index_nights SNAPSHOT [--shards 100] [--changed 42] [--out FILE]

SNAPSHOT: one vector a row. Its vectors are published again in `--shards` shards, as `embed` leaves them; on the second night
the vectors of one shard have their components shifted, and all other parts are carried over. Printed of both nights, as
one JSON object: files, those built, bytes of vectors read, seconds; and the files that are no hard links of the first ones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import ROOT, commit, hardware
from jobs.passes.source import SourceSnapshot
from tests.vector_snapshots import publish_next, publish_vectors
from workers.snapshot.vectors import iterate_vectors

TOLD = ("files", "files_built", "recall_at_10", "vector_bytes_read", "seconds", "bytes", "bytes_of_float32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("snapshot")
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--changed", type=int, default=42)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    vectors = _vectors(options.snapshot)
    with tempfile.TemporaryDirectory() as place:
        output = Path(place, "out")
        publish_vectors(output, vectors, shards=options.shards)
        first, before = _night(Path(place))
        ends = np.linspace(0, len(vectors), options.shards + 1).astype(int)  # as publish_vectors cuts
        changed = vectors[ends[options.changed] : ends[options.changed + 1]]
        publish_next(output, {options.changed: np.roll(changed, 7, axis=1)})
        second, after = _night(Path(place))
    new = sorted(name for name, node in after.items() if node not in before.values())
    result = {
        "benchmark": "index_nights",
        "hardware": hardware(),
        **commit(),
        "rows": len(vectors),
        "shards": options.shards,
    }
    result |= {"first": first, "second": second, "new_files": new}
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def _vectors(snapshot: str) -> np.ndarray:
    source = SourceSnapshot.open(snapshot, {}, "SNAPSHOT")
    paths = [piece.uri for shard in source.shards for piece in shard.slices]
    return np.concatenate([batch.vectors for batch in iterate_vectors(source.store, paths, source.schema)])


def _night(folder: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """What the command says, and each file's inode by name."""
    config = folder / "index.yaml"
    config.write_text(f"index: {{snapshot: {folder / 'out'}}}\noutput: {{uri: {folder / 'index'}}}\n")
    command = [sys.executable, str(ROOT / "reembed.py"), "index", str(config), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    files = {file.name: file.stat().st_ino for file in Path(said["data"]).rglob("*.usearch")}
    return {name: said[name] for name in TOLD}, files


if __name__ == "__main__":
    main()
