"""The S3 server under test, as fixtures hand it out: its endpoint and keys are in os.environ while it is in use.

It is the one that AWS_ENDPOINT_URL names, or one of our own, started once a test session; else the tests are skipped with a
reason that says how to get one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.s3_server.ceph import CephServer, Unavailable
from tests.shared import KEPT, Shared

HARMED_S3 = "s3-harmed"  # name of the server, and of the group of tests that use it: one worker runs them
S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
# Where the user's own environment names an endpoint. Read once: fixtures change the environment.
OUTSIDE = os.environ.get("AWS_ENDPOINT_URL")


@dataclass(frozen=True)
class S3Server:
    """The endpoint under test; keys and endpoint are in os.environ. `ceph` is None when the endpoint came from outside."""

    endpoint: str
    access_key: str
    secret_key: str
    ceph: CephServer | None


@contextmanager
def s3_in_environment(shared: Shared, name: str) -> Iterator[S3Server]:
    """The server of that name, made by whichever worker needs it first."""
    with pytest.MonkeyPatch.context() as patch:
        ceph = None
        if OUTSIDE:
            if missing := [key for key in S3_KEYS if not os.environ.get(key)]:
                pytest.skip(f"s3: AWS_ENDPOINT_URL is set, but {' and '.join(missing)} is not")
        else:
            made = shared.once(name, lambda folder: _start(folder, shared.owner), _stop)
            if "unavailable" in made:
                pytest.skip(f"s3: {made['unavailable']}")
            ceph = CephServer(Path(made["folder"]))
            KEPT.append(ceph)  # a test that crashes it starts it again by this object
            patch.delenv("AWS_PROFILE", raising=False)  # would outrank the keys below
            patch.delenv("AWS_SESSION_TOKEN", raising=False)
            for key, value in ceph.environment().items():
                patch.setenv(key, value)
        try:
            forget_s3_clients()
            key, secret = (os.environ[name] for name in S3_KEYS)
            yield S3Server(os.environ["AWS_ENDPOINT_URL"], key, secret, ceph)
        finally:
            forget_s3_clients()


def forget_s3_clients() -> None:
    """s3fs keeps clients per process; one made under other keys must not be met again."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def _start(folder: Path, owner: int) -> dict[str, Any]:
    server = CephServer(folder)
    try:
        server.install()
    except Unavailable as error:
        return {"unavailable": str(error)}
    KEPT.append(server)
    server.start(owner=owner)
    return {"folder": str(folder)}


def _stop(made: dict[str, Any]) -> list[str]:
    return ["-m", "tests.s3_server", "wipe", made["folder"]] if "folder" in made else []
