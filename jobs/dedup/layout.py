"""Layout: where the rows of a snapshot are, how its vectors are stored, and the files by which they travel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.passes.source import SourceSnapshot
from workers.config import VectorType
from workers.table.schema import CHUNK
from workers.vectors.duplicates.exact import COPY, HASH
from workers.vectors.duplicates.exact import PARTITION_ROWS as HASHES
from workers.vectors.duplicates.route import PIECE_BYTES, Form, Pieces, cell_row
from workers.vectors.duplicates.shuffle import Places, Shuffle


@dataclass(frozen=True)
class Layout:
    """Shuffles of one job, and how the snapshot's vectors are stored."""

    places: Places
    form: Form
    width: int  # stored components of a vector
    stored: np.dtype[Any]
    keys: tuple[str, ...]  # columns that tell texts apart
    partitions: int  # of hashes

    @classmethod
    def of(cls, source: SourceSnapshot) -> Layout:
        schema = source.schema
        numbers = tuple(shard.number for shard in source.shards)
        cells, how = schema.vector_type, schema.vector_format
        keys = ("text_hash", CHUNK) if CHUNK in schema.rows.names else ("text_hash",)
        stored = np.dtype(cells.value_type.to_pandas_dtype())
        form = Form(VectorType(how.vector), how.int8_scale, source.dim)
        partitions = -(-source.rows // HASHES)
        return cls(Places(numbers, source.first_rows, source.rows), form, cells.list_size, stored, keys, partitions)

    @property
    def copies(self) -> Shuffle:
        return self.to_shards("copies", COPY)

    @property
    def hashes(self) -> Shuffle:
        return Shuffle("hashes", self.partitions, HASH)

    def to_shards(self, name: str, dtype: np.dtype[Any]) -> Shuffle:
        return Shuffle(name, len(self.places.numbers), dtype)

    def pieces(self, cells: int, probe: int, most_rows: int) -> Pieces:
        """`most_rows`: of a shard."""
        dtype = cell_row(self.width, self.stored, probe)
        count = min(cells, max(1, -(-most_rows * probe * dtype.itemsize // PIECE_BYTES)))
        width = -(-cells // count)
        return Pieces(cells, -(-cells // width), Shuffle("cells", width, dtype))
