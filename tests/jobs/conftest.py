"""Places that the driver's tests write to: a local folder, and a bucket of the real S3 server."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """One of its own for every test."""
    if request.param == "s3":
        return f"s3://{request.getfixturevalue('s3_bucket')}/{uuid.uuid4().hex[:8]}"
    return str(tmp_path)


@pytest.fixture
def uri(folder: str) -> str:
    """An output's."""
    return f"{folder}/out"
