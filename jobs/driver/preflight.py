"""Before anything is started or written: do the places that a configuration names answer, and which setting is wrong if not?

    require_endpoint   one short request an S3 endpoint, so that a wrong one is said in seconds, not after the retries
    require_output     the output's state can be listed
    require_cluster    something listens at the cluster's address

What answers here may still fail later; by then the run is begun, and the same command resumes it. Imports no Ray.
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
    """Look at the bucket of an S3 URI with short time-outs; other schemes pass unasked.

    Raises:
        UsageError: nothing answers at the endpoint. Any answer, a refusal included, is left to the real request to explain.
    """
    if not uri.startswith(("s3://", "s3a://")):
        return
    try:
        stat_object(bucket_of(uri), options, retry_seconds=ENDPOINT_SECONDS)
    except (FileNotFoundError, UsageError):
        return
    except TransientError as error:
        raise UsageError(
            f"{setting}: the endpoint does not answer within {ENDPOINT_SECONDS:.0f} s ({error}); "
            f"check {setting.partition('.')[0]}.storage_options.endpoint_url or AWS_ENDPOINT_URL, and the network"
        ) from None


def require_output(config: OutputConfig, store: Store) -> None:
    """Ask for the output's runs, as the first real request would, and name the setting if that is refused.

    Raises:
        UsageError: endpoint, credentials or bucket. TransientError: the store answered, and failed after that.
    """
    require_endpoint(config.uri, config.storage_options, "output.uri")
    try:
        store.folders(RUNS)
    except UsageError as error:
        raise UsageError(f"output.uri {error} (setting output.storage_options)") from None


def require_cluster(address: str) -> None:
    """Connect to a Ray address by TCP and hang up. `auto`, `local` and schemes other than ray:// pass unasked.

    Raises:
        UsageError: not an address, or nothing listens there.
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
    """Whether a Ray of our own will be started at this address, as far as that can be told before."""
    return address == "local" or (address == "auto" and not os.environ.get("RAY_ADDRESS"))


def bucket_of(uri: str) -> str:
    """The bucket alone: a hundred prefixes of one bucket are asked once."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if separator else uri
