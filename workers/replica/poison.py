"""Poison detection: finds the object of a shard that crashes the process reading it. Used after a replica has died.

Each slice is read to its end in an isolated process, and the rows are dropped. If that ends the process twice, the object is
to blame; the replica survives and reports it. Once a second replica agrees, the shard is embedded without the object. The
shard is read twice, but only a suspect one. Other errors are left to the replica, which meets them when it reads the object.
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

PATIENCE_SECONDS = 1800.0  # for one slice; two such waits are well below run.shard_seconds


def check_for_poison(shard: Shard, plan: ReadPlan, exclude: Mapping[str, str]) -> None:
    """Read every object of the shard that is not excluded (uri -> reason).

    Raises:
        ObjectError: reading this object ended its process, or did not end in time, twice.
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
        return  # the replica meets the same error


def _where(piece: ObjectSlice) -> str:
    return "" if piece.whole else f"from {piece.start} to {piece.stop}: "
