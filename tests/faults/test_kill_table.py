"""output.table: the driver dies between two changes of storage; after the same command again table and CURRENT.json agree.

Every moment between two changes has a state of storage of its own, and there are no others. Those from the one that replaces
CURRENT.json on come first, the rest are spread over what comes before them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deltalake import DeltaTable

from jobs.commands.rollback import roll_back
from jobs.embed.job import embed_corpus
from tests.jobs.nights import NIGHT_1, by_hand, corpus_of, days_apart, rows, settings
from tests.jobs.publish.tables.folders_and_tables import (
    Rows,
    current,
    folder_rows,
    register,
    table_rows,
    tables_agree,
)  # fmt: skip
from tests.jobs.snapshot_samples import Killed
from tests.vector_snapshots import publish_next, publish_vectors
from workers.config import OutputTable
from workers.storage.store import Store

KILLS = int(os.environ.get("REEMBED_TABLE_KILLS", "3"))  # 20 for as many as the promise names
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]


class _Mortal:
    """Changes by any Store, but of the lock's heartbeats. The one after `left` of them dies before it takes effect."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.done = 1 << 30, list[str]()
        for name in ("put", "put_if_absent", "delete", "delete_many", "prune"):
            monkeypatch.setattr(Store, name, self._wrapped(getattr(Store, name)))

    def arm(self, left: int = 1 << 30) -> None:
        self.left, self.done = left, []

    def _wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def change(store: Store, what: Any, *data: Any, **named: Any) -> Any:
            if not str(what).startswith("runs/lock/"):
                if len(self.done) >= self.left:
                    raise Killed
                self.done.append(str(what))
            return real(store, what, *data, **named)

        return change


def _moments(changes: list[str]) -> list[int]:
    """KILLS of them, as the number of changes that are done. The last one is before the last change."""
    first = changes.index("CURRENT.json")
    late, early = list(range(first + 1, len(changes))), list(range(first + 1))
    if len(late) >= KILLS:
        return [late[len(late) * at // KILLS] for at in range(KILLS)]
    left = min(KILLS - len(late), len(early))
    return [early[len(early) * at // left] for at in range(left)] + late


def _killed(
    output: Path, kind: OutputTable, mortal: _Mortal, command: Callable[[], object], before: Rows
) -> tuple[int, Rows]:
    """How many moments lay between CURRENT.json and the table, and the rows in the end.

    `before`: those of the snapshot that is published when the command starts.
    """
    kept = output.with_name("kept")
    shutil.copytree(output, kept)
    mortal.arm()
    command()
    moments, changes = _moments(mortal.done), len(mortal.done)
    after = folder_rows(output)
    assert table_rows(output, kind) == after
    between = wrong = 0
    for moment in moments:
        shutil.rmtree(output)
        shutil.copytree(kept, output)
        mortal.arm(moment)
        with pytest.raises(Killed):
            command()
        assert table_rows(output, kind) in (before, after), "the table is one of the two snapshots at any time"
        between += not tables_agree(output, kind)
        mortal.arm()
        command()
        wrong += not (tables_agree(output, kind) and table_rows(output, kind) == folder_rows(output) == after)
        if kind is OutputTable.DELTA:
            assert DeltaTable(output / "data").version() == DeltaTable(kept / "data").version() + 1, "committed once"
    told = f"{len(moments)} moments of {changes} changes, {between} of them between CURRENT.json and the table"
    print(f"{kind}: killed at {told}; {wrong} disagreements after the next start")
    assert wrong == 0
    return between, after


@pytest.mark.parametrize("kind", list(OutputTable))
def test_a_night(tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch, kind: OutputTable) -> None:
    by_hand(monkeypatch)
    days_apart(monkeypatch)
    config = settings(tmp_path, small_model, output={"keep_snapshots": 1, "table": kind.value})
    corpus_of(tmp_path / "corpus", NIGHT_1)
    embed_corpus(config)
    before = folder_rows(tmp_path / "out")
    corpus_of(tmp_path / "corpus", {"b": rows("b", 24, changed=6), "e": rows("e", 3)})
    (tmp_path / "corpus/c.parquet").unlink()
    mortal = _Mortal(monkeypatch)
    between, after = _killed(tmp_path / "out", kind, mortal, lambda: embed_corpus(config), before)
    assert (len(before), len(after)) == (80, 67)
    assert between >= 1


@pytest.mark.parametrize("kind", list(OutputTable))
def test_a_rollback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: OutputTable) -> None:
    output = tmp_path / "out"
    vectors = np.random.default_rng(5).standard_normal((20, 8)).astype(np.float32)
    first = publish_vectors(output, vectors)
    register(output, kind)
    before = folder_rows(output)
    publish_next(output, {1: -vectors[5:10]})
    register(output, kind)
    second = folder_rows(output)
    assert second != before
    assert current(output)["run_id"] != first
    mortal = _Mortal(monkeypatch)
    between, after = _killed(output, kind, mortal, lambda: roll_back(str(output), first), second)
    assert after == before
    assert between >= 1
