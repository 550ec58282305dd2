"""Isolated processes that stay for the tests of one worker: starting one takes a CPU second where transformers is imported.

The product starts one for each planning and each conversion of a tokenizer. Here the next user gets the same one, unless
the environment, the module path or the working folder has changed meanwhile. One that a call ended is started again, as in
the product. What a process of its own promises is tested with real ones (tests/workers/host/test_isolated_process.py).
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from workers.host.isolated_process import IsolatedProcess

USERS = ("workers.model.tokenizer_files", "jobs.corpus.footers", "jobs.planning.estimate")
# No process asks for them: one changes with every test, the others come when Ray, Polars and their like are first used.
_NOT_ASKED_FOR = ("PYTEST_CURRENT_TEST", "RAY_", "_RJEM_MALLOC_CONF")


def _surroundings() -> tuple[object, ...]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_ASKED_FOR)}
    return environment, tuple(sys.path), Path.cwd()


@contextmanager
def standing_processes() -> Iterator[None]:
    """Every user's `with IsolatedProcess() as …` gets that user's standing process."""
    made: list[IsolatedProcess] = []
    with pytest.MonkeyPatch.context() as patch:
        for user in USERS:
            kind, process = _standing()
            made.append(process)
            patch.setattr(importlib.import_module(user), "IsolatedProcess", kind)
        try:
            yield
        finally:
            for process in made:
                process.close()


def _standing() -> tuple[type[IsolatedProcess], IsolatedProcess]:
    class StandingProcess(IsolatedProcess):
        surroundings: tuple[object, ...] = ()

        def __enter__(self) -> IsolatedProcess:
            if standing.surroundings != (now := _surroundings()):
                standing.close()
                standing.surroundings = now
            return standing

        def __exit__(self, *_: object) -> None:
            """It stays."""

    standing = StandingProcess()
    return StandingProcess, standing
