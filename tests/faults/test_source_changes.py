"""Objects replaced, deleted and added between a driver's death and the resumed run: the listing stays as it was, and what no
longer is what it was is named, not embedded.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from tests.conftest import Cli
from tests.drivers import Driver, Snapshot, configure, docstrings_corpus, embed, receipts
from tests.faults.conftest import LONG
from tests.local_replicas import local_embed

pytestmark = [pytest.mark.ray, pytest.mark.slow, LONG]


def rewrite(path: Path) -> None:
    """Other texts under the same ids."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | {"text": f"replaced: {row['text']}"}) + "\n" for row in rows))


def test_the_listing_stands_and_changes_are_named(tmp_path: Path, minilm: Path, cli: Cli) -> None:
    corpus, output = tmp_path / "corpus", tmp_path / "out"
    docstrings_corpus(corpus, 320, objects=16)
    config = configure(tmp_path / "run.yaml", corpus, output, minilm, shard_bytes="4KiB")
    with Driver(config) as driver:
        driver.until(lambda: receipts(output))
        driver.kill()
    replaced, deleted = corpus / "part-8.jsonl", corpus / "part-9.jsonl"  # the last ones: names sort as text
    ids = {path: [json.loads(line)["id"] for line in path.read_text().splitlines()] for path in sorted(corpus.iterdir())}
    assert len(receipts(output)) < 8, "the objects at the end were not reached"
    rewrite(replaced)
    deleted.unlink()
    (corpus / "part-new.jsonl").write_text(json.dumps({"id": "new", "text": "added", "package": "x", "kind": "y"}) + "\n")

    refused = embed(config)
    assert refused.rc == 3, refused.log
    reasons = {Path(row["object"]).name: row["reason"] for row in quarantined(output, refused.summary["run_id"])}
    assert set(reasons) == {replaced.name, deleted.name}
    assert "replaced after the run was planned (size" in reasons[replaced.name]
    assert "etag" in reasons[replaced.name]
    assert "deleted after the run was planned" in reasons[deleted.name]
    there = sorted(row for path, rows in ids.items() if path not in (replaced, deleted) for row in rows)
    assert Snapshot.read(refused.summary["data"]).ids == there, "the rest as it was listed, the added object not among it"
    assert not (output / "CURRENT.json").exists()

    seen = local_embed(config)
    assert seen.rc == 0, seen.log
    assert seen.summary["run_id"] != refused.summary["run_id"]
    assert Snapshot.read(seen.summary["data"]).ids == sorted([*there, *ids[replaced], "new"])


def quarantined(output: Path, run_id: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = ds.dataset(output / "runs" / run_id / "quarantine").to_table().to_pylist()
    return rows
