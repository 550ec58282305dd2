"""What a job has made, as a reader finds it: rows, files, figures and what it keeps for the next night, each as one digest.

Nothing of the product reads here: files by fsspec, rows by pyarrow, arrays by NumPy.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from fsspec.core import url_to_fs

LEFT = ("passes", "scratch")  # folders of a run that nothing needs once it is published


@dataclass(frozen=True)
class Made:
    """Digests, and figures that differ from one run to the next."""

    outputs: str  # names and rows of Parquet files, whose footers name the run; names and bytes of other files
    facts: str
    state: str  # arrays
    files: int
    rows: int
    vector_bytes_read: int  # by the last driver
    carried: int  # shards
    left: tuple[str, ...]  # objects that should have been deleted

    def differences(self, calm: Made) -> list[str]:
        """What is not as the calm run made it."""
        return [name for name in ("outputs", "facts", "state") if getattr(self, name) != getattr(calm, name)]


def made_at(output: str, summary: dict[str, Any]) -> Made:
    """Of the run that readers have."""
    fs, root = url_to_fs(output)
    fs.invalidate_cache()
    current = json.loads(fs.cat_file(f"{root}/CURRENT.json"))
    if current["run_id"] != summary["run_id"]:
        raise RuntimeError(f"readers have {current['run_id']}, and the last command made {summary['run_id']}")
    data, run = f"{root}/{current['data_path'].strip('/')}", f"{root}/runs/{current['run_id']}"
    sums, rows, files = hashlib.sha256(), 0, sorted(fs.find(data))
    for path in files:
        content = fs.cat_file(path)
        sums.update(path.removeprefix(data).encode())
        if path.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(content))
            rows += table.num_rows
            content = f"{table.schema.remove_metadata()} {table.to_pylist()!r}".encode()
        sums.update(content)
    return Made(
        outputs=sums.hexdigest(),
        facts=_digest(json.dumps(summary["facts"], sort_keys=True).encode()),
        state=_state(fs.cat_file(f"{run}/state.npz")),
        files=len(files),
        rows=rows,
        vector_bytes_read=summary["vector_bytes_read"],
        carried=summary["reuse"]["carried_shards"],
        left=tuple(path for folder in LEFT if fs.exists(f"{run}/{folder}") for path in fs.find(f"{run}/{folder}")),
    )


def _state(data: bytes) -> str:
    sums = hashlib.sha256()
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        for name in sorted(arrays.files):
            sums.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
            sums.update(arrays[name].tobytes())
    return sums.hexdigest()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
