"""Lance fragments as replicas read them: what is gone, or is not as it was planned, is named."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.corpus.discovery import discover
from jobs.planning.sharding import cut
from tests.jobs.corpus.tables.table_rows import settings
from workers.errors import ObjectError, ObjectMissing, UsageError
from workers.reading.reader import read_windows
from workers.records.documents import ReadPlan
from workers.records.shard import Shard

lance = pytest.importorskip("lance")


@pytest.fixture
def planned(tmp_path: Path) -> tuple[Shard, ReadPlan]:
    lance.write_dataset(pa.table({"id": [1, 2, 3], "text": ["a", "b", "c"]}), tmp_path / "t.lance")
    corpus = discover(settings(tmp_path / "t.lance", "lance"))
    (shard,) = cut(corpus, 1024, id_given=True)
    return shard, corpus.read_plan


def test_a_version_or_fragment_that_is_gone_is_named(planned: tuple[Shard, ReadPlan]) -> None:
    shard, plan = planned
    assert plan.table is not None
    (window,) = read_windows(shard, plan, {})
    assert window.rows_read == 3
    with pytest.raises(ObjectMissing, match=r"fragment-0: version 99 of its table is gone"):
        list(read_windows(shard, replace(plan, table=replace(plan.table, version="99")), {}))
    (piece,) = shard.slices
    other = replace(shard, slices=(replace(piece, uri=piece.uri.replace("fragment-0", "fragment-5")),))
    with pytest.raises(ObjectMissing, match="fragment-5: is not in version 1 of its table"):
        list(read_windows(other, plan, {}))


def test_other_rows_than_planned_are_named(planned: tuple[Shard, ReadPlan]) -> None:
    shard, plan = planned
    (piece,) = shard.slices
    with pytest.raises(ObjectError, match="holds 3 live rows where 4 were planned; start a new run"):
        list(read_windows(replace(shard, slices=(replace(piece, rows=4),)), plan, {}))


def test_a_node_without_the_package_is_told_what_to_install(
    planned: tuple[Shard, ReadPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(UsageError, match=r"^corpus.table: lance, on every node, .*pip install 'reembed\[lance\]'$"):
        list(read_windows(*planned, {}))
