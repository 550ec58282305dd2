"""The conditions under which an evaluation is published, and the configuration's own refusals."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from jobs.evaluate.config import EvaluateSection, SplitSection
from jobs.evaluate.limits import limit_checks, require_known
from jobs.passes.kind import Kept
from workers.errors import UsageError

METRICS = ("macro_f1", "accuracy")


def _section(**settings: object) -> EvaluateSection:
    return EvaluateSection.model_validate({"snapshot": "out", "label": "lang", **settings})


def test_below_a_bound_and_below_last_night() -> None:
    section = _section(min={"accuracy": 0.7, "macro_f1": 0.5}, max_drop=0.01)
    last = Kept("run", {}, {"macro_f1": 0.62})
    checks = limit_checks(section, METRICS, {"macro_f1": 0.6, "accuracy": 0.69}, last)
    assert [(check.name, check.ok) for check in checks] == [
        ("min.accuracy", False),
        ("min.macro_f1", True),
        ("max_drop", False),
    ]
    assert "accuracy is 0.6900, evaluate.min asks for 0.7" in checks[0].reason
    assert "macro_f1 fell from 0.6200 to 0.6000" in checks[2].reason
    assert limit_checks(_section(max_drop=0.03), METRICS, {"macro_f1": 0.6}, last)[0].ok
    assert limit_checks(_section(max_drop=0.0), METRICS, {"macro_f1": 0.6}, None) == ()


def test_a_bound_of_an_unknown_figure() -> None:
    with pytest.raises(UsageError, match=r"evaluate\.min: f1 is no figure of task=classify; there are macro_f1, accuracy"):
        require_known(_section(min={"f1": 0.5}), METRICS)


@pytest.mark.parametrize("split", [{"by": "near"}, {"groups": "dedup"}, {"test": 1.0}, {"folds": 1}])
def test_a_split_that_cannot_be(split: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SplitSection.model_validate(split)
