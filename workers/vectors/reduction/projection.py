"""The projection of every vector, and the parts that hold the projected ones: an embedding snapshot of fewer components.

Projection     what is stored with the run, and applied to a query by `reembed search`
Largest        the largest component of all projected vectors, from which int8 has its scale
Projected      the last pass: parts as the source's, with other vectors
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from workers.table.part_file import PartReader, open_part, write_part
from workers.table.schema import EMBEDDING, PARTITION_VALUES, PREFIX, OutputSchema
from workers.table.vectors import Floats, to_arrow, to_arrow_lists, unit_rows
from workers.vectors.derived import Desk, Made, WriteStep
from workers.vectors.shard_rows import PartSpan, ShardRows
from workers.vectors.step import Combiner, Partial, Step


@dataclass(frozen=True)
class Projection:
    """components [d, D]: applied to (x - offset), then divided by its length if `unit`."""

    components: Floats
    offset: Floats
    unit: bool

    def __call__(self, vectors_ND: Floats) -> Floats:
        """[N, d]."""
        source = unit_rows(vectors_ND) if self.unit else vectors_ND
        projected: Floats = np.asarray((source - self.offset) @ self.components.T, np.float32)
        return unit_rows(projected) if self.unit else projected

    @property
    def digest(self) -> str:
        """SHA-256 (hex)."""
        sums = hashlib.sha256(f"{self.components.shape} {self.unit} ".encode())
        sums.update(np.ascontiguousarray(self.components).tobytes())
        sums.update(np.ascontiguousarray(self.offset).tobytes())
        return sums.hexdigest()

    def arrays(self) -> Partial:
        return {"components": self.components, "offset": self.offset, "unit": np.array(self.unit)}

    @classmethod
    def of(cls, arrays: Partial) -> Projection:
        """Raises: KeyError."""
        return cls(arrays["components"], arrays["offset"], bool(arrays["unit"]))


class _Greatest(Combiner):
    def __init__(self) -> None:
        self._greatest: Partial = {}

    def add(self, partial: Partial) -> None:  # type: ignore[override]
        for name, value in partial.items():
            self._greatest[name] = np.maximum(self._greatest.get(name, value), value)

    def result(self) -> Partial:
        return self._greatest


@dataclass(frozen=True)
class Largest(Step):
    """largest = the largest absolute component after the projection."""

    projection: Projection

    def of_shard(self, rows: ShardRows) -> Partial:
        found = [float(np.abs(self.projection(block)).max(initial=0.0)) for _, block in rows.blocks(unit=False)]
        return {"largest": np.array(max(found, default=0.0))}

    def combiner(self) -> Combiner:
        return _Greatest()


@dataclass(frozen=True)
class Projected(WriteStep):
    """Parts with every column of the source's. `schema`: of the reduced snapshot."""

    projection: Projection
    schema: OutputSchema

    def footer(self) -> dict[str, str]:
        return {"projection_digest": self.projection.digest}

    def files(self, rows: ShardRows, desk: Desk) -> Iterator[Made]:
        for number, part in enumerate(rows.parts):
            local = desk.folder / f"{number}.part"
            with open_part(desk.source, part.path) as opened:
                footer = self.schema.stamp.footer() | desk.footer(part, opened.footer.get(PARTITION_VALUES, "{}"))
                footer[PREFIX + "projection_digest"] = self.projection.digest
                write_part(local, self._groups(opened, rows, part), self.schema, lambda footer=footer: footer)  # type: ignore[misc]
                yield Made(local, desk.path_of(part), opened.rows, part.rows_digest, footer)

    def _groups(self, opened: PartReader, rows: ShardRows, part: PartSpan) -> Iterator[pa.Table]:
        """The part's rows a row group of the source at a time, with the projected vectors."""
        names = [name for name in self.schema.part.names if name != EMBEDDING]
        stamp = self.schema.stamp
        document = vector = 0
        for place, size in enumerate(opened.row_groups):
            batches = list(opened.batches(max(1, size), names, groups=[place]))
            table = pa.Table.from_batches(batches, pa.schema([opened.schema.field(name) for name in names]))
            counts = None if part.counts is None else part.counts[document : document + size]
            taken = size if counts is None else int(counts.sum())
            chosen = np.arange(part.first + vector, part.first + vector + taken)
            projected = self.projection(rows.take(chosen, unit=False)) if taken else np.empty((0, stamp.dim), np.float32)
            if counts is None:
                cells, _ = to_arrow(projected, stamp.vector, stamp.int8_scale)
            else:
                cells, _ = to_arrow_lists(projected, counts, stamp.vector, stamp.int8_scale)
            arrays = [cells if name == EMBEDDING else table.column(name) for name in self.schema.part.names]
            yield pa.Table.from_arrays(arrays, names=self.schema.part.names).cast(self.schema.part)
            document, vector = document + size, vector + taken
