"""Storage clients: one fsspec filesystem per URI, its errors translated into three kinds, calls retried with back-off.

    FileNotFoundError    the object does not exist
    UsageError           waiting does not help: credentials, bucket, endpoint, region, clock, read-only folder
    TransientError       everything else: retried for a number of seconds, then raised

Messages name the URI without credentials. This file does no I/O of its own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, TypeVar, cast

import tenacity
from fsspec.core import url_to_fs

from workers.errors import ObjectError, StoreRefused, TransientError, UsageError
from workers.storage.uris import hide_secrets, redact, refuse_secrets

RETRY_SECONDS = 60.0  # a longer outage fails the attempt at the shard; the scheduler decides what follows
READ_BLOCK_BYTES = 8 << 20  # one range request while streaming an object
CONNECTIONS = 64  # to one S3 endpoint: botocore's default of 10 would throttle the threads that list and read in parallel
_CREDENTIALS = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden", "InvalidToken", "ExpiredToken",
                "NoCredentials", "Unable to locate credentials", "UserSuspended", "PartialCredentials",
                "ProfileNotFound")  # fmt: skip
_REQUEST = ("InvalidBucketName", "Invalid bucket name", "Invalid endpoint", "PermanentRedirect", "NoRegionError",
            "AuthorizationHeaderMalformed", "CERTIFICATE_VERIFY_FAILED",
            "Session.__init__() got an unexpected keyword")  # fmt: skip
_CLOCK = "RequestTimeTooSkewed"
_FOLDER = (errno.ENOTDIR, errno.EISDIR, errno.EROFS, errno.ENAMETOOLONG)
_CLIENTS = ("botocore", "aiohttp", "aiobotocore")
_T = TypeVar("_T")


class _Count:
    """A counter for all threads of the process."""

    def __init__(self) -> None:
        self.total = 0
        self._lock = threading.Lock()

    def note(self, _state: tenacity.RetryCallState) -> None:
        with self._lock:
            self.total += 1


_retried = _Count()


def filesystem(uri: str, options: Mapping[str, Any], retry_seconds: float = RETRY_SECONDS) -> tuple[Any, str]:
    """The fsspec filesystem of a URI, and the path within it.

    A `retry_seconds` below RETRY_SECONDS also shortens the client's own timeouts.

    Raises:
        UsageError: unknown scheme, options that the filesystem does not accept, or a URI with a password.
    """
    refuse_secrets(uri)
    settings = dict(options)
    s3 = uri.startswith(("s3://", "s3a://"))
    brief = retry_seconds < RETRY_SECONDS
    if s3:
        client = dict(settings.pop("client_kwargs", {}))
        # Three layers retry: s3fs, botocore, and patiently() above both. A server that accepts connections and never answers
        # costs one attempt their product, 30 s * 3 * 2 at most; with a short budget, half the budget, once.
        config: dict[str, Any] = {
            "connect_timeout": retry_seconds / 4 if brief else 10,
            "read_timeout": retry_seconds / 2 if brief else 30,
            "retries": {"max_attempts": 0 if brief else 2, "mode": "standard"},
            "max_pool_connections": CONNECTIONS,
        }
        endpoint = settings.get("endpoint_url") or client.get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:  # servers other than AWS often lack the trailing checksums that SDKs send since 2025
            config |= {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
        settings["config_kwargs"] = config | dict(settings.pop("config_kwargs", {}))
        settings |= {"use_listings_cache": False, "client_kwargs": client}
    try:
        fs, path = url_to_fs(uri, **settings)
    except (ImportError, ValueError, TypeError) as error:
        raise UsageError(f"{redact(uri)}: cannot be opened: {error}; check the scheme and storage_options") from None
    if s3:
        fs.retries = 1 if brief else 2
        _list_quickly(fs)
    return fs, path


def _list_quickly(fs: Any) -> None:
    """Parse the dates of listings quickly: they take half of a page's time, since botocore tries every known date format.

    If s3fs has to create a new session (to log in again), that one parses dates slowly, as without this function.
    """
    from aiobotocore.session import AioSession  # s3fs has loaded both
    from botocore.utils import parse_timestamp

    def moment(text: Any) -> datetime:
        try:
            return datetime.fromisoformat(text)  # the format of listings; other answers have other formats
        except (ValueError, TypeError):
            return cast("datetime", parse_timestamp(text))

    if fs.session is None:
        with contextlib.suppress(TypeError):  # options that it does not accept: the first request reports them
            fs.session = AioSession(**fs.kwargs)
            fs.session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=moment)


def patiently(call: Callable[[], _T], uri: str, seconds: float = RETRY_SECONDS) -> _T:
    """Run a storage call with its errors translated; retry TransientError for `seconds`.

    Raises:
        FileNotFoundError, UsageError: at once. TransientError: after `seconds`, or later if the last attempt hangs.
    """

    def attempt() -> _T:
        with translated(uri):
            return call()

    retrying = tenacity.Retrying(
        before_sleep=_retried.note,
        retry=tenacity.retry_if_exception_type(TransientError),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=8),
        stop=tenacity.stop_before_delay(seconds),
        reraise=True,
    )
    return retrying(attempt)


def retries() -> int:
    """Storage calls repeated by `patiently` since this process started; repetitions inside botocore are not counted."""
    return _retried.total


@contextlib.contextmanager
def translated(uri: str) -> Iterator[None]:
    """Translate errors of fsspec, botocore and the operating system: see the table at the top of this file."""
    try:
        yield
    except (UsageError, TransientError, ObjectError, FileExistsError):
        raise
    except FileNotFoundError as error:
        if no_bucket(error):
            raise StoreRefused(f"{redact(uri)}: the bucket does not exist; create it or correct the uri") from None
        raise
    except Exception as error:
        kind = _kind(error)
        if kind is None:
            raise  # a defect of this program, not of the storage
        # `from None`: the client's own message may hold keys, and a cause would be logged
        refused = StoreRefused if kind is UsageError else kind
        raise refused(f"{redact(uri)}: {_explain(error)}") from None


def error_code(error: BaseException) -> str:
    """The S3 error code in this error or in one of its causes, or ''."""
    seen: BaseException | None = error
    for _ in range(20):  # causes can form a cycle
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        seen = seen and (seen.__cause__ or seen.__context__)
    return ""


def no_bucket(error: BaseException) -> bool:
    """Whether the bucket is missing; clients raise the same exception for a missing object."""
    return error_code(error) == "NoSuchBucket" or "bucket does not exist" in str(error)


def _kind(error: Exception) -> type[UsageError] | type[TransientError] | None:
    text = f"{error_code(error)} {type(error).__name__} {error}"
    if isinstance(error, PermissionError) or any(
        word in text for word in (*_CREDENTIALS, *_REQUEST, "RequestTimeTooSkewed")
    ):
        return UsageError
    if isinstance(error, OSError):
        return UsageError if error.errno in _FOLDER and not error_code(error) else TransientError
    # for servers that answer with a code and no message, s3fs raises something other than OSError
    return TransientError if error_code(error) or type(error).__module__.partition(".")[0] in _CLIENTS else None


def _explain(error: Exception) -> str:
    """One line: what happened, and how to fix it."""
    code = error_code(error)
    plain = _plain(error)
    if _CLOCK in f"{code} {plain}":
        return f"the server refuses this machine's clock ({_CLOCK}); set the clock (NTP) and run again"
    if any(word in f"{code} {type(error).__name__} {plain}" for word in _REQUEST):
        return f"wrong address or option ({plain}); check the uri, endpoint_url, region and other storage_options"
    if _kind(error) is UsageError and isinstance(error, OSError) and error.errno in _FOLDER:
        return f"cannot be a folder of files ({plain}); choose another uri"
    if _kind(error) is UsageError:
        return f"access denied ({plain}); check credentials, permissions and storage_options"
    return f"storage did not answer as it should: {plain}"


def _plain(error: BaseException) -> str:
    """One line without the credentials that some clients put into their messages."""
    text = " ".join(str(error).split())
    if not isinstance(error, OSError) and error_code(error):
        text = error_code(error)
    if text in ("", "None") or text.endswith("] None"):  # a server that sends only a code
        text = error_code(error) or type(error).__name__
    return hide_secrets(text)[:300]
