"""Preflight checks, before anything is started or written: the endpoints that a configuration names answer.

    require_endpoint   one short request to an S3 endpoint, so that a wrong one is reported in seconds, not after all retries
    require_output     the output's runs can be listed
    require_cluster    something listens at the cluster's address
    standing_cluster   the cluster that `ray start` made on this machine, if it still listens

Each error names the setting to correct. An endpoint that answers here may still fail later; the run has then begun, and the
same command resumes it. Imports no Ray.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers.config import OutputConfig
from workers.errors import TransientError, UsageError
from workers.storage.objects import stat_object
from workers.storage.store import Store
from workers.table.paths import RUNS

ENDPOINT_SECONDS = 12.0
CLUSTER_SECONDS = 10.0
RAY_ADDRESS = "RAY_ADDRESS"
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by `ray job submit` for its entry point
_log = logging.getLogger("reembed")


def require_endpoint(uri: str, options: Mapping[str, Any], setting: str) -> None:
    """Make one request for the bucket of an S3 URI, or the host of a web address, with short timeouts; other schemes are
    not checked.

    Raises:
        UsageError: nothing answers at the endpoint. Any answer counts, even a refusal, which the first real request reports.
    """
    chain, _, uri = uri.rpartition("::")  # simplecache::s3://…: the store at its end is asked
    if chain:
        own = options.get(uri.partition("://")[0], {})
        options = own if isinstance(own, Mapping) else {}
    web = uri.startswith(("http://", "https://"))
    if not web and not uri.startswith(("s3://", "s3a://")):
        return
    try:
        stat_object(bucket_of(uri), options, retry_seconds=ENDPOINT_SECONDS)
    except (FileNotFoundError, UsageError):
        return
    except TransientError as error:
        if web:
            raise UsageError(f"{setting} {error}; check the address and the network") from None
        raise UsageError(
            f"{setting}: the endpoint does not answer within {ENDPOINT_SECONDS:.0f} s ({error}); "
            f"check {setting.partition('.')[0]}.storage_options.endpoint_url or AWS_ENDPOINT_URL, and the network"
        ) from None


def require_output(config: OutputConfig, store: Store) -> None:
    """List the output's runs, as the first real request does, and name the setting if that is refused.

    Raises:
        UsageError: wrong endpoint, credentials or bucket. TransientError: the store answered once, and failed later.
    """
    require_endpoint(config.uri, config.storage_options, "output.uri")
    try:
        store.folders(RUNS)
    except UsageError as error:
        raise UsageError(f"output.uri {error} (setting output.storage_options)") from None


def require_cluster(address: str) -> None:
    """Open and close a TCP connection to a Ray address; for `auto` to RAY_ADDRESS, if it is set.

    A local Ray and schemes other than ray:// are not checked.

    Raises:
        UsageError: not an address, or nothing listens at it.
    """
    named, at = f"cluster.address={address}", address
    if address == "auto":
        at = os.environ.get(RAY_ADDRESS) or "auto"
        named = f"{RAY_ADDRESS}={at}"
    scheme, separator, rest = at.rpartition("://")
    if at in ("auto", "local") or (separator and scheme != "ray"):
        return
    host, _, port = rest.partition("/")[0].rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"{named}: write auto, local, host:port or ray://host:port")
    why = _unreachable(host, port)
    if why is not None:
        mend = "correct or unset it" if address == "auto" else "correct it"
        raise UsageError(
            f"{named}: no Ray cluster there ({why}); {mend}, start one (`ray start --head`), or use cluster.address=local"
        )


def standing_cluster() -> str | None:
    """host:port of the cluster that `ray start` made on this machine last; None: there is none, or it does not listen.

    Ray notes the address in a file, which stays when the cluster is killed or its machine restarts. Ray alone would
    then try to reach that address for a quarter of an hour.
    """
    noted = _ray_folder() / "ray_current_cluster"
    try:
        address = noted.read_text().strip()
    except (OSError, UnicodeError):
        return None
    host, _, port = address.rpartition(":")
    why = _unreachable(host, port) if host and port.isdecimal() else "not an address"
    if why is None:
        return address
    _log.warning("%s names %s, where no cluster listens (%s): a local Ray is started", noted, address[:100], why)
    return None


def starts_a_ray(address: str) -> bool:
    """Whether this address makes the driver start a local Ray, or join one of this machine."""
    return address == "local" or (address == "auto" and os.environ.get(RAY_ADDRESS, "") in ("", "local"))


def _ray_folder() -> Path:
    """Ray's temporary folder, as Ray finds it."""
    linux = os.environ.get("TMPDIR", "/tmp") if sys.platform.startswith("linux") else "/tmp"  # noqa: S108 - Ray's own
    return Path(os.environ.get("RAY_TMPDIR", linux), "ray")


def _unreachable(host: str, port: str) -> str | None:
    """Why no TCP connection can be made; None: one was."""
    try:
        socket.create_connection((host.strip("[]"), int(port)), CLUSTER_SECONDS).close()
    except (OSError, OverflowError, UnicodeError, ValueError) as error:
        return str(error)
    return None


def bucket_of(uri: str) -> str:
    """The URI of the bucket alone, so that many prefixes of one bucket are checked once."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if separator else uri
