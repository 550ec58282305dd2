"""Storage clients: one fsspec filesystem per URI, its errors translated into three kinds, calls retried with back-off.

    FileNotFoundError    the object does not exist
    StoreRefused         waiting does not help: credentials, bucket, endpoint, region, clock, read-only folder, a 400
    AccessDenied         a StoreRefused: the store knows who asks and refuses the object, perhaps this one alone
    ObjectError          the object is archived, or its web server sends no parts of it
    TransientError       everything else: retried for a number of seconds, then raised (StorageFull: no room is left)

Messages name the URI without credentials. This file does no I/O of its own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, NoReturn, TypeVar, cast

import fsspec
import tenacity
from fsspec.core import url_to_fs
from fsspec.implementations.chained import ChainedFileSystem

from workers.errors import (
    AccessDenied,
    ObjectArchived,
    ObjectError,
    StorageFull,
    StoreRefused,
    TransientError,
    UsageError,
    one_line,
)
from workers.storage.origin import causes, credentials_error, explain_credentials, may_pass, misconfigured, unusable
from workers.storage.uris import public_line, redact, refuse_secrets, scheme_of

RETRY_SECONDS = 60.0  # a longer outage fails the attempt at the shard; the scheduler decides what follows
READ_BLOCK_BYTES = 8 << 20  # one range request while streaming an object
CONNECTIONS = 64  # to one S3 endpoint: botocore's default of 10 would throttle the threads that list and read in parallel
_CREDENTIALS = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden", "InvalidToken", "ExpiredToken",
                "NoCredentials", "Unable to locate credentials", "UserSuspended", "PartialCredentials",
                "ProfileNotFound", "TokenRefreshRequired", "RequestExpired")  # fmt: skip
_EXPIRED = ("ExpiredToken", "TokenRefreshRequired", "RequestExpired", "token included in the request is expired")
_REQUEST = ("InvalidBucketName", "Invalid bucket name", "Invalid endpoint", "PermanentRedirect", "NoRegionError",
            "AuthorizationHeaderMalformed", "CERTIFICATE_VERIFY_FAILED", "InvalidUrl",
            "Session.__init__() got an unexpected keyword")  # fmt: skip
_CLOCK = "RequestTimeTooSkewed"
_NO_RANGES = ("range requests", "Cannot seek")  # in the words of fsspec's client for the web
_DENIED = ("AccessDenied", "Forbidden", "403")  # S3 error codes: these credentials are valid, and do not suffice
_ARCHIVED = "InvalidObjectState"
_S3, _WEB = ("s3", "s3a"), ("http", "https")
_NOT_THERE = (404, 410)  # HTTP statuses
_FULL = ("QuotaExceeded", "InsufficientStorage", "StorageFull", "507")
_BAD_REQUEST = 400
_MAY_PASS = (
    "Throttl",
    "Timeout",
    "TooMany",
    "Limit",
    "SlowDown",
    "Busy",
    "Digest",
    "Checksum",
    "SHA256",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
)  # fmt: skip - parts of the codes of a 400 that the next try may not get
_FOLDER = (errno.ENOTDIR, errno.EISDIR, errno.EROFS, errno.ENAMETOOLONG)
_NOT_CLIENTS = ("builtins", "fsspec", "jobs", "pyarrow", "workers")  # whose exceptions are no storage client's own
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
    _refuse_odd(uri, options)
    settings = dict(options)
    s3 = scheme_of(uri) in _S3
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
    if scheme_of(uri) in _WEB:
        settings["client_kwargs"] = {"timeout": _web_timeout(retry_seconds)} | dict(settings.pop("client_kwargs", {}))
    try:
        fs, path = _open_filesystem(uri, settings)
    except Exception as error:  # noqa: BLE001 - each scheme's own: no library, no host, no login; all are about the URI
        raise UsageError(f"{redact(uri)}: cannot be opened: {_plain(error)}; check the scheme and storage_options") from None
    if s3:
        fs.retries = 1 if brief else 2
        _list_quickly(fs)
    return fs, path


def _refuse_odd(uri: str, options: Mapping[str, Any]) -> None:
    """Raises: UsageError: a URI that no operating system takes, or options of a wrong kind."""
    if "\0" in uri or not _encodable(uri):
        raise UsageError(f"{redact(uri)!r}: holds a character that no name can have; correct the uri")
    if uri.endswith(":"):  # fsspec takes what is put behind it for a second path
        raise UsageError(f"{redact(uri)}: ends with a colon; correct the uri")
    for name in ("client_kwargs", "config_kwargs"):
        if not isinstance(options.get(name, {}), Mapping):
            raise UsageError(f"{redact(uri)}: storage_options.{name} must be a section of settings")
    if "protocol" in options:
        raise UsageError(f"{redact(uri)}: storage_options.protocol: the scheme of the uri says this; leave it out")


def _encodable(uri: str) -> bool:
    """Names that are no UTF-8 are: Python keeps their bytes as low surrogates."""
    try:
        os.fsencode(uri)
    except UnicodeError:
        return False
    return True


def _open_filesystem(uri: str, settings: Mapping[str, Any]) -> tuple[Any, str]:
    """As fsspec's url_to_fs(), but names mean what they say.

    `::` separates a chain only behind a scheme that is made for one (zip, simplecache, ...): fsspec would split
    /docs/std::vector.jsonl as well. `?versionId=` in a key of S3 is a part of it.
    """
    scheme = scheme_of(uri) or ("" if "/" in uri.partition("::")[0] else uri.partition("::")[0]) or "file"
    if _chains(scheme) if "::" in uri else scheme not in _S3:
        fs, path = url_to_fs(uri, **settings)
        return fs, str(path)
    scheme = scheme_of(uri) or "file"
    kind: Any = fsspec.get_filesystem_class(scheme)
    of_uri = kind._get_kwargs_from_urls(uri) | ({"version_aware": False} if scheme in _S3 else {})
    of_scheme = settings.get(scheme, {})
    given = {name: value for name, value in settings.items() if name != scheme}
    return fsspec.filesystem(scheme, **(of_uri | of_scheme | given)), str(kind._strip_protocol(uri))


def _chains(scheme: str) -> bool:
    """Whether filesystems of this scheme lie on top of another one."""
    if scheme not in fsspec.available_protocols():
        return False
    kind = fsspec.get_filesystem_class(scheme)
    return issubclass(kind, ChainedFileSystem) or scheme in ("zip", "tar", "libarchive", "reference")


def _web_timeout(retry_seconds: float) -> Any:
    import aiohttp  # fsspec's own client for the web: loaded only where it is needed

    brief = retry_seconds < RETRY_SECONDS
    return aiohttp.ClientTimeout(
        total=None, sock_connect=retry_seconds / 4 if brief else 10, sock_read=retry_seconds / 2 if brief else 30
    )


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
        if credentials_error(error) is not None:
            raise StoreRefused(f"{redact(uri)}: {_explain(error)}") from None
        cause = _web_failure(error)
        if cause is None:
            raise
        _raise_translated(cause, uri)
    except Exception as error:  # noqa: BLE001 - raised again there: translated, or as it is
        _raise_translated(error, uri)


def _raise_translated(error: Exception, uri: str) -> NoReturn:
    """`from None` throughout: the client's own message may hold keys, and a cause would be logged."""
    if error_code(error) == _ARCHIVED:
        raise ObjectArchived(
            redact(uri), "archived (storage class Glacier or the like), so it cannot be read; restore it, or take it out"
        ) from None
    if isinstance(error, ValueError) and any(words in str(error) for words in _NO_RANGES):
        raise ObjectError(
            redact(uri), "its web server sends no parts of an object (byte ranges); copy it to one that does, or to a folder"
        ) from None
    kind = _kind(error)
    if kind is None and unusable(error):
        why = f"{type(error).__name__}: {_plain(error)}"
        raise StoreRefused(f"{redact(uri)}: cannot be used ({why}); check the uri and storage_options") from None
    if kind is None:
        raise error  # a defect of this program, not of the storage
    raise kind(f"{redact(uri)}: {_explain(error)}") from None


