"""Which object of a shard ends the process that reads it? Asked once a replica has died with the shard in flight.

Each slice is read to its end in an isolated process, and what was read is dropped. The object whose slice ends that process is
to blame; the replica lives to say so, and once another agrees the shard goes on without it. Costs a second reading of the
shard, but only of one that is suspect. What an object does wrong in any milder way the replica meets by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from workers.errors import ObjectError, ReembedError
from workers.host.isolated_process import IsolatedProcess, ProcessEnded
from workers.reading.reader import read_windows
from workers.records.documents import ReadPlan
from workers.records.shard import ObjectSlice, Shard
from workers.storage.uris import redact

PATIENCE_SECONDS = 1800.0  # of one slice; two such waits are well within run.shard_seconds


def check_for_poison(shard: Shard, plan: ReadPlan, exclude: Mapping[str, str]) -> None:
    """Read every object of the shard that is not excluded.

    Raises:
        ObjectError: reading this one ended a process, twice.
    """
    with IsolatedProcess(PATIENCE_SECONDS) as isolated:
        for piece in shard.slices:
            try:
                isolated.call(_read, replace(shard, slices=(piece,)), plan, exclude)
            except ProcessEnded as error:
                raise ObjectError(redact(piece.uri), f"{_where(piece)}reading it {error}; upload it again") from None


def _read(shard: Shard, plan: ReadPlan, exclude: Mapping[str, str]) -> None:
    try:
        for _ in read_windows(shard, plan, exclude):
            pass
    except ReembedError:
        return  # the replica will meet it


def _where(piece: ObjectSlice) -> str:
    return "" if piece.whole else f"from {piece.start} to {piece.stop}: "
