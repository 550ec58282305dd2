"""Quarantined rows counted by reason, from a bounded part of a run's quarantine files.

Reasons that differ only in numbers (a row, a byte, a length) count as one, shown by the first of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from workers.storage.store import Store
from workers.table.paths import RunPaths
from workers.table.quarantine_file import quarantined_lines

MAX_FILES = 400  # there is one for each shard with quarantined rows
MAX_LINES_A_FILE = 50_000
MAX_REASONS = 10_000  # kept while counting; later kinds are counted together
TOP_REASONS = 20
_LONGEST = 300  # characters of a reason that are shown
_THREADS = 16
_NUMBER = re.compile(r"\d+")
_OTHERS = "other reasons"


@dataclass(frozen=True, slots=True)
class Reason:
    """One kind of reason. `rows`: the known number of rows; `unknown` lines stand for further rows of unknown number."""

    text: str
    rows: int
    unknown: int  # lines without a number of rows
    example: str  # one row of the kind: object, row, id

    def to_json(self) -> dict[str, Any]:
        return {"reason": self.text, "rows": self.rows, "lines_of_unknown_rows": self.unknown, "example": self.example}


@dataclass(frozen=True, slots=True)
class Reasons:
    """The most frequent first, at most TOP_REASONS. `others`: rows of the kinds left out; `complete`: all was read."""

    top: tuple[Reason, ...] = ()
    kinds: int = 0
    others: int = 0
    complete: bool = True

    def to_json(self) -> dict[str, Any]:
        top = [reason.to_json() for reason in self.top]
        return {"top": top, "kinds": self.kinds, "rows_of_other_kinds": self.others, "complete": self.complete}


@dataclass(slots=True)
class _Count:
    text: str
    example: str
    rows: int = 0
    unknown: int = 0


@dataclass(slots=True)
class _Counts:
    kinds: dict[str, _Count] = field(default_factory=dict)
    complete: bool = True

    def add(self, text: str, example: str, rows: int, unknown: int) -> None:
        kind = _NUMBER.sub("#", text)
        if kind not in self.kinds and len(self.kinds) >= MAX_REASONS:
            kind, text = _OTHERS, _OTHERS
        count = self.kinds.setdefault(kind, _Count(text, example))
        count.rows += rows
        count.unknown += unknown


def count_reasons(store: Store, run_id: str) -> Reasons:
    """Count the reasons in at most MAX_FILES files, and at most MAX_LINES_A_FILE lines of each.

    Raises:
        UsageError, TransientError: the store. pyarrow.ArrowInvalid: not a quarantine file of this program.
    """
    paths = sorted(path for path in store.list(RunPaths(run_id).quarantine) if path.endswith(".parquet"))
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda path: _read(store, path), paths[:MAX_FILES]))
    return _ranked(found, complete=len(paths) <= MAX_FILES)


def _read(store: Store, path: str) -> _Counts:
    counts, lines = _Counts(), 0
    with store.open(path) as stream, quarantined_lines(stream) as (total, batches):
        for batch in batches:
            for line in batch.to_pylist():
                rows = line["rows"]
                counts.add(line["reason"] or "", _example(line), rows or 0, int(rows is None))
            lines += batch.num_rows
            if lines >= MAX_LINES_A_FILE and lines < total:
                counts.complete = False
                break
    return counts


def _ranked(found: Iterable[_Counts], *, complete: bool) -> Reasons:
    every = _Counts(complete=complete)
    for counts in found:
        every.complete = every.complete and counts.complete
        for count in counts.kinds.values():
            every.add(count.text, count.example, count.rows, count.unknown)
    ranked = sorted(every.kinds.values(), key=lambda count: (-count.rows, -count.unknown, count.text))
    top = tuple(Reason(_short(item.text), item.rows, item.unknown, item.example) for item in ranked[:TOP_REASONS])
    return Reasons(top, len(ranked), sum(item.rows for item in ranked[TOP_REASONS:]), every.complete)


def _example(line: dict[str, Any]) -> str:
    row = "" if line["row"] is None else f", row {line['row']}"
    identity = "" if line["id"] is None else f", id {line['id']}"
    return _short(f"{line['object']}{row}{identity}")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
