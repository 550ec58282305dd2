"""The last pass of the job `index`: the files of a shard, from where the earlier pass has left them.

They are on the actor's local disk; for another actor they lie in the run's scratch folder; and where even that is gone they
are built again, with the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workers.table.part_file import PartName
from workers.table.schema import PREFIX
from workers.vectors.derived import Desk, Made, WriteStep
from workers.vectors.index.build_files import BuildFiles, local_file, scratch_file
from workers.vectors.shard_rows import ShardRows

DIGITS = 16  # of the SHA-256, in a file's name


@dataclass(frozen=True)
class WriteFiles(WriteStep):
    """`built`: the pass that built them."""

    built: BuildFiles

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.built.columns

    def files(self, rows: ShardRows, desk: Desk) -> Iterator[Made]:
        shard = desk.assignment.shard.number
        cuts = self.built.cuts(rows)
        for piece, (first_row, stop_row) in enumerate(cuts):
            local = self._local(rows, piece)
            with local.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            footer = desk.stamp.footer() | {
                PREFIX + "shard": str(shard),
                PREFIX + "epoch": str(desk.assignment.epoch),
                PREFIX + "rows_digest": digest,
            }
            path = file_path(desk.stamp.run_id, shard, piece, len(cuts), digest)
            yield Made(local, path, stop_row - first_row, digest, footer)

    def _local(self, rows: ShardRows, piece: int) -> Path:
        workplace = rows.workplace
        local = local_file(workplace, rows.number, piece)
        if not local.exists():
            try:
                local.write_bytes(workplace.output.read(scratch_file(workplace, rows.number, piece)))
            except FileNotFoundError:
                self.built.build_again(rows, piece).save(str(local))
        return local


def file_path(run_id: str, shard: int, piece: int, pieces: int, digest: str) -> str:
    """Of an index file, relative to the root of the output. Its name has the digest: it has no footer to be known by."""
    return PartName(shard, piece if pieces > 1 else None, f"{digest[:DIGITS]}.usearch").path(run_id)


def digest_text(digest: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> str:
    """[32] bytes of a SHA-256 as hex."""
    return digest.tobytes().hex()
