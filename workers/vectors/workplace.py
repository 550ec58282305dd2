"""Workplace: where a step may read and write beside the rows that it is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workers.storage.store import Store


@dataclass(frozen=True, slots=True)
class Workplace:
    """Of one actor. `scratch` on the output's store survives the actor; `folder` is local and does not."""

    source: Store  # of the snapshot
    output: Store  # of the derived output
    scratch: str  # a folder below the run's, relative to the output's root; deleted when the run is published
    folder: Path  # on the local disk
