"""How a command ends: its exit status, and its result on stdout, where nothing else may be printed."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from typing import Any

import typer

EXIT_OK, EXIT_DEFECT, EXIT_USAGE, EXIT_REFUSED, EXIT_ABORTED = 0, 1, 2, 3, 4


def stdout_kept() -> contextlib.AbstractContextManager[object]:
    """What is printed meanwhile goes to stderr: Ray prints its workers' messages, and stdout is for the result."""
    return contextlib.redirect_stdout(sys.stderr)


def show(report: dict[str, Any], as_json: bool, as_text: Callable[[dict[str, Any]], str]) -> None:
    """Print the result, as one JSON object or as text."""
    try:
        print(json.dumps(report, ensure_ascii=False, default=str) if as_json else as_text(report), flush=True)
    except BrokenPipeError:  # `reembed files … | head`: its reader has seen enough
        sys.stdout = io.StringIO()


def end_refused_unless(held: bool) -> None:
    """End with the status of what was refused: a snapshot that was not published, or is not what its receipts say."""
    if not held:
        raise typer.Exit(EXIT_REFUSED)
