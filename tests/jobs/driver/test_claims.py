"""Whether a store creates atomically is found out by racing; neither that nor old locks leave anything behind for long."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path

import pytest

from jobs.driver.claims import Claims, probe_atomic_create
from workers.errors import TransientError, UsageError
from workers.storage.objects import Store


def test_a_store_that_creates_without_asking_is_found_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Lying(Store):
        def _write(self, path: str, data: bytes, *, create: bool) -> bool:
            return super()._write(path, data, create=False)

    lying, honest = Lying(str(tmp_path / "lying"), {}), Store(str(tmp_path / "honest"), {})
    with caplog.at_level(logging.WARNING, "reembed"):
        assert not probe_atomic_create(lying)
    assert not lying.atomic_create
    assert "not atomic here (8 of 8 racers won)" in caplog.text
    assert probe_atomic_create(honest)
    assert honest.atomic_create
    assert lying.list("") == honest.list("") == {}
    assert not probe_atomic_create(Store(f"memory://{uuid.uuid4().hex}", {}))


@pytest.mark.s3
def test_the_server_under_test_creates_atomically(s3_bucket: str) -> None:
    store = Store(f"s3://{s3_bucket}/probe", {})
    store.put("runs/probe/0123", b"racer 3")
    assert probe_atomic_create(store)
    assert store.list("") == {}


def test_what_a_probe_left_is_taken_away_by_the_next(tmp_path: Path) -> None:
    """A key that runs out after the race, before its object is deleted: the driver ends, and can delete nothing."""

    class Refusing(Store):
        def delete(self, path: str) -> None:
            raise UsageError(f"{path}: the credentials were refused")

    refusing, next_one = Refusing(str(tmp_path), {}), Store(str(tmp_path), {})
    with pytest.raises(UsageError, match="credentials were refused"):
        probe_atomic_create(refusing)
    assert [path.rpartition("/")[0] for path in next_one.list("")] == ["runs/probe"]
    assert probe_atomic_create(next_one)
    assert next_one.list("") == {}


def test_what_cannot_be_tidied_is_told_and_holds_nobody_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = {"runs/probe/0123": b"racer 3", "runs/lock/00000001.json": b"{}"}

    class Keeping(Store):
        def delete(self, path: str) -> None:
            if path in old:
                raise TransientError(f"{path}: no answer")
            super().delete(path)

    store = Keeping(str(tmp_path), {})
    for path, data in old.items():
        store.put(path, data)
    with caplog.at_level(logging.WARNING, "reembed"):
        assert probe_atomic_create(store)
        Claims(store).delete([1])
    assert [path for path in old if f"{path}: left by an earlier driver, not deleted" in caplog.text] == list(old)
    assert set(store.list("")) == set(old)
