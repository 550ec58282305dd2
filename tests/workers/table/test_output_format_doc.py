"""docs/output_format.md: its examples run as they stand, and its tables name what is really written."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.workers.output_samples import RUN, rows, schema, unit_vectors, write
from workers.config import LongText, Pooling, VectorType
from workers.records.shard import OutputFile, Receipt
from workers.storage.store import Store
from workers.table.quarantine_file import QUARANTINE_SCHEMA
from workers.table.schema import part_footer
from workers.table.vectors import as_float32, to_arrow

TEXT = (Path(__file__).parents[3] / "docs" / "output_format.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
SECTIONS = ["a", "007", "", None, "ü/x"]


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A published snapshot in the folder `embeddings` of the working directory, and the names of the first examples."""
    monkeypatch.chdir(tmp_path)
    store, shape = Store(str(tmp_path / "embeddings"), {}), schema({"section": pa.string()}, ["section"])
    write(store, shape, [rows(shape, 50, section=SECTIONS * 10)], tmp_path / "spool")
    store.put("CURRENT.json", json.dumps({"run_id": RUN, "data_path": f"data/{RUN}"}).encode())
    return {}


def run(blocks: list[str], names: dict[str, Any]) -> dict[str, Any]:
    for block in blocks:
        exec(compile(block, "docs/output_format.md", "exec"), names)
    return names


def test_examples_find_the_folder_and_decode_its_vectors(names: dict[str, Any]) -> None:
    """Those that read it are tried in tests/readers."""
    run(BLOCKS, names)
    assert names["folder"] == f"embeddings/data/{RUN}"
    assert names["footer"]["reembed.vector"] == "float32"
    vectors = unit_vectors(8)
    for vector, decode in (
        (VectorType.INT8, lambda codes: names["from_int8"](codes, 0.01)),
        (VectorType.BINARY, names["from_binary"]),
    ):
        column, _ = to_arrow(vectors, vector, 0.01)
        codes = column.flatten().to_numpy().reshape(8, -1)
        np.testing.assert_array_equal(decode(codes), as_float32(column, vector, 0.01))


def test_tables_name_everything_that_is_written() -> None:
    named = set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)))
    columns = {*schema(long_text=LongText.CHUNKS).part.names, *schema(pooling=Pooling.TOKENS).part.names}
    assert columns <= named
    assert set(QUARANTINE_SCHEMA.names) <= named
    assert {field.name for field in dataclasses.fields(Receipt)} <= named
    footer = {key.removeprefix("reembed") for key in part_footer(schema().stamp, 0, 0, "", {})}
    assert footer <= {name.removeprefix("reembed") for name in named if name.startswith((".", "reembed."))}
    assert f"{{{', '.join(field.name for field in dataclasses.fields(OutputFile))}}}" in TEXT
