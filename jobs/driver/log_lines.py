"""The log on stderr: one line a record, above the live display if there is one.

OneLine        the format: without stacks, whichever library logs them
StderrHandler  writes to what sys.stderr is at that moment: a live display replaces it to draw itself below the line
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from jobs.driver.unexpected import described

FORMAT = "%(asctime)s %(levelname).1s %(message)s"


class OneLine(logging.Formatter):
    """Each record on one line; of an exception its class and message. REEMBED_LOG=DEBUG keeps the stacks."""

    def format(self, record: logging.LogRecord) -> str:
        if logging.getLogger("reembed").isEnabledFor(logging.DEBUG):
            return super().format(record)
        message = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            message = f"{message} ({described(record.exc_info[1])})"
        plain = logging.makeLogRecord(record.__dict__ | {"exc_info": None, "exc_text": None, "stack_info": None})
        plain.msg, plain.args = " ".join(message.split()), ()
        return super().format(plain)


class StderrHandler(logging.StreamHandler[TextIO]):
    """A handler with the present sys.stderr as its stream."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)  # not the parent's, which would keep the stream of this moment
        self.setFormatter(OneLine(FORMAT))

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr
