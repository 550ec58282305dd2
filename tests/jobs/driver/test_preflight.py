"""A cluster that is gone is told in seconds, by the name of the setting or the file that still names it."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.driver.preflight import ENDPOINT_SECONDS, require_cluster, require_endpoint, standing_cluster, starts_a_ray
from workers.errors import UsageError


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Ray notes the cluster of this machine."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def test_an_address_of_the_environment_is_asked_first(closed: str, listening: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for address, named in ((closed, f"RAY_ADDRESS={closed}"), (f"ray://{closed}", "RAY_ADDRESS=ray://")):
        monkeypatch.setenv("RAY_ADDRESS", address)
        began = time.monotonic()
        with pytest.raises(UsageError, match=rf"^{named}.*no Ray cluster there .*correct or unset it"):
            require_cluster("auto")
        assert time.monotonic() - began < 20
        require_cluster("local")
    for address in (listening, f"ray://{listening}", "local", "auto", ""):
        monkeypatch.setenv("RAY_ADDRESS", address)
        require_cluster("auto")
    monkeypatch.setenv("RAY_ADDRESS", "head-of-yesterday")
    with pytest.raises(UsageError, match="RAY_ADDRESS=head-of-yesterday: write auto, local, host:port"):
        require_cluster("auto")


def test_the_cluster_of_this_machine(noted: Path, listening: str, closed: str, caplog: pytest.LogCaptureFixture) -> None:
    assert standing_cluster() is None
    noted.write_text(listening)
    assert standing_cluster() == listening
    assert caplog.text == ""
    for address in (
        closed,
        "",
        "nonsense",
        "host:port",
        "127.0.0.1:99999999",
        "\udcff:1".encode("utf-8", "surrogateescape"),
    ):
        noted.write_bytes(address if isinstance(address, bytes) else address.encode())
        caplog.clear()
        with caplog.at_level(logging.WARNING, "reembed"):
            assert standing_cluster() is None
    noted.write_text(closed)
    with caplog.at_level(logging.WARNING, "reembed"):
        assert standing_cluster() is None
    assert f"{noted} names {closed}, where no cluster listens" in caplog.text


def test_which_addresses_start_a_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    for named, told in (("", True), ("local", True), ("127.0.0.1:1", False)):
        monkeypatch.setenv("RAY_ADDRESS", named)
        assert starts_a_ray("auto") is told
        assert starts_a_ray("local") is True
        assert starts_a_ray("127.0.0.1:2") is False


@pytest.mark.slow
def test_a_chain_of_filesystems_is_asked_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens there. Without this look botocore alone would try AWS_MAX_ATTEMPTS times, however many that is."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1" + "0" * 30)
    # The endpoint is a setting here, not AWS_ENDPOINT_URL: fsspec keeps one connection for the same settings, and an earlier
    # test may have opened it to a server that answers.
    store = {"endpoint_url": "http://127.0.0.1:9", "key": "x", "secret": "y"}
    began = time.monotonic()
    with pytest.raises(UsageError, match=r"model\.name: the endpoint does not answer"):
        require_endpoint("simplecache::s3://bucket/x", {"s3": store}, "model.name")
    assert time.monotonic() - began < 2 * ENDPOINT_SECONDS
