"""Footers are parsed in an isolated process, which may load pyarrow and the standard library alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
FOLDER = ROOT / "workers" / "reading" / "footers"
MODULES = sorted(f"workers.reading.footers.{path.stem}" for path in FOLDER.glob("*.py") if path.stem != "__init__")
A_RECORD = {"workers.records", "workers.records.pinned_table"}  # imports nothing
ALLOWED = {"workers", "workers.reading", "workers.reading.footers", *A_RECORD, *MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_a_footer_module_loads_pyarrow_the_standard_library_and_a_record(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=400, check=True)
    loaded = set(json.loads(done.stdout))
    assert {name for name in loaded if name.split(".")[0] in ("jobs", "workers")} <= ALLOWED
    assert not loaded & {"torch", "ray", "fsspec", "s3fs", "pydantic", "transformers"}


def test_there_are_such_modules() -> None:
    assert {"workers.reading.footers.parquet", "workers.reading.footers.arrow", "workers.reading.footers.orc"} <= set(
        MODULES
    )
