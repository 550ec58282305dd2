"""The columns of the contract, the stamp, and settings that cannot be written."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from tests.workers.output_samples import list_of, plan, schema, stamp
from workers.config import LongText, Pooling, VectorType
from workers.errors import UsageError
from workers.table.schema import output_schema, part_footer, same_columns

KEEP = {"lang": pa.string(), "tags": pa.list_(pa.string()), "year": pa.int32()}


def test_columns_of_the_contract_in_order_partitions_only_in_the_folder() -> None:
    shape = schema(KEEP, ["lang"])
    assert shape.part.names == ["id", "embedding", "num_tokens", "truncated", "text_hash", "tags", "year"]
    assert shape.rows.names == ["id", "embedding", "num_tokens", "truncated", "text_hash", "lang", "tags", "year"]
    types = dict(zip(shape.part.names, shape.part.types, strict=True))
    assert types["embedding"] == list_of(pa.float32(), 16) != pa.list_(pa.float32(), 16)
    assert (types["id"], types["num_tokens"], types["truncated"]) == (pa.string(), pa.int32(), pa.bool_())
    assert (types["text_hash"], types["tags"]) == (pa.binary(16), pa.list_(pa.string()))


@pytest.mark.parametrize(
    ("vector", "stored"),
    [
        (VectorType.FLOAT16, list_of(pa.float16(), 16)),
        (VectorType.INT8, list_of(pa.int8(), 16)),
        (VectorType.BINARY, list_of(pa.uint8(), 2)),
    ],
)
def test_vector_types(vector: VectorType, stored: pa.DataType) -> None:
    assert schema(vector=vector).part.field("embedding").type == stored


def test_chunks_and_tokens_bring_their_columns() -> None:
    chunks = schema(long_text=LongText.CHUNKS)
    assert chunks.part.names[:5] == ["id", "chunk", "chunk_start", "chunk_end", "embedding"]
    assert [chunks.part.field(name).type for name in chunks.part.names[1:4]] == [pa.int32(), pa.int64(), pa.int64()]
    tokens = schema(pooling=Pooling.TOKENS)
    assert tokens.lists
    assert tokens.part.field("embedding").type == list_of(list_of(pa.float32(), 16))
    assert tokens.vector_type == list_of(pa.float32(), 16)
    assert tokens.part.field("tokens").type == list_of(pa.string())


def test_columns_of_an_earlier_version_are_the_same() -> None:
    """It declared the elements of its own lists as nullable; nothing else may differ."""
    for changes in ({}, {"vector": VectorType.INT8}, {"pooling": Pooling.TOKENS}):
        now = schema({"tags": pa.list_(pa.string())}, **changes).part
        vector = now.field("embedding").type
        width = (vector.value_type if changes.get("pooling") else vector).list_size
        number = pa.int8() if "vector" in changes else pa.float32()
        before = pa.list_(number, width)
        then = now.set(1, pa.field("embedding", pa.list_(before) if changes.get("pooling") else before, nullable=False))
        if changes.get("pooling"):
            then = then.set(2, pa.field("tokens", pa.list_(pa.string()), nullable=False))
        assert then != now
        assert same_columns(then, now)
        for other in (
            then.remove(1),
            then.set(1, pa.field("embedding", pa.list_(number, width + 1), nullable=False)),
            then.set(1, pa.field("embedding", pa.list_(pa.float64(), width), nullable=False)),
            then.set(1, then.field(1).with_nullable(True)),
            then.set(len(then) - 1, pa.field("tags", list_of(pa.string()))),
        ):
            assert not same_columns(other, now)


def test_integer_ids_stay_integers() -> None:
    assert output_schema(plan(id_type=pa.int64()), stamp(), []).part.field("id").type == pa.int64()


@pytest.mark.parametrize(
    ("keep", "partition_by", "message"),
    [
        ({"embedding": pa.string()}, [], "'embedding' has the name of an output column"),
        ({"lang": pa.string()}, ["section"], "'section' is not kept"),
        ({"tags": pa.list_(pa.string())}, ["tags"], "can name a folder"),
        ({"blob": pa.binary()}, ["blob"], "can name a folder"),
        ({"gap": pa.month_day_nano_interval()}, [], "'gap' of type month_day_nano_interval cannot be written"),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(
    keep: dict[str, pa.DataType], partition_by: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        schema(keep, partition_by)


def test_binary_needs_a_multiple_of_eight() -> None:
    with pytest.raises(UsageError, match="multiple of 8"):
        schema(vector=VectorType.BINARY, dim=20)


def test_footer_says_everything_and_the_scale_exactly() -> None:
    footer = part_footer(stamp(vector=VectorType.INT8, int8_scale=0.1 + 0.2), 3, 7, "abc", {"lang": None, "x": "é/"})
    assert footer["reembed.run_id"] == "run-1"
    assert (footer["reembed.shard"], footer["reembed.epoch"], footer["reembed.rows_digest"]) == ("3", "7", "abc")
    assert float(footer["reembed.int8_scale"]) == 0.1 + 0.2
    assert (footer["reembed.vector"], footer["reembed.pooling"], footer["reembed.normalize"]) == ("int8", "mean", "true")
    assert (footer["reembed.revision"], footer["reembed.long_text"]) == ("", "truncate")
    assert footer["reembed.partition_values"] == '{"lang": null, "x": "é/"}'
    assert {name.removeprefix("reembed.") for name in footer} == {
        "run_id", "shard", "epoch", "model", "revision", "weights_digest", "tokenizer_digest", "pooling", "normalize",
        "precision", "prompt", "dim", "vector", "int8_scale", "max_tokens", "long_text", "code_version", "rows_digest",
        "partition_values",
    }  # fmt: skip


@pytest.mark.parametrize(
    "change", [{"weights_digest": "other"}, {"prompt": ""}, {"int8_scale": 0.5}, {"precision": "float16"}]
)
def test_fingerprint_tells_settings_apart_but_not_code_versions(change: dict[str, Any]) -> None:
    base = schema(KEEP, ["lang"]).fingerprint()
    assert base == schema(KEEP, ["lang"], code_version="9.9").fingerprint()
    assert base != schema(KEEP, ["lang"], **change).fingerprint()
    assert base != schema(KEEP, ["year"]).fingerprint()
    assert base != schema({**KEEP, "year": pa.int64()}, ["lang"]).fingerprint()


def test_sparse_vectors_are_two_columns() -> None:
    shape = schema(KEEP, ["lang"], pooling=Pooling.SPARSE)
    assert shape.part.names[:6] == ["id", "indices", "weights", "num_tokens", "truncated", "text_hash"]
    assert shape.part.field("indices").type == list_of(pa.int32())
    assert shape.part.field("weights").type == list_of(pa.float32())
    assert (shape.sparse, shape.lists, shape.column, shape.vectors) == (True, True, "weights", ("indices", "weights"))
    assert shape.of_text == ("indices", "weights", "num_tokens", "truncated")
    assert (shape.vector_format.dim, shape.vector_format.sparse) == (16, True)
    with pytest.raises(UsageError, match=r"no column of vectors 'embedding'; it has indices, weights"):
        shape.view("embedding")
    assert not schema().sparse
