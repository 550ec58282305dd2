"""A shard with several columns of vectors: what its parts hold, and what is taken from parts with other columns."""

from __future__ import annotations

import logging
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.workers.output_samples import DIM
from tests.workers.shard_line import Line, documents
from workers.config import LongText, OutputConfig, Pooling, VectorType
from workers.records.shard import Receipt
from workers.table.quarantine_file import read_quarantine
from workers.table.representations import told, vector_formats, with_scales

CUT, SCALE = 8, 0.005
ENTRIES: list[dict[str, Any]] = [
    {"name": "embedding", "type": "float32"},
    {"name": "cut", "dim": CUT, "type": "int8"},
    {"name": "bits", "type": "binary"},
    {"name": "half", "type": "float16"},
]
TEXTS = [f"text {number} about snow and harbours in January" for number in range(40)]


def stamped(entries: list[dict[str, Any]], *, scale: float = SCALE, **more: Any) -> dict[str, Any]:
    """Changes of a stamp for these columns. `scale`: of all int8 columns; SCALE clips the largest components."""
    forms = vector_formats(OutputConfig.model_validate({"uri": "out", "vectors": entries}).columns, DIM)
    scales = dict.fromkeys((form.column for form in forms), scale)
    forms = with_scales(forms, scales)
    vectors, int8_scales = told(forms)
    main = {"dim": forms[0].dim, "vector": forms[0].vector, "int8_scale": forms[0].int8_scale}
    return main | {"vectors": vectors, "int8_scales": int8_scales} | more


def columns(line: Line, receipt: Receipt) -> dict[str, np.ndarray]:
    """Vectors as stored, lists of vectors end to end; and the ids."""
    (file,) = receipt.files
    table = pq.read_table(line.store.uri_of(file.path))
    found = {"id": np.array(table["id"].to_pylist())}
    for name in table.column_names:
        if name in ("embedding", "cut", "bits", "half"):
            column = table[name].combine_chunks()
            column = column.flatten() if column.type.num_fields and not hasattr(column.type, "list_size") else column
            found[name] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
    return found


def check_made_of(full: np.ndarray, found: dict[str, np.ndarray]) -> None:
    """Every other column is what NumPy makes of the float32 one."""
    head = full[:, :CUT].astype(np.float64)
    steps = head / np.linalg.norm(head, axis=1, keepdims=True) / SCALE
    off = np.abs(found["cut"] - np.clip(np.rint(steps), -127, 127))
    assert off.max() <= 1
    assert (off > 0).mean() < 0.01, "numbers half-way between two steps"
    np.testing.assert_array_equal(found["bits"], np.packbits(full > 0, axis=1))
    np.testing.assert_array_equal(found["half"], full.astype(np.float16))


