"""For any two types of one kept column: what is published is what its object holds, or the row is quarantined.

Two objects, Parquet or Arrow, are planned and read as a run does, and what was read is written as a part holds it. The
oracle is tests/workers/reading/any_arrow.py. REEMBED_EXAMPLES=2000 tries more of them.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jobs.corpus.footers
from jobs.corpus.discovery import discover
from jobs.planning.sharding import cut
from tests.jobs.source_files import config
from tests.workers.reading.any_arrow import ThisProcess, arrays, meaning, pairs
from workers.errors import ObjectError
from workers.reading.reader import read_windows
from workers.records.shard import Shard

EXAMPLES = int(os.environ.get("REEMBED_EXAMPLES", "200"))
ROWS = 4
met: Counter[str] = Counter()


@pytest.mark.slow
@pytest.mark.timeout(900 + EXAMPLES // 2)
def test_what_is_published_is_what_the_source_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.corpus.footers, "IsolatedProcess", ThisProcess)
    monkeypatch.setattr(logging.getLogger("reembed"), "disabled", True)
    met.clear()
    folder = tmp_path / "in"
    folder.mkdir()

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def example(data: st.DataObject) -> None:
        first, second = data.draw(pairs())
        columns = [data.draw(arrays(first, ROWS)), data.draw(arrays(second, ROWS))]
        suffix = data.draw(st.sampled_from(["parquet", "arrow"]))
        for old in folder.iterdir():
            old.unlink()
        written = [_write(folder / f"{name}.{suffix}", column) for name, column in zip("ab", columns, strict=True)]
        _check([column for column in written if column is not None], folder, suffix)

    example()
    print(dict(met))
    assert met["published"] > met["quarantined"], met
    assert met["published in another type"] > EXAMPLES // 4, met
    assert met["object left out"] > EXAMPLES // 20, met


def _write(path: Path, column: pa.Array) -> pa.ChunkedArray | None:
    """The object, and its column as pyarrow reads it back; None where the format cannot hold it."""
    name = path.name[0]
    table = pa.table({"id": [f"{name}{row}" for row in range(ROWS)], "text": ["some text"] * ROWS, "v": column})
    try:
        if path.suffix == ".parquet":
            pq.write_table(table, path)
            return pq.read_table(path)["v"]
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
        return table["v"]
    except (pa.ArrowException, NotImplementedError):
        path.unlink(missing_ok=True)
        return None


def _check(written: Sequence[pa.ChunkedArray], folder: Path, suffix: str) -> None:
    names = sorted(path.name[0] for path in folder.iterdir())
    if not names:
        return
    source = {f"{name}{row}": column[row] for name, column in zip(names, written, strict=True) for row in range(ROWS)}
    corpus = discover(config(folder, id="id", keep=["v"]))
    kind = corpus.read_plan.keep.field("v").type
    left_out = {uri[-len(suffix) - 2] for uri in corpus.drifted}
    seen: set[str] = set()
    for planned in cut(corpus, 1 << 20, id_given=True):
        for piece in planned.slices:
            name = piece.uri[-len(suffix) - 2]
            shard = Shard(0, (piece,), 0)
            if name in left_out:
                with pytest.raises(ObjectError, match=re.escape(piece.uri)):
                    list(read_windows(shard, corpus.read_plan, {}))
                met["object left out"] += 1
                seen |= {f"{name}{row}" for row in range(ROWS)}
                continue
            windows = list(read_windows(shard, corpus.read_plan, {}))
            for window in windows:
                for row in window.quarantined:
                    assert "kept column v" in row.reason
                    assert source[str(row.id)].type != kind, "a value does not fit its own type"
                    met["quarantined"] += 1
                    seen.add(str(row.id))
                part = pa.table({"id": window.table["id"], "v": window.table["keep.v"]})
                sink = pa.BufferOutputStream()
                pq.write_table(part, sink)
                read = pq.read_table(pa.BufferReader(sink.getvalue()))
                for identity, value in zip(read["id"].to_pylist(), read["v"], strict=True):
                    expected = source[identity]
                    assert meaning(value) == meaning(expected), (expected, value)
                    met["published"] += 1
                    met["published in another type"] += expected.type != kind and expected.is_valid
                    seen.add(identity)
    assert seen == set(source)
