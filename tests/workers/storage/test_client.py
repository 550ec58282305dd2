"""Errors of storage clients: three kinds, within the retry budget, with advice and without secrets."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from workers.errors import ObjectError, StorageFull, TransientError, UsageError
from workers.storage.client import filesystem, patiently, translated
from workers.storage.objects import list_objects, stat_object
from workers.storage.store import Store

SECRET = "PLANTED-SECRET"


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    "text",
    [
        f"url https://user:{SECRET}@host/x failed",
        f"GET https://host/x?X-Amz-Signature={SECRET}&a=b",
        f"AWSAccessKeyId={SECRET} refused",
        f"{{'secret': '{SECRET}'}}",
        f"Authorization: Bearer {SECRET}",
        f"token = {SECRET}",
    ],
)
def test_secrets_in_a_clients_message_do_not_get_out(text: str) -> None:
    with pytest.raises(TransientError) as caught, translated("s3://bucket/x"):
        raise OSError(text)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_defect_of_the_program_is_not_dressed_up_as_storage() -> None:
    with pytest.raises(ZeroDivisionError), translated("s3://bucket/x"):
        raise ZeroDivisionError


def test_what_passes_is_retried_and_what_does_not_is_not() -> None:
    calls = []

    def third_time_lucky() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionResetError("reset by peer")
        return "there"

    assert patiently(third_time_lucky, "s3://bucket/x") == "there"
    calls.clear()

    def missing() -> None:
        calls.append(1)
        raise FileNotFoundError("x")

    with pytest.raises(FileNotFoundError):
        patiently(missing, "s3://bucket/x")
    assert calls == [1]


@pytest.mark.parametrize(
    ("uri", "options"),
    [
        ("nosuch://x/y", {}),
        ("s3://bucket/x", {"no_such_option_": 1}),
        ("s3://bucket/x", {"endpoint_url": "foo", "key": "k", "secret": SECRET}),
        ("s3://bad_bucket!/x", {"key": "k", "secret": SECRET, "endpoint_url": "http://127.0.0.1:1"}),
        ("s3://bucket/x", {"profile": "no-such-profile"}),
        ("s3://bucket/x", {"client_kwargs": {"no_such_option_": 1}}),
        ("s3://bucket/x", {"session": "x", "skip_instance_cache": True}),
        ("s3://", {}),
        ("http://[::1", {}),
    ],
)
def test_a_wrong_request_is_refused_at_once(uri: str, options: dict[str, Any]) -> None:
    began = time.monotonic()
    with pytest.raises(UsageError, match=r"check") as caught:
        list_objects(uri, options)
    assert time.monotonic() - began < 20
    assert SECRET not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["refused", "silent"])
def test_an_endpoint_that_does_not_answer_fails_within_its_budget(kind: str, silent_port: int) -> None:
    port = silent_port if kind == "silent" else 1
    options = {"endpoint_url": f"http://127.0.0.1:{port}", "key": "k", "secret": SECRET}
    for call in (
        lambda: stat_object("s3://bucket/x", options, retry_seconds=1.5),
        lambda: Store("s3://bucket/out", options, retry_seconds=1.5).read("x"),
    ):
        began = time.monotonic()
        with pytest.raises(TransientError, match=r"s3://bucket/.*storage did not answer") as caught:
            call()
        assert time.monotonic() - began < 20
        assert SECRET not in str(caught.value)


@pytest.mark.s3
def test_wrong_credentials_are_refused_at_once(s3_bucket: str) -> None:
    for options in ({"key": "nobody", "secret": SECRET}, {"anon": True}):
        began = time.monotonic()
        with pytest.raises(UsageError, match=r"access denied .*check credentials") as caught:
            list_objects(f"s3://{s3_bucket}/x", options)
        assert time.monotonic() - began < 20
        assert SECRET not in str(caught.value)


@pytest.mark.s3
def test_a_missing_bucket_is_named(s3_server: object) -> None:
    for call in (list_objects, stat_object):
        with pytest.raises(UsageError, match="s3://no-such-bucket-here/x: the bucket does not exist; create it"):
            call("s3://no-such-bucket-here/x", {})


@pytest.mark.s3
def test_dates_of_listings_are_read_at_once_and_all_others_as_before(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import botocore.parsers

    def slow(text: Any) -> Any:
        raise AssertionError(f"botocore's own reader was asked about {text!r}")

    root = f"s3://{s3_bucket}/dates"
    Store(root, {}).put("a/b", b"1")
    fs, path = filesystem(root, {"skip_instance_cache": True})
    monkeypatch.setattr(botocore.parsers, "DEFAULT_TIMESTAMP_PARSER", slow)
    (listed,) = fs.find(path, detail=True).values()
    assert fs.info(f"{path}/a/b")["LastModified"].replace(microsecond=0) == listed["LastModified"].replace(microsecond=0)


def _answered(status: int, code: str) -> OSError:
    """What s3fs makes of a server's answer."""
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    answer = {"Error": {"Code": code, "Message": "as it says"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error: OSError = translate_boto_error(ClientError(answer, "PutObject"))
    return error


@pytest.mark.parametrize(
    ("status", "code", "kind", "told"),
    [
        (400, "InvalidArgument", UsageError, "refuses the request"),
        (400, "MalformedXML", UsageError, "refuses the request"),
        (400, "400", UsageError, "refuses the request .*expired credentials"),  # the answer to a HEAD has no body
        (400, "SomethingNew", UsageError, "refuses the request"),
        (400, "ExpiredToken", UsageError, "have expired .*renew them"),
        (400, "TokenRefreshRequired", UsageError, "have expired .*renew them"),
        (400, "RequestTimeout", TransientError, "did not answer"),
        (400, "BadDigest", TransientError, "did not answer"),
        (400, "ThrottlingException", TransientError, "did not answer"),
        (400, "XAmzContentSHA256Mismatch", TransientError, "did not answer"),
        (409, "OperationAborted", TransientError, "did not answer"),
        (429, "TooManyRequests", TransientError, "did not answer"),
        (500, "InternalError", TransientError, "did not answer"),
        (503, "SlowDown", TransientError, "did not answer"),
        (403, "QuotaExceeded", StorageFull, "no room is left"),
        (507, "XMinioStorageFull", StorageFull, "no room is left"),
    ],
)
def test_what_waiting_does_not_help_is_not_retried(status: int, code: str, kind: type[Exception], told: str) -> None:
    calls = []

    def call() -> None:
        calls.append(1)
        raise _answered(status, code)

    with pytest.raises(kind, match=rf"s3://bucket/x: .*{told}") as caught:
        patiently(call, "s3://bucket/x", 0.5)
    assert isinstance(caught.value, StorageFull) == (kind is StorageFull)
    assert (len(calls) == 1) == (kind is UsageError)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_apart(number: int) -> None:
    with pytest.raises(StorageFull, match=r"no room is left there .*free space"), translated("/srv/out/x"):
        raise OSError(number, "full")


@pytest.mark.parametrize(
    ("uri", "options", "told"),
    [
        ("s3://bucket/x", {"client_kwargs": "x"}, "client_kwargs must be a section"),
        ("s3://bucket/x", {"config_kwargs": None}, "config_kwargs must be a section"),
        ("s3://bucket/x", {"protocol": "http"}, "the scheme of the uri says this"),
        ("/srv/a\0b", {}, "no name can have"),
        ("x::", {}, "ends with a colon"),
        ("/srv/\ud800", {}, "no name can have"),
    ],
)
def test_what_no_filesystem_takes_is_named(uri: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        filesystem(uri, options)


def test_a_name_that_is_no_utf_8_is_taken() -> None:
    """Python keeps its bytes as low surrogates."""
    assert filesystem("/srv/\udcff", {})[1] == "/srv/\udcff"


def test_an_archived_object_is_that_objects_refusal() -> None:
    with pytest.raises(ObjectError, match=r"s3://bucket/x: archived .*; restore it"):
        patiently(lambda: _raise(_answered(403, "InvalidObjectState")), "s3://bucket/x")


def _raise(error: Exception) -> None:
    raise error
