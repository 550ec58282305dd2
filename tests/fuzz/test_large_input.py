"""A text of 100 MB, a line and a gzip bomb of twice the memory: read in bounded memory, flagged, the rows beside them kept.

REEMBED_LARGE_MB=1000 for a line and a bomb of 1 GB.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.sessions import ROOT

pytestmark = pytest.mark.slow

MEASURE = """
import json, resource, sys
from jobs.corpus.discovery import discover
from jobs.planning.sharding import cut
from workers.config import CorpusConfig
from workers.reading.reader import read_windows
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
begun = peak()
corpus = discover(CorpusConfig(uri=[sys.argv[1]], id="id" if sys.argv[1].find("txt") < 0 else None))
planned = peak()
texts, lost = [], []
for shard in cut(corpus, 64 << 20, id_given=True):
    for window in read_windows(shard, corpus.read_plan, {}):
        texts += window.table.column("text").to_pylist()
        lost += [row.reason for row in window.quarantined]
print(json.dumps({"plan": planned - begun, "read": peak() - begun, "texts": texts, "lost": lost}))
"""
MB = 1_000_000
LARGE = int(os.environ.get("REEMBED_LARGE_MB", "400"))  # MB


def _big_line(path: Path) -> None:
    with path.open("wb") as stream:
        for _ in range(LARGE):
            stream.write(b"x" * MB)
        stream.write(b"\nthe last line\n")


def _big_text(path: Path) -> None:
    rows = [{"id": "a", "text": "first"}, {"id": "b", "text": "x" * 100 * MB}, {"id": "c", "text": "the last line"}]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        path.write_text("id,text\n" + "".join(f"{row['id']},{row['text']}\n" for row in rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _bomb(path: Path) -> None:
    """LARGE MB of nothing in less than 1 MB, in front of a line."""
    last = gzip.compress(b'\n{"id": "c", "text": "the last line"}\n')
    path.write_bytes(gzip.compress(bytes(10 * MB)) * (LARGE // 10) + last)


@pytest.mark.parametrize(
    ("name", "write", "most"),
    [
        ("a.txt", _big_line, 200 * MB),
        ("a.jsonl", _big_text, 300 * MB),
        ("a.csv", _big_text, 300 * MB),
        ("a.parquet", _big_text, 900 * MB),
        ("a.jsonl.gz", _bomb, 200 * MB),
    ],
)
def test_large_input_is_flagged_in_bounded_memory(
    tmp_path: Path, name: str, write: Callable[[Path], None], most: int
) -> None:
    write(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / name)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    assert told["texts"][-1] == "the last line"
    assert len(told["lost"]) == 1
    assert "too long" in told["lost"][0]
    assert told["plan"] < 100 * MB
    assert told["read"] < most, told["read"]
