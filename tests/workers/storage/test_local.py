"""Files of a local Store: hard links where they are supported, no temporary file left behind, errors that name the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from workers.errors import TransientError, UsageError
from workers.storage.store import Store


def test_a_local_copy_is_a_link_where_there_are_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path), {})
    store.put("a", b"1")
    store.copy("a", "b/link")
    assert (tmp_path / "a").samefile(tmp_path / "b/link")

    def refuse(self: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    store.copy("a", "b/link")
    assert not (tmp_path / "a").samefile(tmp_path / "b/link")
    assert store.read("b/link") == b"1"
    assert store.list("b") == {"b/link": 1}


def test_a_file_system_without_hard_links_still_creates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    store = Store(str(tmp_path), {})
    assert store.put_if_absent("key", b"1")
    assert not store.put_if_absent("key", b"2")
    assert store.read("key") == b"1"


def test_a_full_disk_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    store = Store(str(tmp_path), {}, retry_seconds=0.3)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(TransientError, match="No space left"):
            store.put("key", b"1")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_of_the_output_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UsageError, match=r"out.*choose another uri"):
        Store(str(tmp_path / "out"), {}).put("a/b", b"1")
