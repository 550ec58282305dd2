"""Exact copies: by the hash of the text and the number of its chunk, checked against a dictionary in Python."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from workers.vectors.duplicates.exact import HASH, copies_among


def test_copies_are_rows_of_one_text_and_one_chunk() -> None:
    random = np.random.default_rng(1)
    hashes = np.empty(500, HASH)
    hashes["high"], hashes["low"] = random.integers(0, 9, 500), random.integers(0, 9, 500)
    hashes["chunk"], hashes["row"] = random.integers(0, 3, 500), random.permutation(500)
    rows_of = defaultdict(list)
    for cell in np.sort(hashes, order="row"):
        rows_of[cell["high"], cell["low"], cell["chunk"]].append(int(cell["row"]))
    expected = {}
    for rows in rows_of.values():
        if len(rows) > 1:
            expected |= dict.fromkeys(rows[1:], (rows[0], 0)) | {rows[0]: (rows[1], len(rows))}
    found = copies_among(hashes)
    assert {int(row): (int(other), int(copies)) for row, other, copies in found} == expected
    assert len(copies_among(hashes[:0])) == 0
