"""Claims of generations that are over: deleted, and a failure to delete them is only logged."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from jobs.driver.claims import Claims
from workers.errors import TransientError
from workers.storage.store import Store


def test_a_claim_that_cannot_be_deleted_is_logged_and_the_others_go(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = "runs/lock/00000001.json"

    class Keeping(Store):
        def delete(self, path: str) -> None:
            if path == kept:
                raise TransientError(f"{path}: no answer")
            super().delete(path)

    store = Keeping(str(tmp_path), {})
    for generation in (1, 2, 3):
        store.put(f"runs/lock/{generation:08d}.json", b"{}")
    with caplog.at_level(logging.WARNING, "reembed"):
        Claims(store).delete([1, 2])
    assert f"{kept}: left by an earlier driver, not deleted" in caplog.text
    assert set(store.list("")) == {kept, "runs/lock/00000003.json"}