def _web_failure(error: FileNotFoundError) -> Exception | None:
    """What happened on the web, where fsspec says "not found" for everything: nobody listens, 403, 500. None: not found."""
    cause = error.__cause__
    failed = isinstance(cause, TimeoutError) or type(cause).__module__.startswith("aiohttp")
    return cause if failed and isinstance(cause, Exception) and getattr(cause, "status", 0) not in _NOT_THERE else None


def error_code(error: BaseException) -> str:
    """The S3 error code in this error or in one of its causes, or ''."""
    return str(_response(error).get("Error", {}).get("Code", ""))


def _response(error: BaseException) -> dict[str, Any]:
    """What the server answered, as botocore keeps it; empty: it did not answer."""
    answers = (getattr(cause, "response", None) for cause in causes(error))
    return next((answer for answer in answers if isinstance(answer, dict)), {})


def no_bucket(error: BaseException) -> bool:
    """Whether the bucket is missing; clients raise the same exception for a missing object."""
    return error_code(error) == "NoSuchBucket" or "bucket does not exist" in str(error)


def no_object(error: FileNotFoundError) -> bool:
    """Whether this says that an object is missing: not its bucket, and not a program that the client needs."""
    return not no_bucket(error) and credentials_error(error) is None


def _kind(error: Exception) -> type[StoreRefused] | type[TransientError] | None:
    asked = credentials_error(error)
    if asked is not None:
        return TransientError if may_pass(asked) else StoreRefused
    if _full(error):
        return StorageFull
    code = error_code(error)
    text = f"{code} {type(error).__name__} {error}"
    if code in _DENIED or getattr(error, "status", 0) == 403 or (isinstance(error, PermissionError) and not code):
        return AccessDenied
    if (
        getattr(error, "status", 0) == 401
        or isinstance(error, PermissionError)
        or any(word in text for word in (*_CREDENTIALS, *_REQUEST, "RequestTimeTooSkewed"))
    ):
        return StoreRefused
    if _bad_request(error) or misconfigured(error):
        return StoreRefused
    if isinstance(error, OSError):
        return StoreRefused if error.errno in _FOLDER and not error_code(error) else TransientError
    if isinstance(error, NotImplementedError):
        return StoreRefused
    # for servers that answer with a code and no message, s3fs raises something other than OSError; so do other clients
    return TransientError if error_code(error) or type(error).__module__.partition(".")[0] not in _NOT_CLIENTS else None


