"""The setting output.vectors: what it takes, and what its errors say."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.config import RunConfig, parse_config, with_overrides
from workers.config import OutputConfig, VectorType
from workers.errors import UsageError


def parsed(output: dict[str, Any]) -> OutputConfig:
    return parse_config({"corpus": {"uri": "in/"}, "output": {"uri": "out"} | output}, "c.yaml").output


def test_one_column_is_called_embedding_and_has_the_short_forms_type() -> None:
    (column,) = parsed({"vector": "int8"}).columns
    assert (column.name, column.type, column.dim) == ("embedding", VectorType.INT8, None)
    assert parsed({"vector": "int8"}).model_dump(mode="json").keys() == parsed({}).model_dump(mode="json").keys()
    assert "vectors" not in parsed({}).model_dump()


def test_what_is_stored_of_several_reads_back() -> None:
    output = parsed({"vectors": [{"name": "bits", "type": "binary"}, {"name": "embedding", "dim": 8}]})
    assert [column.name for column in output.columns] == ["embedding", "bits"]
    stored = output.model_dump(mode="json")
    assert "vector" not in stored
    assert parsed(stored) == output


def test_on_the_command_line() -> None:
    raw: dict[str, Any] = {"corpus": {"uri": "in/"}, "output": {"uri": "out"}}
    override = "output.vectors=[{name: embedding}, {name: e8, dim: 8, type: int8}]"
    config = with_overrides(raw, [override], "c.yaml", RunConfig)
    assert [(column.name, column.dim) for column in config.output.columns] == [("embedding", None), ("e8", 8)]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ({"vectors": [{"name": "bits"}]}, r"output\.vectors: none is called embedding, .* give the main one that name"),
        ({"vectors": [{"name": "embedding"}] * 2}, r"output\.vectors: two are called embedding; give each column a name"),
        ({"vectors": [{"name": "a.b"}]}, r"output\.vectors\.0\.name: must be letters, digits and _, .* \(got 'a\.b'\)"),
        ({"vectors": [{"name": ""}]}, r"output\.vectors\.0\.name: must be letters"),
        ({"vectors": [{"name": "embedding", "dim": 0}]}, r"output\.vectors\.0\.dim: should be greater than or equal to 1"),
        ({"vectors": [{"name": "embedding", "typ": "int8"}]}, r"unknown key output\.vectors\.0\.typ; did you mean type\?"),
        ({"vectors": [{"type": "int8"}]}, r"output\.vectors\.0\.name is required"),
        ({"vectors": [{"name": "embedding", "type": "int4"}]}, r"output\.vectors\.0\.type: should be 'float32', 'float16'"),
        ({"vector": "int8", "vectors": [{"name": "embedding"}]}, r"output: vector=int8 and vectors: .* leave vector out"),
        ({"vectors": "embedding"}, r"output\.vectors: should be a valid list"),
    ],
)
def test_what_is_refused(output: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        parsed(output)
    assert "\n" not in str(raised.value)