SHAPES: dict[str, dict[str, Any]] = {
    "rows": {},
    "chunks": {"long_text": LongText.CHUNKS},
    "tokens": {"pooling": Pooling.TOKENS},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_all_columns_are_made_of_one_vector(tmp_path: Path, shape: str) -> None:
    plain = Line(tmp_path, SHAPES[shape])
    several = Line(tmp_path, stamped(ENTRIES, **SHAPES[shape]))
    one = columns(plain, plain.run("plain", documents(TEXTS)))
    receipt = several.run("several", documents(TEXTS))
    found = columns(several, receipt)
    np.testing.assert_array_equal(found["embedding"], one["embedding"])
    check_made_of(one["embedding"], found)
    clipped = np.abs(np.rint(one["embedding"][:, :CUT] / np.linalg.norm(one["embedding"][:, :CUT], axis=1)[:, None] / SCALE))
    assert receipt.clipped == (clipped > 127).sum() > 0


def test_a_row_that_one_column_cannot_hold_is_quarantined_whole(tmp_path: Path) -> None:
    line = Line(tmp_path, stamped([{"name": "embedding"}, {"name": "cut", "dim": 8, "type": "binary"}], normalize=False))
    vector = np.zeros(DIM)
    vector[9] = 1  # nothing in the first eight components
    line._vector = lambda ids: vector if 7 in ids else Line._vector(line, ids)  # type: ignore[method-assign]
    word = next(str(number) for number in range(10**6) if zlib.crc32(str(number).encode()) % 30000 == 7)
    receipt = line.run("run", documents(["fine", word, "nan", "fine too"]))
    assert columns(line, receipt)["id"].tolist() == ["doc-0", "doc-3"]
    assert receipt.quarantine is not None
    reasons = {row["id"]: row["reason"] for row in read_quarantine(line.store.read(receipt.quarantine.path)).to_pylist()}
    assert reasons == {"doc-1": "vector is all zeros (column cut)", "doc-2": "vector has NaN or Inf"}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_columns_are_taken_as_they_are(tmp_path: Path, shape: str) -> None:
    line = Line(tmp_path, stamped(ENTRIES, **SHAPES[shape]))
    base = line.run("base", documents(TEXTS))
    again = line.run("next", documents(TEXTS), [base.files[0].path])
    assert (again.reused_rows, again.probed > 0) == (base.rows, True)
    assert again.probe_cosine == pytest.approx(1)
    before, after = columns(line, base), columns(line, again)
    for name in ("embedding", "cut", "bits", "half"):
        np.testing.assert_array_equal(before[name], after[name])


OTHERS: dict[str, list[dict[str, Any]] | None] = {
    "the main column alone": None,
    "other columns": [{"name": "embedding"}, {"name": "cut", "dim": 3}],
    "a main column of bits beside a full one": [{"name": "embedding", "type": "binary"}, {"name": "full"}],
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("before", OTHERS)
def test_new_columns_are_made_of_the_numbers_that_are_there(tmp_path: Path, shape: str, before: str) -> None:
    """The same bits as embedded afresh, and nothing is embedded but probes."""
    entries = OTHERS[before]
    old = Line(tmp_path, SHAPES[shape] if entries is None else stamped(entries, **SHAPES[shape]))
    line = Line(tmp_path, stamped(ENTRIES, **SHAPES[shape]))
    base = old.run("base", documents(TEXTS))
    afresh = line.run("afresh", documents(TEXTS), shard=1)
    made = line.run("made", documents(TEXTS), [base.files[0].path], shard=2)
    assert made.reused_rows == base.rows
    assert len(line.shown) == made.probed > 0
    expected, found = columns(line, afresh), columns(line, made)
    for name, cells in expected.items():
        np.testing.assert_array_equal(found[name], cells)


def test_back_to_one_column(tmp_path: Path) -> None:
    several, one = Line(tmp_path, stamped(ENTRIES)), Line(tmp_path)
    base = several.run("base", documents(TEXTS))
    back = one.run("back", documents(TEXTS), [base.files[0].path], shard=1)
    assert back.reused_rows == 40
    afresh = columns(one, one.run("afresh", documents(TEXTS), shard=2))["embedding"]
    np.testing.assert_array_equal(columns(one, back)["embedding"], afresh)


@pytest.mark.parametrize(
    "entries",
    [
        [{"name": "embedding", "type": "float16"}, {"name": "bits", "type": "binary"}],
        [{"name": "embedding", "dim": 8}, {"name": "bits", "type": "binary"}],
    ],
)
def test_without_the_models_own_numbers_texts_are_embedded(
    tmp_path: Path, entries: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    base = Line(tmp_path, stamped(entries)).run("base", documents(TEXTS))
    line = Line(tmp_path, stamped(ENTRIES))
    with caplog.at_level(logging.WARNING, "reembed"):
        made = line.run("made", documents(TEXTS), [base.files[0].path], shard=1)
    assert (made.reused_rows, len(line.shown)) == (0, 40)
    assert "so its texts are embedded again" in caplog.text


def test_a_vector_that_a_new_column_cannot_hold_is_embedded_and_then_quarantined(tmp_path: Path) -> None:
    """As it would have been from the beginning: here a component beyond float16."""
    huge = np.ones(DIM) * 1e5
    plain = Line(tmp_path, {"normalize": False})
    line = Line(tmp_path, stamped([{"name": "embedding"}, {"name": "half", "type": "float16"}], normalize=False))
    for one in (plain, line):
        one._vector = lambda ids, one=one: huge if len(ids) == 2 else Line._vector(one, ids)  # type: ignore[method-assign,misc]
    base = plain.run("base", documents(["a few fine words", "two words"]))
    assert base.documents == 2
    made = line.run("made", documents(["a few fine words", "two words"]), [base.files[0].path], shard=1)
    assert (made.documents, made.reused_rows, made.quarantined_rows) == (1, 1, 1)


def test_the_vector_types_are_as_asked(tmp_path: Path) -> None:
    line = Line(tmp_path, stamped(ENTRIES))
    shape = line.schema("run")
    assert [form.vector for form in shape.stamp.formats] == [
        VectorType.FLOAT32, VectorType.INT8, VectorType.BINARY, VectorType.FLOAT16
    ]  # fmt: skip
