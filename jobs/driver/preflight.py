"""Preflight checks, before anything is started or written: the endpoints that a configuration names answer.

    require_endpoint   one short request to an S3 endpoint, so that a wrong one is reported in seconds, not after all retries
    require_output     the output's runs can be listed
    require_cluster    something listens at the cluster's address

Each error names the setting to correct. An endpoint that answers here may still fail later; the run has then begun, and the
same command resumes it. Imports no Ray.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from workers.config import OutputConfig
from workers.errors import TransientError, UsageError
from workers.storage.objects import stat_object
from workers.storage.store import Store
from workers.table.paths import RUNS

ENDPOINT_SECONDS = 12.0
CLUSTER_SECONDS = 10.0


def require_endpoint(uri: str, options: Mapping[str, Any], setting: str) -> None:
    """Make one request for the bucket of an S3 URI, or the host of a web address, with short timeouts; other schemes are
    not checked.

    Raises:
        UsageError: nothing answers at the endpoint. Any answer counts, even a refusal, which the first real request reports.
    """
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
    """Open and close a TCP connection to a Ray address. `auto`, `local` and schemes other than ray:// are not checked.

    Raises:
        UsageError: not an address, or nothing listens at it.
    """
    scheme, separator, rest = address.rpartition("://")
    if address in ("auto", "local") or (separator and scheme != "ray"):
        return
    host, _, port = rest.partition("/")[0].rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"cluster.address={address}: write auto, local, host:port or ray://host:port")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CLUSTER_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise UsageError(
            f"cluster.address={address}: no Ray cluster there ({error}); correct it, start one (`ray start --head`), "
            "or use local"
        ) from None


def starts_a_ray(address: str) -> bool:
    """Whether this address makes the driver start a local Ray, as far as that is known beforehand."""
    return address == "local" or (address == "auto" and not os.environ.get("RAY_ADDRESS"))


def bucket_of(uri: str) -> str:
    """The URI of the bucket alone, so that many prefixes of one bucket are checked once."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if separator else uri
