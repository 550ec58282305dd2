"""Requests that task classify refuses: one line that names the setting, the value and the mend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.evaluate import classify
from tests.jobs.evaluate.labelled import Rows, drawn, evaluated, publish, section_of
from workers.config import VectorType
from workers.errors import UsageError
from workers.vectors.evaluation.classes.labels import MAX_CLASSES

ROWS = 300


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad") / "out"
    rows = drawn(ROWS, seed=1)
    keep = {
        "score": pa.array(np.linspace(0, 1, ROWS)),
        "one": pa.array(["same"] * ROWS),
        "none": pa.array([None] * ROWS, pa.string()),
        "many": pa.array([f"value {at}" for at in range(ROWS)]),
        "half": pa.array([None if at % 3 else "yes" if at % 2 else "no" for at in range(ROWS)]),
        "raw": pa.array([b"x"] * ROWS),
    }
    publish(folder, rows, keep=keep)
    return folder


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"label": None}, r"evaluate\.label: needed for task=classify.*kept: .*lang"),
        ({"label": "section"}, r"evaluate\.label: section is not in the snapshot.*embed with corpus\.keep=\[section\]"),
        ({"label": "score"}, r"evaluate\.label: score is a number with a fraction.*evaluate\.task=pairs"),
        ({"label": "raw"}, r"evaluate\.label: raw is of type binary; a label is a string"),
        ({"label": "one"}, r"evaluate\.label: one has one value, same: two classes are needed"),
        ({"label": "none"}, r"evaluate\.label: none is null in 300 of 300 rows"),
        ({"label": "half"}, r"evaluate\.label: half is null in 200 of 300 rows; label more of them"),
        ({"label": "many"}, r"evaluate\.label: many has fewer than two classes"),
        ({"split": {"column": "where"}}, r"evaluate\.split\.column: where is not in the snapshot"),
        ({"split": {"column": "score"}}, r"evaluate\.split\.column: score is of type double; it must say `train` or `test`"),
        ({"split": {"column": "one"}}, r"evaluate\.label: lang has fewer than two classes to learn"),
        ({"split": {"by": "near", "groups": "{output}"}}, r"evaluate\.split\.groups=.*no output of `reembed dedup`"),
        ({"against": "{output}"}, r"evaluate\.against=.*no output of `reembed evaluate`"),
        ({"against": "{output}.not"}, r"nothing is published there"),
    ],
)  # fmt: skip
def test_refused(output: Path, settings: dict[str, Any], words: str) -> None:
    def placed(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: placed(inner) for name, inner in value.items()}
        return value.replace("{output}", str(output)) if isinstance(value, str) else value

    with pytest.raises(UsageError, match=words) as caught:
        evaluated(section_of(output, **placed(settings)))
    assert "\n" not in str(caught.value)


def test_too_many_classes(tmp_path: Path) -> None:
    rows = drawn(MAX_CLASSES + 500, dim=8)
    labels = np.array([f"label {at}" for at in range(len(rows.texts))])
    publish(tmp_path / "out", Rows(rows.vectors, labels, rows.texts), shards=3)
    with pytest.raises(UsageError, match=r"evaluate\.label: lang has 1,500 values and more; at most 1,000 classes"):
        evaluated(section_of(tmp_path / "out"))


def test_binary_vectors_are_allowed_and_said(tmp_path: Path) -> None:
    publish(tmp_path / "out", drawn(ROWS, seed=1), vector=VectorType.BINARY)
    outcome, _ = evaluated(section_of(tmp_path / "out"))
    assert any("binary vectors" in note for note in outcome.facts["notes"])
    assert any("binary vectors" in line for line in classify.text(outcome.facts))


def test_numbers_and_booleans_are_labels(tmp_path: Path) -> None:
    rows = drawn(ROWS, seed=1)
    numbers = np.array([int(name[-1]) * 5 for name in rows.labels])
    keep = {"number": pa.array(numbers), "flag": pa.array(numbers > 0)}
    publish(tmp_path / "out", rows, keep=keep)
    facts = evaluated(section_of(tmp_path / "out", label="number"))[0].facts
    assert list(facts["classes"]) == sorted(facts["classes"], key=int)
    assert set(evaluated(section_of(tmp_path / "out", label="flag"))[0].facts["classes"]) == {"true", "false"}
