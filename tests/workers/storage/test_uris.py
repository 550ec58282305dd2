"""URIs: what is shown of them, and which ones are refused because they hold a secret."""

from __future__ import annotations

import pytest

from workers.errors import UsageError
from workers.storage.objects import list_objects
from workers.storage.store import Store
from workers.storage.uris import hide_secrets, public_line, redact, refuse_secrets

SECRET = "PLANTED-SECRET"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://me:pw@host/a.jsonl?sig=1", "https://host/a.jsonl"),
        ("s3://bucket/what?@x", "s3://bucket/what?@x"),
        ("/local/a@b?c", "/local/a@b?c"),
        ("file:///local/a@b?c", "file:///local/a@b?c"),
        ("s3://key:pw@bucket/a@b?c", "s3://bucket/a@b?c"),
        ("simplecache::s3://bucket/a@b", "simplecache::s3://bucket/a@b"),
        ("https://host/a@b.jsonl?sig=1", "https://host/a@b.jsonl"),
        ("https://host?sig=1/2", "https://host"),
    ],
)
def test_redact(uri: str, shown: str) -> None:
    assert redact(uri) == shown


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://key:{SECRET}@bucket/corpus/",
        f"s3://{SECRET}@bucket/corpus/",
        f"s3://key:{SECRET}/with/slashes@bucket/corpus/",
        f"https://me:x/{SECRET}@host/corpus/",
        f"simplecache::s3://key:{SECRET}@bucket/corpus/",
        f"https://me:{SECRET}@host/a.jsonl",
        f"https://host/a.jsonl?X-Amz-Signature={SECRET}",
        f"https://host/a.jsonl?x=1&sig={SECRET}",
        f"sftp://me:{SECRET}@host/corpus/",
        f"gs://me:{SECRET}@bucket/corpus/",
    ],
)
def test_a_uri_with_a_secret_is_refused_without_telling_it(uri: str) -> None:
    for call in (lambda: list_objects(uri, {}), lambda: Store(uri, {})):
        with pytest.raises(UsageError, match=r"holds a password.*storage_options") as caught:
            call()
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/a@b:c?sig=1",
        "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/mine/a@b",
        "/local/me:x@y",
        "file:///a:b@c",
        "https://host/a?download=true",
        "https://host:9000/a@b",
        "https://[::1]:80/a@b",
        "sftp://me@host/a",
    ],
)
def test_a_uri_without_a_secret_is_not_refused(uri: str) -> None:
    refuse_secrets(uri)


def test_a_message_without_credentials_is_left_as_it_is() -> None:
    for text in ("https://host/a.jsonl: not found (404)", "bucket my-bucket, key a@b: no answer"):
        assert hide_secrets(text) == text


def test_credentials_in_a_message_are_masked() -> None:
    text = f"GET https://me:{SECRET}@host/a?sig={SECRET} with Authorization: Bearer {SECRET}, secret_key={SECRET}"
    assert hide_secrets(text) == "GET https://***@host/a with Authorization=***, secret=***"


def test_a_secret_is_masked_before_a_message_is_cut() -> None:
    """Cut first, a key that lies across the limit would be told in part."""
    told = public_line(ValueError("x" * 285 + "\n  token=abcdefghijklmnop and more"))
    assert told == ("x" * 285 + " token=*** and more")[:300]
    assert len(told) == 300
