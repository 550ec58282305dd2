"""The report's sections: every figure that readers compare is there, and names from corpora are escaped."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from jobs.evaluate.classes.report import _against
from tests.jobs.evaluate.labelled import Rows, drawn, evaluated, publish, section_of


@pytest.mark.slow
def test_sections(tmp_path: Path) -> None:
    rows = drawn(900, seed=12)
    labels = np.where(rows.labels == "class 1", "<b>one</b> & $two$", rows.labels)
    publish(tmp_path / "out", Rows(rows.vectors, labels, rows.texts))
    outcome, _ = evaluated(section_of(tmp_path / "out"), drawn_report=True)
    pages = dict(outcome.report)
    assert list(pages) == [
        "What the vectors are worth", "Learning curve", "ROC", "Precision and recall", "Confusion of the worst 20 classes",
        "Classes, the worst first", "Labels to look at",
    ]  # fmt: skip
    against = {
        "verdict": "worse", "run_id": "run", "rows": 1234, "macro_f1": 0.5, "other_macro_f1": 0.6,
        "macro_f1_interval": [-0.2, -0.05],
        "lost_classes": [{"class": "<i>", "f1": 0.1, "other_f1": 0.4}],
        "lost_rows": [{"id": "<row>", "given": "a", "predicted": "b"}],
    }  # fmt: skip
    compared = _against(against)
    assert "Worse: macro-F1 0.5000 against 0.6000 of run, on the same 1,234 rows" in compared
    assert "&lt;i&gt;" in compared
    assert "&lt;row&gt;" in compared
    whole = "".join(pages.values())
    assert "<b>" not in whole
    assert "&lt;b&gt;one&lt;/b&gt; &amp; $two$" in pages["Classes, the worst first"]
    facts = outcome.facts
    assert f'<td class="number foreign" data-is="value">{facts["macro_f1"]:.4f}</td>' in pages["What the vectors are worth"]
    for at in facts["learning_curve"]:
        assert f"{at['training_rows']:,} rows {at['macro_f1']:.3f}" in pages["Learning curve"]
    for title in ("Learning curve", "ROC", "Precision and recall", "Confusion of the worst 20 classes"):
        assert pages[title].count("<svg role=") == 2
    ids = re.findall(r' id="([^"]*)"', whole)
    assert len(ids) == len(set(ids))
    assert "<script" not in whole
    assert "http" not in re.sub(r"http://www\.w3\.org/\S+", "", whole)
