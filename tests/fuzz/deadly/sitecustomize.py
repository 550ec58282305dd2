"""Put on PYTHONPATH: a process that reads the rows of a Parquet object named $REEMBED_DEADLY ends by SIGABRT.

It stands for what pyarrow's C++ does on bytes that nobody has found yet. Python imports this file at start; it acts only
where workers.reading.formats.parquet is imported, and leaves every other object alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

from tests.after_import import after_import


def _make_deadly(module: ModuleType) -> None:
    traits, deadly = module.TRAITS, os.environ["REEMBED_DEADLY"]

    def read(stream: object, piece: object, *rest: object) -> Iterator[object]:
        if str(piece.uri).endswith(deadly):  # type: ignore[attr-defined]
            os.abort()
        yield from traits.read(stream, piece, *rest)

    module.TRAITS = replace(traits, read=read)  # type: ignore[attr-defined]


if os.environ.get("REEMBED_DEADLY"):
    after_import("workers.reading.formats.parquet", _make_deadly)
