"""Which rows of a shard go into which part: by partition folder, then cut after so many vectors. Pure; positions, not bytes.

    partition_groups   one group a folder, rows in source order inside it
    cut                a group into parts

Grouping is by folder, not by value, so two parts of one shard can never want the same name.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from workers.host.spill_file import Positions
from workers.table.partitions import partition_folder


@dataclass(frozen=True, slots=True)
class PartitionGroup:
    """Rows of one partition folder, as ascending positions. `values` are the partition values in full."""

    folder: str
    values: dict[str, str | None]
    rows: Positions


def partition_groups(batches: Sequence[pa.RecordBatch], columns: Sequence[str]) -> list[PartitionGroup]:
    """Groups sorted by folder; without columns one group with the folder ''.

    Raises:
        UsageError: a column name too long for a folder.
    """
    total = sum(len(batch) for batch in batches)
    if not total:
        return []
    if not columns:
        return [PartitionGroup("", {}, np.arange(total))]
    codes, texts = np.zeros(total, dtype=np.int64), []
    for column in columns:
        text = _texts(pa.chunked_array([batch.column(column) for batch in batches]))
        encoded = text.combine_chunks().dictionary_encode(null_encoding="encode")
        texts.append(encoded)
        # renumbered after each column: the product of all columns' cardinalities may not fit 64 bits
        _, codes = np.unique(codes * len(encoded.dictionary) + encoded.indices.to_numpy(), return_inverse=True)
    _, first = np.unique(codes, return_index=True)
    values = [[encoded[int(row)].as_py() for encoded in texts] for row in first]
    folders, folder_codes = np.unique([partition_folder(columns, value) for value in values], return_inverse=True)
    named = {int(code): dict(zip(columns, value, strict=True)) for code, value in zip(folder_codes, values, strict=True)}
    codes = folder_codes[codes]
    order = np.argsort(codes, kind="stable")
    rows = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
    return [PartitionGroup(str(folder), named[code], rows[code]) for code, folder in enumerate(folders)]


def cut(counts: Positions, limit: int) -> list[slice]:
    """Runs of rows that hold about `limit` vectors each, from each row's number of vectors. A function of counts alone."""
    before = np.cumsum(counts) - counts
    borders = [0, *(np.flatnonzero(np.diff(before // limit)) + 1).tolist(), len(counts)]
    return [slice(low, high) for low, high in itertools.pairwise(borders)]


def cut_evenly(rows: int, limit: int) -> list[slice]:
    """As `cut` where every row holds one vector."""
    return [slice(low, min(low + limit, rows)) for low in range(0, rows, limit)]


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Partition values in text form: 1.5, true, 2024-01-31."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.large_string())
