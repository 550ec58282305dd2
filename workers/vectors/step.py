"""A pass over a snapshot: what each shard answers, and how the answers become one.

    Step            of_shard(rows) -> Partial, for every shard of the source
    UnitStep        of_unit(number) -> Partial, for numbered units of work that are no shards (cells of a shuffle)
    Combiner        takes the Partials in order of their numbers, whatever order they came in: Sum, Concatenation

A step is a frozen dataclass of plain values and arrays (centroids, weights). It is sent to every actor once a pass, so it
must be small: 256 MiB at most. Sums are in float64 and in order of shards, and a Partial is computed by one thread: the
result does not depend on the number of actors or on their deaths (bit for bit, on one kind of CPU). Knows nothing of Ray.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.vectors.shard_rows import ShardRows
from workers.vectors.workplace import Workplace

Partial = dict[str, NDArray[Any]]
"""Named arrays, whose shapes do not depend on the shard unless they are concatenated."""


class Combiner(ABC):
    """Makes one Partial of many. add() is called in order of shard (or unit) numbers."""

    @abstractmethod
    def add(self, partial: Mapping[str, NDArray[Any]]) -> None: ...

    @abstractmethod
    def result(self) -> Partial:
        """Empty when nothing was added."""


class Sum(Combiner):
    """Sums array by array: floats in float64, integers in int64."""

    def __init__(self) -> None:
        self._total: Partial = {}

    def add(self, partial: Mapping[str, NDArray[Any]]) -> None:
        for name, value in partial.items():
            wide = np.float64 if np.issubdtype(value.dtype, np.floating) else np.int64
            if name in self._total:
                self._total[name] += value
            else:
                self._total[name] = np.array(value, dtype=wide)

    def result(self) -> Partial:
        return self._total


class Concatenation(Combiner):
    """Joins array by array along the first axis."""

    def __init__(self) -> None:
        self._pieces: dict[str, list[NDArray[Any]]] = {}

    def add(self, partial: Mapping[str, NDArray[Any]]) -> None:
        for name, value in partial.items():
            mine = value if value.flags.owndata else np.array(value)  # not a view of Ray's memory
            self._pieces.setdefault(name, []).append(mine)

    def result(self) -> Partial:
        return {name: np.concatenate(pieces) for name, pieces in self._pieces.items()}


class Step(ABC):
    """What a pass computes of one shard. `columns`: of the source, beside its vectors; read and kept as vectors are."""

    columns: tuple[str, ...] = ()

    @property
    def pass_name(self) -> str:
        """For the journal and the log."""
        return type(self).__name__

    @abstractmethod
    def of_shard(self, rows: ShardRows) -> Partial:
        """Deterministic: equal rows give equal bits. Raises: UsageError: the request is at fault; the job ends at once."""

    def combiner(self) -> Combiner:
        return Sum()


class UnitStep(ABC):
    """What a pass computes of one numbered unit, for instance of one cell that all shards have written rows for."""

    @abstractmethod
    def of_unit(self, unit: int, workplace: Workplace) -> Partial:
        """Deterministic, and harmless when repeated. Raises: as Step.of_shard."""

    def combiner(self) -> Combiner:
        return Sum()