def _full(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(word in error_code(error) for word in _FULL)


def _bad_request(error: Exception) -> bool:
    """A 400 that the same request always gets. Its answer to a HEAD has no code but `400`."""
    status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status == _BAD_REQUEST and not any(part in error_code(error) for part in _MAY_PASS)


def _explain(error: Exception) -> str:
    """One line: what happened, and how to fix it."""
    asked = credentials_error(error)
    if asked is not None:
        return explain_credentials(asked)
    code = error_code(error)
    plain = _plain(error)
    if _full(error):
        return f"no room is left there ({plain}); free space there, or raise the quota"
    if _CLOCK in f"{code} {plain}":
        return f"the server refuses this machine's clock ({_CLOCK}); set the clock (NTP) and run again"
    if isinstance(error, NotImplementedError):
        return f"its filesystem does not offer what is needed ({plain}); copy the objects to another store"
    named = f"{code} {type(error).__name__} {plain}"
    if any(word in named for word in _REQUEST):
        return f"wrong address or option ({plain}); check the uri, endpoint_url, region and other storage_options"
    if misconfigured(error) and not any(word in named for word in _CREDENTIALS):
        return (
            f"the client refuses its configuration ({plain}); correct ~/.aws/config, the AWS_ variables or storage_options"
        )
    if _kind(error) is StoreRefused and isinstance(error, OSError) and error.errno in _FOLDER:
        return f"cannot be a folder of files ({plain}); choose another uri"
    if any(word in f"{code} {plain}" for word in _EXPIRED):
        return f"the AWS credentials have expired ({plain}); renew them (SSO: `aws sso login`) and run again"
    if _kind(error) is StoreRefused and _bad_request(error):
        return (
            f"the server refuses the request ({plain}); expired credentials, a wrong region, or a feature that it lacks: "
            "check them and storage_options"
        )
    if _kind(error) in (StoreRefused, AccessDenied):
        return f"access denied ({plain}); check credentials, permissions and storage_options"
    return f"storage did not answer as it should: {plain}"


def _plain(error: BaseException) -> str:
    """One line without the credentials that some clients put into their messages."""
    text = one_line(error, None)
    if not isinstance(error, OSError) and error_code(error):
        text = error_code(error)
    if text in ("", "None") or text.endswith("] None"):  # a server that sends only a code
        text = error_code(error) or type(error).__name__
    return public_line(text)
