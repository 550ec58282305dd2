"""Ray's error messages, shortened to one line that a user can act on. Text in, text out; imports no ray."""

from __future__ import annotations

import re

from workers.errors import UsageError

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_REFUSALS: list[type[UsageError]] = [UsageError, *UsageError.__subclasses__()]
_USAGE = re.compile(rf"\b({'|'.join(kind.__name__ for kind in _REFUSALS)}):(?P<message>.*)")
_INTERNAL = re.compile(r"^The actor died unexpectedly.*$|^\s*(class_name|actor_id|namespace): .*$", re.MULTILINE)


def plain(error: BaseException) -> str:
    """The message without colours."""
    return _COLOURS.sub("", str(error))


def refusal(text: str) -> UsageError | None:
    """The UsageError in a replica's traceback: the request itself is wrong, on every replica. None: there is none."""
    found = next(filter(None, map(_USAGE.search, text.splitlines())), None)
    return UsageError(found["message"].strip()) if found else None


def death(text: str) -> str:
    """Which process ended and how, at most 600 characters; without internal names and general advice."""
    description = text.partition("Some common causes include")
    hint = "; killed, out of memory, or crashed: the node's Ray and kernel logs tell" if description[1] else ""
    return (" ".join(_INTERNAL.sub("", description[0]).split()).rstrip(".") + hint)[-600:]


def first_line(error: BaseException) -> str:
    """The message's first line, or the error's class when it has no message."""
    return _lines(error)[0]


def on_one_line(error: BaseException) -> str:
    """The whole message without line ends, at most 400 characters; the error's class when it has no message."""
    return " ".join(_lines(error))[:400]


def last_line(error: BaseException) -> str:
    """The message's last line: of a traceback, the exception."""
    return _lines(error)[-1]


def _lines(error: BaseException) -> list[str]:
    """At least one."""
    return [line.strip() for line in plain(error).splitlines() if line.strip()] or [type(error).__name__]
