"""A replica given a suspect shard finds the object that ends the process which reads it, and survives."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workers.corpus_files import plan_of, put_jsonl, put_parquet, slice_of
from workers.errors import ObjectError
from workers.records.shard import Shard
from workers.replica.poison import check_for_poison

DEADLY = Path(__file__).parents[2] / "fuzz" / "deadly"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shard:
    """Three objects, of which the second is deadly. Only processes started from now on are affected."""
    monkeypatch.setenv("PYTHONPATH", f"{DEADLY}:{ROOT}")
    monkeypatch.setenv("REEMBED_DEADLY", "b.parquet")
    paths = [put_parquet(tmp_path / name, {"text": ["some text"]}) for name in ("a.parquet", "b.parquet")]
    paths.append(put_jsonl(tmp_path / "c.jsonl", {"text": "x"}, "no JSON"))
    return Shard(0, tuple(slice_of(path, rows=1, first_row=0) for path in paths), 100)


@pytest.mark.slow
def test_the_object_is_blamed(shard: Shard) -> None:
    with pytest.raises(ObjectError, match=r"reading it ended the process by SIGABRT; upload it again") as caught:
        check_for_poison(shard, plan_of(), {})
    assert caught.value.object_uri == shard.slices[1].uri


def test_an_excluded_object_is_not_opened_again(shard: Shard) -> None:
    check_for_poison(shard, plan_of(), {shard.slices[1].uri: "SIGABRT"})


def test_milder_faults_are_left_to_the_replica(shard: Shard, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no table at all")
    harmless = Shard(0, (shard.slices[0], shard.slices[2]), 100)
    check_for_poison(harmless, plan_of(), {})
