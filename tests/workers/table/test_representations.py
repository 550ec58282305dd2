"""Several columns of one vector: which there are, what footers say of them, and their numbers against NumPy in float64."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.workers.output_samples import schema, stamp, unit_vectors
from workers.config import OutputConfig, VectorType
from workers.errors import UsageError
from workers.table.representations import derived, exact_first, parsed, told, vector_formats, whole, with_scales
from workers.table.schema import SnapshotStamp
from workers.table.vectors import VectorFormat, as_float32, to_arrow

THREE: list[dict[str, Any]] = [
    {"name": "cut", "dim": 8, "type": "int8"},
    {"name": "embedding", "type": "float32"},
    {"name": "bits", "type": "binary"},
]


def formats(entries: list[dict[str, Any]], dim: int = 16) -> tuple[VectorFormat, ...]:
    return vector_formats(OutputConfig.model_validate({"uri": "out", "vectors": entries}).columns, dim)


def stamp_of(forms: tuple[VectorFormat, ...]) -> SnapshotStamp:
    vectors, scales = told(forms)
    return stamp(dim=forms[0].dim, vector=forms[0].vector, vectors=vectors, int8_scales=scales)


def test_the_main_column_comes_first_and_the_others_as_they_are_listed() -> None:
    assert formats(THREE) == (
        VectorFormat(VectorType.FLOAT32, None, "embedding", 16),
        VectorFormat(VectorType.INT8, None, "cut", 8, 16),
        VectorFormat(VectorType.BINARY, None, "bits", 16),
    )


def test_all_components_are_the_same_as_none_named() -> None:
    assert formats([{"name": "embedding", "dim": 16}]) == formats([{"name": "embedding"}])
    assert told(formats([{"name": "embedding", "dim": 16}])) == ("", "")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": "wide", "dim": 17}, r"output\.vectors: wide: dim=17: the model's vectors have 16 components"),
        ({"name": "bits", "dim": 12, "type": "binary"}, r"output\.vectors: bits: type=binary .* it has 12; give it a dim"),
    ],
)
def test_what_the_model_cannot_give(entry: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        formats([{"name": "embedding"}, entry])


def test_a_footer_tells_every_column_and_reads_back() -> None:
    forms = with_scales(formats(THREE), {"cut": 0.1 + 0.2, "embedding": None})
    footer = stamp_of(forms).footer()
    assert json.loads(footer["reembed.vectors"]) == [
        {"name": "embedding", "type": "float32", "dim": 16},
        {"name": "cut", "type": "int8", "dim": 8, "of": 16},
        {"name": "bits", "type": "binary", "dim": 16},
    ]
    assert json.loads(footer["reembed.int8_scales"]) == {"cut": 0.1 + 0.2}
    assert (footer["reembed.dim"], footer["reembed.vector"], footer["reembed.int8_scale"]) == ("16", "float32", "")
    assert stamp_of(forms).formats == forms
    for wrong in ("[1]", "{", '[{"name": "x"}]'):
        with pytest.raises(ValueError, match=r"column|Expecting|property"):
            parsed(forms[0], wrong)


def test_one_column_says_what_it_always_said() -> None:
    assert not {"reembed.vectors", "reembed.int8_scales"} & stamp().footer().keys()
    assert schema().rows.names == ["id", "embedding", "num_tokens", "truncated", "text_hash"]


def test_columns_stand_behind_the_main_one() -> None:
    shape = schema(**{name: getattr(stamp_of(formats(THREE)), name) for name in ("vectors", "int8_scales")})
    assert shape.rows.names == ["id", "embedding", "cut", "bits", "num_tokens", "truncated", "text_hash"]
    assert [shape.rows.field(name).type.list_size for name in shape.vectors] == [16, 8, 2]
    assert shape.plain.names == ["id", "num_tokens", "truncated", "text_hash"]
    assert shape.cache.names[-1] == "clipped", "one of them is int8"
    view = shape.view("cut")
    assert (view.stamp.dim, view.vector_type.list_size, view.column) == (8, 8, "cut")
    assert view.part.equals(shape.part)
    assert shape.view("embedding") is shape
    with pytest.raises(UsageError, match=r"no column of vectors 'x'; it has embedding, cut, bits"):
        shape.view("x")


@pytest.mark.parametrize("name", ["id", "tokens", "text_hash", "chunk", "clipped"])
def test_a_name_that_is_taken(name: str) -> None:
    with pytest.raises(UsageError, match=rf"output\.vectors: {name}: is the name of another output column"):
        schema(vectors=told(formats([{"name": "embedding"}, {"name": name}]))[0])


def test_the_first_components_of_length_one() -> None:
    vectors = unit_vectors(50, 24) * 3
    form = VectorFormat(VectorType.FLOAT32, None, "cut", 10, 24)
    wide = vectors[:, :10].astype(np.float64)
    expected = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    np.testing.assert_allclose(derived(vectors, form, normalize=True), expected, atol=1e-7)
    np.testing.assert_array_equal(derived(vectors, form, normalize=False), vectors[:, :10])


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    vectors, form = unit_vectors(257, 384), VectorFormat(VectorType.FLOAT32, None, "cut", 256, 384)
    together = derived(vectors, form, normalize=True)
    for rows in (slice(0, 1), slice(100, 101), slice(3, 200)):
        np.testing.assert_array_equal(derived(vectors[rows], form, normalize=True), together[rows])


def test_all_components_are_the_models_own_bits() -> None:
    vectors = unit_vectors(5, 24) * 2
    assert derived(vectors, VectorFormat(VectorType.INT8, 0.1, "all", 24), normalize=True) is vectors


def test_what_cannot_be_of_length_one_stays_what_it_is_without_a_warning() -> None:
    vectors = np.array([[np.nan, 1, 1], [np.inf, 1, 1], [0, 0, 1], [3, 4, 1]], np.float32)
    found = derived(vectors, VectorFormat(VectorType.FLOAT32, None, "cut", 2, 3), normalize=True)
    assert not np.isfinite(found[:2]).all(axis=1).any()
    np.testing.assert_allclose(found[2:], [[0, 0], [0.6, 0.8]], atol=1e-7)


def test_the_column_that_others_can_be_made_of() -> None:
    full, half = VectorFormat(VectorType.FLOAT32, None, "full", 16), VectorFormat(VectorType.FLOAT16, None, "half", 16)
    cut, bits = VectorFormat(VectorType.FLOAT32, None, "cut", 8, 16), VectorFormat(VectorType.BINARY, None, "embedding", 16)
    assert whole([bits, cut, half, full]) is full
    assert whole([bits, cut, half]) is None
    assert exact_first([bits, half, cut, full]) is full
    assert exact_first([bits, half]) is half


@pytest.mark.slow
def test_bits_and_cut_vectors_are_those_of_sentence_transformers() -> None:
    from sentence_transformers.util.quantization import quantize_embeddings
    from sentence_transformers.util.tensor import truncate_embeddings

    vectors = unit_vectors(200, 384)
    bits, _ = to_arrow(vectors, VectorType.BINARY)
    found = np.asarray(bits.flatten().to_numpy()).reshape(200, 48)
    np.testing.assert_array_equal(found, quantize_embeddings(vectors, precision="ubinary"))
    head = np.asarray(truncate_embeddings(vectors, 256))
    form = VectorFormat(VectorType.FLOAT32, None, "cut", 256, 384)
    np.testing.assert_allclose(
        derived(vectors, form, normalize=True), head / np.linalg.norm(head, axis=1, keepdims=True), atol=1e-7
    )


def test_each_column_is_cast_from_the_same_numbers() -> None:
    """int8 of a cut vector is rounded once: not from another column's rounding."""
    vectors = unit_vectors(40, 16)
    form = VectorFormat(VectorType.INT8, 0.01, "cut", 8, 16)
    stored, _ = to_arrow(derived(vectors, form, normalize=True), VectorType.INT8, 0.01)
    wide = vectors[:, :8].astype(np.float64)
    expected = np.clip(np.rint(wide / np.linalg.norm(wide, axis=1, keepdims=True) / 0.01), -127, 127) * 0.01
    off = np.abs(as_float32(stored, VectorType.INT8, 0.01) - expected)
    assert (off > 1e-6).mean() < 0.01, "but for numbers that stand half-way between two steps"
    assert off.max() < 0.011
