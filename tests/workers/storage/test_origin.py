"""Credentials that cannot be obtained: the client's own words and the remedy, at once, and never a stack in the log."""

from __future__ import annotations

import http.server
import logging
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.errors import TransientError, UsageError
from workers.storage.objects import list_objects, stat_object
from workers.storage.origin import credentials_error
from workers.storage.store import Store

SESSION = "[sso-session x]\nsso_region = us-east-1\nsso_start_url = https://example.awsapps.com/start\n"
SSO = "sso_session = x\nsso_account_id = 123456789012\nsso_role_name = r"
REFUSED = (
    b"<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>User: me is not authorized to perform: "
    b"sts:AssumeRole</Message></Error></ErrorResponse>"
)


class _Refusing(http.server.BaseHTTPRequestHandler):
    status, body = 403, REFUSED

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def sts() -> Iterator[str]:
    """A token service that lets nobody assume a role."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HOME with an empty ~/.aws, and nothing else that could give credentials. Returns the config file."""
    (tmp_path / ".aws").mkdir()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / ".aws" / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / ".aws" / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    return tmp_path / ".aws" / "config"


def _program(folder: Path, text: str) -> str:
    (folder / "helper.py").write_text(text)
    return f"{sys.executable} {folder / 'helper.py'}"


def _refusals(profile: str) -> Iterator[str]:
    """What each kind of request is told. Each has to come within seconds, whatever retries below."""
    for request in (
        lambda: list_objects(f"s3://bucket-{profile}/docs/", {"profile": profile}),
        lambda: stat_object(f"s3://bucket-{profile}/docs/x", {"profile": profile}),
        lambda: Store(f"s3://bucket-{profile}/out", {"profile": profile}).exists("CURRENT.json"),
        lambda: Store(f"s3://bucket-{profile}/out", {"profile": profile}).put("x", b"1"),
    ):
        began = time.monotonic()
        with pytest.raises(UsageError) as caught:
            request()  # type: ignore[no-untyped-call]
        assert time.monotonic() - began < 20, "not after a budget of retries"
        assert str(caught.value).startswith(f"s3://bucket-{profile}/")
        yield str(caught.value)


@pytest.mark.parametrize(
    ("profile", "settings", "told"),
    [
        ("sso", SSO, ["Token for x does not exist", "aws sso login"]),
        ("gone", "credential_process = /nonexistent/helper", ["/nonexistent/helper", "credential_process"]),
        ("folder", "credential_process = /tmp", ["Permission denied", "credential_process"]),
        ("exits", "EXITS", ["vault is sealed", "credential_process"]),
        ("prose", "PROSE", ["credential_process"]),
        ("twice", "region = eu-west-1", ["Unable to parse config file"]),
        ("loop", "role_arn = arn:aws:iam::1:role/r\nsource_profile = nowhere", ["nowhere", "AWS profile"]),
    ],
)
def test_a_profile_that_gives_none(profiles: Path, profile: str, settings: str, told: list[str]) -> None:
    if settings == "EXITS":
        program = _program(profiles.parent, "import sys; print('vault is sealed', file=sys.stderr); sys.exit(3)")
        settings = f"credential_process = {program}"
    if settings == "PROSE":
        program = _program(profiles.parent, "print('please log in')")
        settings = f"credential_process = {program}"
    profiles.write_text(f"[profile {profile}]\n{settings}\nregion = us-east-1\n{SESSION}")
    for message in _refusals(profile):
        assert [words for words in told if words not in message] == [], message
        assert "endpoint" not in message
        assert "no objects" not in message


def test_a_role_that_may_not_be_assumed(profiles: Path, sts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts)
    profiles.write_text(
        "[profile assume]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = me\nregion = us-east-1\n"
        "[profile me]\naws_access_key_id = AKIA\naws_secret_access_key = PLANTED-SECRET\n"
    )
    for message in _refusals("assume"):
        assert "not authorized to perform: sts:AssumeRole" in message
        assert "trust policy" in message
        assert "PLANTED-SECRET" not in message


def test_a_token_service_that_fails_may_answer_later(
    profiles: Path, sts: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts)
    monkeypatch.setattr(_Refusing, "status", 503)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(_Refusing, "body", b"<ErrorResponse><Error><Code>ServiceUnavailable</Code></Error></ErrorResponse>")
    profiles.write_text(
        "[profile weather]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = me\nregion = us-east-1\n"
        "[profile me]\naws_access_key_id = AKIA\naws_secret_access_key = y\n"
    )
    with caplog.at_level(logging.WARNING), pytest.raises(TransientError, match="no AWS credentials"):
        stat_object("s3://bucket-weather/x", {"profile": "weather"}, retry_seconds=1.0)


def test_what_the_store_says_is_no_error_of_credentials() -> None:
    for error in (FileNotFoundError("s3://bucket/x"), PermissionError("AccessDenied"), ConnectionResetError()):
        with pytest.raises(type(error)) as caught:
            raise error
        assert credentials_error(caught.value) is None
