"""What Ray says of a replica that ended, in one line that a user can act on. Text in, text out; imports no ray."""

from __future__ import annotations

import re

from workers.errors import UsageError

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_INTERNAL = re.compile(r"^The actor died unexpectedly.*$|^\s*(class_name|actor_id|namespace): .*$", re.MULTILINE)


def plain(error: BaseException) -> str:
    """The message without colours."""
    return _COLOURS.sub("", str(error))


def refusal(text: str) -> UsageError | None:
    """What a replica says of the request, in the traceback that comes from it."""
    usage = next((line for line in text.splitlines() if "UsageError:" in line), None)
    return UsageError(usage.partition("UsageError:")[2].strip()) if usage else None


def death(text: str) -> str:
    """Ray's story of a death: which process, how it ended; without internal names and general advice."""
    story = text.partition("Some common causes include")
    hint = "; killed, out of memory, or crashed: the node's Ray and kernel logs tell" if story[1] else ""
    return (" ".join(_INTERNAL.sub("", story[0]).split()).rstrip(".") + hint)[-600:]


def first_line(error: BaseException) -> str:
    return _lines(error)[0]


def last_line(error: BaseException) -> str:
    return _lines(error)[-1]


def _lines(error: BaseException) -> list[str]:
    """At least one."""
    return [line.strip() for line in plain(error).splitlines() if line.strip()] or [type(error).__name__]
