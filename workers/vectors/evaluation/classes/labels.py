"""Labels: a kept column as classes. They are strings from here on; a list column gives a row several of them.

label_cells     the column -> strings, or lists of strings
LabelCounts     a pass: the rows of each class, of no label, and in all
classes_of      its answer -> the classes in order, and their rows
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workers.errors import UsageError
from workers.vectors.evaluation.classes.strings import is_text, packed, unpacked
from workers.vectors.shard_rows import ShardRows
from workers.vectors.step import Combiner, Concatenation, Partial, Step

MAX_CLASSES = 1000  # a probe of 1,000 classes and 1,024 components is 8 MB in float64, and there are some 20 in one pass


def has_several(kind: pa.DataType) -> bool:
    """Whether a column of this type gives a row several labels."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def require_label(kind: pa.DataType, name: str) -> None:
    """Raises: UsageError: values of this type are no classes."""
    value = kind.value_type if has_several(kind) else kind
    value = value.value_type if pa.types.is_dictionary(value) else value
    if pa.types.is_floating(value) or pa.types.is_decimal(value):
        raise UsageError(
            f"evaluate.label: {name} is a number with a fraction ({kind}), which has no classes: cut it into ranges in the "
            "corpus, or compare scores of pairs (evaluate.task=pairs)"
        )
    if not (is_text(value) or pa.types.is_integer(value) or pa.types.is_boolean(value)):
        raise UsageError(
            f"evaluate.label: {name} is of type {kind}; a label is a string, an integer, a boolean, or a list of them"
        )


def label_cells(column: pa.ChunkedArray) -> pa.Array:
    """[N] strings, or lists of strings, with nulls where the column has them."""
    cells = column.combine_chunks()
    cells = pa.concat_arrays(cells.chunks) if isinstance(cells, pa.ChunkedArray) else cells
    if has_several(cells.type):
        return cells.cast(pa.list_(pa.string()))
    return cells.cast(pa.string())


@dataclass(frozen=True)
class LabelCounts(Step):
    """Partial: `joined`, `lengths`, `counts` of a shard's labels; `rows` and `unlabelled` [1]."""

    label: str
    columns: tuple[str, ...]

    def of_shard(self, rows: ShardRows) -> Partial:
        """Raises: UsageError: more labels than MAX_CLASSES."""
        cells = label_cells(rows.column(self.label))
        unlabelled = cells.null_count
        values = cells.flatten() if has_several(cells.type) else cells
        found = pc.value_counts(values.drop_null())
        require_few(len(found), self.label)
        joined, lengths = packed(found.field(0))
        counts = found.field(1).to_numpy(zero_copy_only=False)
        return {
            "joined": joined,
            "lengths": lengths,
            "counts": counts,
            "rows": np.array([len(rows)]),
            "unlabelled": np.array([unlabelled]),
        }

    def combiner(self) -> Combiner:
        return Concatenation()


def require_few(count: int, label: str) -> None:
    """Raises: UsageError."""
    if count > MAX_CLASSES:
        raise UsageError(
            f"evaluate.label: {label} has {count:,} values and more; at most {MAX_CLASSES:,} classes can be told apart: "
            "choose another column, or group its values in the corpus"
        )


def classes_of(counted: Partial, label: str, *, numbers: bool) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The classes in order, and the rows of each. `numbers`: in the order of numbers. Raises: UsageError: too many."""
    total: dict[str, int] = {}
    for name, count in zip(unpacked(counted["joined"], counted["lengths"]).to_pylist(), counted["counts"], strict=True):
        total[name] = total.get(name, 0) + int(count)
    require_few(len(total), label)
    names = sorted(total, key=int) if numbers else sorted(total)
    return tuple(names), np.array([total[name] for name in names], np.int64)
