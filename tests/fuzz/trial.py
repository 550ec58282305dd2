"""One mutant beside an undamaged neighbour, through the real planning and the real reader: what became of it.

    discover (list, footers or samples, schema) -> cut -> read_windows of every shard -> Verdict

As in a run: an object that a replica blames is excluded once a second one agrees, and the shard read again without it.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from jobs.corpus import footers
from jobs.corpus.discovery import discover
from jobs.planning.sharding import cut
from tests.fuzz.mutations import Mutant
from tests.fuzz.originals import KEEP, Original, documents, originals
from workers.config import CorpusConfig
from workers.errors import ObjectError, UsageError
from workers.host.isolated_process import IsolatedProcess
from workers.reading import reader
from workers.reading.reader import read_windows
from workers.records.documents import ReadPlan
from workers.records.shard import Shard

Row = tuple[Any, ...]


class Outcome(StrEnum):
    EXACT = "exact"  # exactly the original rows
    REFUSED = "refused"  # the object is named, none of its rows is embedded
    ROWS = "rows out"  # some rows are quarantined with their reasons
    WARNED = "warned"  # a kept column cannot be found: a warning names the object, the column is null
    UNSEALED = "unsealed"  # values differ, and no checksum covers them; the number of rows is right
    FOOTER = "footer"  # values differ because the footer lies, which no checksum covers; the number of rows is right
    REPLICA = "replica"  # reading it ends a replica; the object is found, named, and left out
    SEALED = "SEALED"  # values differ although a checksum covers them
    LOST = "LOST"  # rows are missing, or too many, and nobody says so
    NEIGHBOUR = "NEIGHBOUR"  # an undamaged object beside it was not read exactly
    CRASHED = "CRASHED"  # the driver
    HUNG = "HUNG"


BAD = (Outcome.SEALED, Outcome.LOST, Outcome.NEIGHBOUR, Outcome.CRASHED, Outcome.HUNG)


@dataclass(frozen=True)
class Verdict:
    outcome: Outcome
    why: str = ""


def rows_of(original: Original) -> Counter[Row]:
    """What an undamaged object holds, as (id, text, kept…)."""
    if ".txt" in original.name:
        return Counter((None, row["text"], None, None) for row in documents())
    typed = str if ".csv" in original.name else int
    return Counter((row["id"], row["text"], row["lang"], typed(row["n"])) for row in documents())


@contextlib.contextmanager
def one_isolated_process(isolated: IsolatedProcess) -> Iterator[None]:
    """Let every planning, and every reading of a bad footer, use this isolated process: starting one for each of ten
    thousand would be all that is measured."""
    users = (footers, reader)
    for user in users:
        user.IsolatedProcess = lambda: contextlib.nullcontext(isolated)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for user in users:
            user.IsolatedProcess = IsolatedProcess  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Corpus:
    """A damaged object beside an undamaged one, planned."""

    damaged: Path
    neighbour: Path
    plain: bool  # text: no ids, nothing kept
    plan: ReadPlan
    shards: tuple[Shard, ...]
    warnings: tuple[str, ...]

    @classmethod
    def planned(cls, mutant: Mutant, folder: Path) -> Corpus:
        """Write and plan it. Raises: UsageError."""
        original = originals()[mutant.original]
        folder.mkdir(parents=True, exist_ok=True)
        neighbour, damaged = folder / f"a-{original.name}", folder / f"b-{original.name}"
        neighbour.write_bytes(original.data)
        damaged.write_bytes(mutant.data)
        plain = ".txt" in original.name
        settings: dict[str, Any] = {"uri": str(folder)} | ({} if plain else {"id": "id", "keep": list(KEEP)})
        found = discover(CorpusConfig.model_validate(settings))
        shards = cut(found, 64 << 20, id_given=not plain)
        return cls(damaged, neighbour, plain, found.read_plan, tuple(shards), found.warnings)

    def read(self, excluded: Mapping[str, str]) -> Reading:
        """Raises: ObjectError."""
        found = Reading()
        for shard in self.shards:
            for window in read_windows(shard, self.plan, excluded):
                for row in window.table.to_pylist():
                    kept = (None, None) if self.plain else (row["keep.lang"], row["keep.n"])
                    found.rows[row["object"]][(None if self.plain else row["id"], row["text"], *kept)] += 1
                for entry in window.quarantined:
                    found.quarantined[entry.object] += entry.rows or 0
                    found.reasons.append(f"{entry.object}: {entry.reason}")
        return found


@dataclass
class Reading:
    """By object URI."""

    rows: defaultdict[str, Counter[Row]] = field(default_factory=lambda: defaultdict(Counter))
    quarantined: Counter[str] = field(default_factory=Counter)
    reasons: list[str] = field(default_factory=list)


def judge(mutant: Mutant, folder: Path, reading: Callable[[], object] = lambda: None) -> Verdict:
    """Plan and read in this process. `reading` is called between the two: from there on it is a replica's life."""
    original = originals()[mutant.original]
    try:
        corpus = Corpus.planned(mutant, folder)
    except UsageError as error:
        named = f"b-{original.name}" in str(error)
        return Verdict(Outcome.REFUSED if named else Outcome.NEIGHBOUR, str(error))
    reading()
    uri, excluded = f"file://{corpus.damaged}", dict[str, str]()
    try:
        found = corpus.read(excluded)
    except ObjectError as error:
        excluded[error.object_uri] = error.reason
        found = corpus.read(excluded)
    return _compared(mutant, corpus, found, uri, excluded)


def _compared(mutant: Mutant, corpus: Corpus, found: Reading, uri: str, excluded: Mapping[str, str]) -> Verdict:
    original = originals()[mutant.original]
    expected, beside = rows_of(original), f"file://{corpus.neighbour}"
    why = "; ".join(found.reasons)[:300]
    if found.rows[beside] != expected or found.quarantined[beside]:
        return Verdict(Outcome.NEIGHBOUR, str(dict(excluded)) + why)
    if excluded:
        return Verdict(Outcome.REFUSED, excluded[uri])
    rows, lost = found.rows[uri], found.quarantined[uri]
    if rows == expected and not lost:
        return Verdict(Outcome.EXACT)
    difference = rows - expected
    if rows.total() + lost != expected.total():
        # where rows are named as damaged the damage may have made more or fewer of them: the run is not published
        return Verdict(Outcome.ROWS if lost else Outcome.LOST, f"{rows.total()} + {lost} rows of {expected.total()}: {why}")
    if lost and not difference:
        return Verdict(Outcome.ROWS, why)
    what = f"{difference.total()} rows, e.g. {str(next(iter(difference)))[:120]}"
    if any(corpus.damaged.name in warning for warning in corpus.warnings):
        return Verdict(Outcome.WARNED, what)
    if mutant.where == "footer":
        return Verdict(Outcome.FOOTER, what)
    return Verdict(Outcome.SEALED if original.sealed else Outcome.UNSEALED, what)
