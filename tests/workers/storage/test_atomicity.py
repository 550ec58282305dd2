"""A store that does not create atomically is recognised by racing, and a probe's objects do not stay for long."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path

import pytest

from workers.errors import TransientError, UsageError
from workers.storage.atomicity import probe_atomic_create
from workers.storage.store import Store

FOLDER = "runs/probe"


def test_a_store_that_creates_without_asking_is_found_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Lying(Store):
        def _write(self, path: str, data: bytes, *, create: bool) -> bool:
            return super()._write(path, data, create=False)

    lying, honest = Lying(str(tmp_path / "lying"), {}), Store(str(tmp_path / "honest"), {})
    with caplog.at_level(logging.WARNING, "reembed"):
        assert not probe_atomic_create(lying, FOLDER)
    assert not lying.atomic_create
    assert "not atomic here (8 of 8 racers won)" in caplog.text
    assert probe_atomic_create(honest, FOLDER)
    assert honest.atomic_create
    assert lying.list("") == honest.list("") == {}
    assert not probe_atomic_create(Store(f"memory://{uuid.uuid4().hex}", {}), FOLDER)


@pytest.mark.s3
def test_the_server_under_test_creates_atomically(s3_bucket: str) -> None:
    store = Store(f"s3://{s3_bucket}/probe", {})
    store.put("runs/probe/0123", b"racer 3")
    assert probe_atomic_create(store, FOLDER)
    assert store.list("") == {}


def test_what_a_probe_left_is_taken_away_by_the_next(tmp_path: Path) -> None:
    """Credentials expire after the race, before its object is deleted: the driver ends and can delete nothing."""

    class Expiring(Store):
        def delete(self, path: str) -> None:
            if self.list(FOLDER):
                raise UsageError(f"{path}: the credentials were refused")

    expiring, next_one = Expiring(str(tmp_path), {}), Store(str(tmp_path), {})
    with pytest.raises(UsageError, match="credentials were refused"):
        probe_atomic_create(expiring, FOLDER)
    assert [path.rpartition("/")[0] for path in next_one.list("")] == ["runs/probe"]
    assert probe_atomic_create(next_one, FOLDER)
    assert next_one.list("") == {}


def test_a_role_that_may_not_delete_leaves_nothing_behind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class AppendOnly(Store):
        def delete(self, path: str) -> None:
            raise UsageError(f"{path}: access denied (AccessDenied)")

    store = AppendOnly(str(tmp_path), {})
    with caplog.at_level(logging.WARNING, "reembed"):
        assert not probe_atomic_create(store, FOLDER)
    assert not store.atomic_create
    assert "may not delete" in caplog.text
    assert "s3:DeleteObject" in caplog.text
    assert store.list("") == {}


def test_a_probes_leftover_that_cannot_be_deleted_is_logged_and_does_not_fail_the_probe(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = f"{FOLDER}/0123"

    class Keeping(Store):
        def delete(self, path: str) -> None:
            if path == left:
                raise TransientError(f"{path}: no answer")
            super().delete(path)

    store = Keeping(str(tmp_path), {})
    store.put(left, b"racer 3")
    with caplog.at_level(logging.WARNING, "reembed"):
        assert probe_atomic_create(store, FOLDER)
    assert f"{left}: left by an earlier driver, not deleted" in caplog.text
    assert set(store.list("")) == {left}
