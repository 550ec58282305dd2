"""Rows of spilled batches by position are those that pyarrow takes of the whole table."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from workers.host.spill_file import RUN_ROWS, Positions, take_rows, take_runs

WHOLE = pa.table({"number": np.arange(1000), "name": [f"row {number}" for number in range(1000)]})
BATCHES = [WHOLE.slice(start, size).to_batches()[0] for start, size in ((0, 300), (300, 1), (301, 399), (700, 300))]


def runs(*borders: tuple[int, int]) -> Positions:
    return np.concatenate([np.arange(start, stop) for start, stop in borders])


@pytest.mark.parametrize(
    "rows",
    [
        runs((0, 1000)),
        runs((5, 6)),
        runs((250, 750)),
        runs((0, 100), (250, 420), (30, 130)),  # an earlier text again
        runs((0, 200), (199, 400)),  # one row twice
        runs((900, 1000), (0, 305), (7, 8), (306, 600)),
    ],
)
def test_long_runs_are_slices_of_the_batches(rows: Positions) -> None:
    taken = take_runs(BATCHES, rows)
    assert taken is not None
    assert taken.equals(WHOLE.take(pa.array(rows)))
    memory = {column.buffers()[1].address for batch in BATCHES for column in batch.columns}
    assert {chunk.buffers()[1].address for column in taken.columns for chunk in column.chunks} <= memory


def test_short_runs_are_left_to_copying() -> None:
    assert take_runs(BATCHES, np.arange(0, 1000, 2)) is None
    assert take_runs(BATCHES, np.array([3, 900])) is None
    scattered = runs(*((start, start + RUN_ROWS // 2) for start in range(0, 900, 100)))
    assert take_runs(BATCHES, scattered) is None
    assert take_rows(BATCHES, scattered).equals(WHOLE.take(pa.array(scattered)))
