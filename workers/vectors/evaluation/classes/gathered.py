"""SumsAndRows: a combiner for steps that answer both sums and rows. Rows are named `<table>.<column>`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.vectors.evaluation.classes.strings import packed, unpacked
from workers.vectors.step import Combiner, Concatenation, Partial, Sum

TEXT, LENGTHS = "#text", "#lengths"  # endings of a column of strings


def text_column(name: str, cells: pa.Array) -> Partial:
    """A column of strings in a Partial."""
    joined, lengths = packed(cells)
    return {name + TEXT: joined, name + LENGTHS: lengths}


def table_of(partial: Mapping[str, NDArray[Any]], name: str) -> pa.Table:
    """The rows of one table."""
    columns: dict[str, pa.Array] = {}
    for key, value in partial.items():
        table, _, column = key.partition(".")
        if table == name and not column.endswith(LENGTHS):
            plain = column.removesuffix(TEXT)
            columns[plain] = unpacked(value, partial[f"{name}.{plain}{LENGTHS}"]) if plain != column else pa.array(value)
    return pa.table(columns)


class SumsAndRows(Combiner):
    """Args:
    lowest: (table, column, rows): only so many rows of the table, with the lowest values of the column, are kept, in
        their order; equal ones as they come.
    """

    def __init__(self, lowest: tuple[str, str, int] | None = None) -> None:
        self._sums, self._rows, self._lowest = Sum(), Concatenation(), lowest
        self._kept: list[pa.Table] = []

    def add(self, partial: Mapping[str, NDArray[Any]]) -> None:
        named = "" if self._lowest is None else self._lowest[0] + "."
        sums = {key: value for key, value in partial.items() if "." not in key}
        rows = {key: value for key, value in partial.items() if "." in key and not (named and key.startswith(named))}
        self._sums.add(sums)
        self._rows.add(rows)
        if self._lowest is not None:
            self._kept.append(table_of(partial, self._lowest[0]))
            if sum(map(len, self._kept)) > 2 * self._lowest[2]:
                self._kept = [self._cut(self._lowest)]

    def result(self) -> Partial:
        result = {**self._sums.result(), **self._rows.result()}
        if self._lowest is not None and self._kept:
            table = self._cut(self._lowest)
            for name in table.column_names:
                cells = table.column(name).combine_chunks()
                key = f"{self._lowest[0]}.{name}"
                result |= text_column(key, cells) if pa.types.is_string(cells.type) else {key: cells.to_numpy()}
        return result

    def _cut(self, lowest: tuple[str, str, int]) -> pa.Table:
        return lowest_rows(pa.concat_tables([kept for kept in self._kept if kept.num_columns]), lowest[1], lowest[2])


def lowest_rows(table: pa.Table, column: str, rows: int) -> pa.Table:
    """So many rows with the lowest values, in their order; equal ones as they stand."""
    order = np.argsort(table.column(column).to_numpy(), kind="stable")[:rows]
    return table.take(pa.array(order))
