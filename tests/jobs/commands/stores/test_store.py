"""Values, keys and files of a change set in the forms that stores take; without a store."""

from __future__ import annotations

import datetime
import decimal
import math

import numpy as np
import pyarrow as pa
import pytest

from jobs.commands.stores.store import TABLE, chunks_of, keys_of, kind_of, library, loaded_columns, plain, vectors_of
from workers.errors import UsageError


def test_values_as_json() -> None:
    day = datetime.date(2026, 1, 2)
    assert plain({"a": [1, 2.5, None, True, "x"], "day": day}) == {"a": [1, 2.5, None, True, "x"], "day": "2026-01-02"}
    assert [plain(each) for each in (math.nan, -math.inf, b"\x01\xff")] == ["nan", "-inf", "01ff"]
    assert plain(decimal.Decimal("1.50")) == "1.50"
    assert plain([(1, "a")]) == [[1, "a"]]


def test_keys_have_no_nulls() -> None:
    rows = pa.table({"id": ["a", "b"], "chunk": pa.array([3, None], pa.int32())})
    assert keys_of(rows) == [("a", 3), ("b", -1)]
    assert keys_of(pa.table({"id": [7]})) == [(7, -1)]
    assert chunks_of(rows).type == pa.int32()


def test_vectors_of_a_slice_are_its_own() -> None:
    numbers = np.arange(12, dtype=np.float32)
    cells = pa.FixedSizeListArray.from_arrays(pa.array(numbers), 3)
    rows = pa.table({"embedding": pa.chunked_array([cells[:1], cells[1:]])})
    assert vectors_of(rows.slice(1, 2), 3).tolist() == [[3, 4, 5], [6, 7, 8]]


def test_kinds_of_files() -> None:
    cells = {"id": ["a"], "text_hash": [b"x"], "embedding": [[1.0]]}
    kinds = [kind_of(pa.table({name: cells[name] for name in names})) for names in (("id",), ("id", "text_hash"), cells)]
    assert kinds == ["delete", "patch", "upsert"]


def test_other_columns_of_vectors_are_left_out() -> None:
    schema = pa.schema([(name, pa.int8()) for name in ("id", "embedding", "embedding_8", "lang")])
    assert loaded_columns(schema, ("embedding", "embedding_8")).names == ["id", "embedding", "lang"]


@pytest.mark.parametrize("name", ["", "A", "a-b", "1a", "a" * 49, "a;b", 'a"'])
def test_no_table_name(name: str) -> None:
    assert TABLE.fullmatch(name) is None


def test_a_missing_package_names_its_extra() -> None:
    with pytest.raises(UsageError, match=r"pip install 'reembed\[qdrant\]'"):
        library("no_such_package_at_all", "qdrant")
