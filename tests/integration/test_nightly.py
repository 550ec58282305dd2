"""Three nights, against a run that reuses nothing: acceptance C1 and C2, small. On Ray: faults/test_kill_night.py; large:
benchmarks/nightly.py.

Night 1: twelve objects. Night 2: texts changed in three of them, rows deleted and added, one object renamed.
Night 3: one object deleted, so there is nothing to embed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import yaml

from jobs.commands.verify import verify_snapshot
from tests.drivers import Ended
from tests.local_replicas import local_embed
from tests.nights import CHANGED, DELETED, RENAMED, ROWS, first_night, second_night, to_second, write

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("nightly")
    sections = {
        "corpus": {"uri": f"{folder}/corpus/", "id": "id", "keep": ["place"]},
        "model": {"name": str(small_model)},
        "output": {"uri": str(folder / "out")},
        "cluster": {"address": "local", "replicas": 1, "cpus_per_replica": 1, "gpus_per_replica": 0},
        "run": {"shard_bytes": 8192},  # an object of 50 rows is more than a quarter of it, and stands alone
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(sections))
    return folder / "run.yaml"


def rows_of(summary: Mapping[str, Any]) -> tuple[pa.Table, np.ndarray]:
    """Everything but the vectors, and the vectors [N, D], by id."""
    table = ds.dataset(summary["data"]).to_table().sort_by("id")
    column = table.column("embedding").combine_chunks()
    return table.drop_columns("embedding"), column.flatten().to_numpy().reshape(len(column), -1)


def sound(ended: Ended, config: Path) -> None:
    assert ended.rc == 0, ended.log
    assert ended.summary["published"]
    report = verify_snapshot(str(config), 24)
    assert report["findings"] == []
    assert report["min_cosine"] > 0.9999


def embedded(summary: Mapping[str, Any]) -> int:
    done: int = summary["documents"] - summary["reused_rows"] - summary["repeated_rows"]
    return done


def test_three_nights(config: Path) -> None:
    corpus, before = config.parent / "corpus", first_night()
    write(corpus, before)
    first = local_embed(config)
    sound(first, config)
    assert embedded(first.summary) == 12 * ROWS

    after = second_night(before)
    to_second(corpus)
    second = local_embed(config)
    sound(second, config)
    reuse = second.summary["reuse"]
    assert reuse["base"] == first.summary["run_id"]
    assert reuse["objects"] == {"unchanged": 8, "changed": 3, "new": 1, "deleted": 1}, "a local name is no content"
    assert reuse["carried_shards"] == 8
    new = {text for rows in after.values() for _, text in rows} - {text for rows in before.values() for _, text in rows}
    assert len(new) == 9
    assert embedded(second.summary) == len(new), "each once, and no other"
    assert second.summary["reembedded_rows"] == 0, "texts embedded again for the gate are not lost documents"

    afresh = local_embed(config, f"output.uri={config.parent / 'afresh'}", "run.reuse=off")
    assert afresh.rc == 0, afresh.log
    assert afresh.summary["documents"] == second.summary["documents"] == sum(map(len, after.values()))
    assert embedded(afresh.summary) == sum(len({text for _, text in rows}) for rows in after.values())
    (rows, vectors), (wanted, fresh), (old, kept) = (rows_of(ended.summary) for ended in (second, afresh, first))
    assert rows.equals(wanted)
    assert (vectors * fresh).sum(axis=1).min() >= 0.99999
    at = {key: place for place, key in enumerate(old.column("id").to_pylist())}
    carried = [key for number in range(12) if number not in (*CHANGED, RENAMED) for key, _ in before[f"object-{number:02d}"]]
    here = {key: place for place, key in enumerate(rows.column("id").to_pylist())}
    assert len(carried) == 8 * ROWS
    assert np.array_equal(
        vectors[[here[key] for key in carried]].view(np.uint32), kept[[at[key] for key in carried]].view(np.uint32)
    )

    (corpus / f"object-{DELETED:02d}.parquet").unlink()
    third = local_embed(config, "cluster.address=127.0.0.1:1")  # where no cluster is
    sound(third, config)
    assert "replica" not in third.log
    assert embedded(third.summary) == third.summary["tokens"] == 0
    assert third.summary["reuse"]["objects"] == {"unchanged": 11, "changed": 0, "new": 0, "deleted": 1}
    rows, vectors = rows_of(third.summary)
    left = [place for key, place in here.items() if not key.startswith(f"{DELETED}-")]
    assert rows.column("id").to_pylist() == [key for key in here if not key.startswith(f"{DELETED}-")]
    assert np.array_equal(vectors.view(np.uint32), rows_of(second.summary)[1][sorted(left)].view(np.uint32))
    again = local_embed(config, "cluster.address=127.0.0.1:1")
    assert again.summary == third.summary | {"unchanged": True}
