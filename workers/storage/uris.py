"""URIs and credentials: what may be logged or stored, and what is refused.

scheme_of        what stands before `://`
redact           a URI without user, password and query
refuse_secrets   UsageError for a URI that holds a password or a signature
hide_secrets     any text, such as a client's error message, with the credentials in it masked
public_line      the same on one line, cut: as it stands inside a message of ours
is_utf8          whether a name, or any string, can be stored at all
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from workers.errors import REASON, UsageError, one_line

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=://)")
_PLACES = ("file", "local", "memory")  # schemes whose URIs have no host, and so no user
_LITERAL_KEYS = ("s3", "s3a", "gs", "gcs")  # their keys may contain `@` and `?`
_HOST_AND_PORT = re.compile(r"(\[.*\]|[^:]*):\d*")
_SIGNATURE = re.compile(r"(?i)sig|secret|token|passw|pwd|credential|key|auth")
_SECRET = re.compile(r"""(?ix) (authorization|access|secret|token|password|passwd|signature|credential) [\w-]* ["']?
                         \s*[=:]\s* (?: (?:basic|bearer|aws4-\S+)\s+ )? ["']? [^\s"'&,;]+""")
_USERINFO = re.compile(r"//[^/\s@]+@")
_QUERY = re.compile(r"(https?://[^\s?\"']+)\?[^\s\"']*")


def scheme_of(uri: str) -> str:
    """The scheme of a URI, in lower case; "" for a local path, whatever colons its names hold."""
    found = _SCHEME.match(uri)
    return found.group().lower() if found else ""


def is_utf8(text: str) -> bool:
    """Whether a string is valid Unicode: file names and JSON can hold half of a surrogate pair, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def redact(uri: str) -> str:
    """The URI without user, password and query, for logs and errors."""
    scheme, separator, rest = uri.partition("://")
    inner = scheme.rpartition("::")[2]
    if not separator or inner in _PLACES or "/" in scheme:
        return uri
    public = rest[len(_user(rest)) :]
    return f"{scheme}://{public if inner in _LITERAL_KEYS else public.partition('?')[0]}"


def _user(rest: str) -> str:
    """`user:password@` at the start of what follows `://`, or "". A password that is not URL-encoded may hold slashes."""
    place = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in place:
        return place[: place.rindex("@") + 1]
    odd = ":" in place and not place.startswith("arn:") and not _HOST_AND_PORT.fullmatch(place)
    return rest[: rest.rindex("@") + 1] if odd and "@" in rest else ""


def hide_users(text: str) -> str:
    """The text with users and passwords of URIs replaced by stars."""
    return _USERINFO.sub("//***@", text)


def refuse_secrets(uri: str) -> None:
    """Refuse a URI that holds credentials: URIs are listed, logged and stored with the run.

    Raises:
        UsageError: it holds a password, or a signature in its query.
    """
    scheme, separator, rest = uri.partition("://")
    inner = scheme.rpartition("::")[2]
    if not separator or inner in _PLACES or "/" in scheme:
        return
    user = _user(rest)
    names = [] if inner in _LITERAL_KEYS else [name for name, _ in parse_qsl(rest.partition("?")[2], keep_blank_values=True)]
    if ":" in user or (user and inner in _LITERAL_KEYS) or any(map(_SIGNATURE.search, names)):
        raise UsageError(
            f"{redact(uri)}: holds a password, key or signature, and would be written down wherever an object is named; "
            "give credentials by storage_options or the environment"
        )


def hide_secrets(text: str) -> str:
    """The text with users, passwords, keys and tokens replaced by stars, and without the queries of web addresses."""
    return _QUERY.sub(r"\1", hide_users(_SECRET.sub(r"\1=***", text)))


def public_line(text: object) -> str:
    """The message of a library that was given credentials, or talks to a server: errors.one_line without secrets."""
    return hide_secrets(one_line(text, None))[:REASON]
