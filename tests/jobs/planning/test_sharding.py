"""Objects become shards that hold every row once, on exact borders."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.corpus.discovery import Corpus, discover
from jobs.planning.sharding import cut, target_bytes
from jobs.state.manifest import save_manifest
from workers.config import CorpusConfig
from workers.reading.reader import read_windows
from workers.records.shard import ObjectSlice, Shard
from workers.storage.store import Store

MIB = 1 << 20


def plan(root: Path, shard_bytes: int, **settings: Any) -> tuple[Corpus, list[Shard]]:
    corpus = discover(CorpusConfig.model_validate({"uri": str(root)} | settings))
    return corpus, cut(corpus, shard_bytes, id_given=settings.get("id") is not None)


def ids(corpus: Corpus, shards: list[Shard]) -> list[str]:
    """Every id that replicas would read, quarantined rows by number, sorted: what the cut must neither lose nor double."""
    found: list[Any] = []
    for shard in shards:
        for window in read_windows(shard, corpus.read_plan, {}):
            found += window.table["id"].to_pylist()
            found += [f"quarantined {row.object.rpartition('/')[2]}#{row.row}" for row in window.quarantined]
    return sorted(found)


def whole(corpus: Corpus) -> list[str]:
    """The same, with every object read in one piece."""
    shards = []
    for number, source in enumerate(corpus.objects):
        stop = len(source.row_groups) if source.row_groups is not None else source.info.size
        piece = ObjectSlice(source.info.uri, source.info.size, source.info.etag, 0, stop, first_row=0)
        shards.append(Shard(number, (piece,), 0))
    return ids(corpus, shards)


@pytest.mark.parametrize(
    ("text", "shard_bytes", "expected"),
    [
        (0, 64 * MIB, MIB),
        (128 * MIB, 64 * MIB, 2 * MIB),
        (1 << 40, 64 * MIB, 64 * MIB),
        (1 << 40, 5000, 5000),
        (0, 5000, 5000),
    ],
)
def test_target(text: int, shard_bytes: int, expected: int) -> None:
    assert target_bytes(text, shard_bytes) == expected


def test_parquet_is_split_by_row_groups_and_small_neighbours_share_a_shard(tmp_path: Path) -> None:
    for name, rows in (("a", 10), ("b", 3000), ("c", 10), ("d", 10), ("e", 0)):
        table = pa.table(
            {"text": [f"{random.Random(n).random()} " * 20 for n in range(rows)]}, pa.schema([("text", pa.string())])
        )
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=100, use_dictionary=False)
    corpus, shards = plan(tmp_path, 200_000)
    assert [shard.number for shard in shards] == list(range(len(shards)))
    assert sum(shard.rows or 0 for shard in shards) == 3030 == corpus.rows
    assert all(shard.text_bytes <= 200_000 for shard in shards)
    assert len(shards) > 5
    pieces = [piece for shard in shards for piece in shard.slices if "/b." in piece.uri]
    assert [piece.start for piece in pieces] == [0, *(piece.stop for piece in pieces[:-1])]
    assert pieces[-1].stop == 30
    assert [piece.first_row for piece in pieces] == [100 * piece.start for piece in pieces]
    assert [piece.uri.rpartition("/")[2] for piece in shards[-1].slices][-2:] == ["c.parquet", "d.parquet"]
    assert ids(corpus, shards) == whole(corpus)


def test_one_row_group_larger_than_the_target_stays_whole(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [str(n) * 100 for n in range(900)]}), tmp_path / "a.parquet", row_group_size=300)
    _, shards = plan(tmp_path, 2000)
    assert [(piece.start, piece.stop, piece.rows) for shard in shards for piece in shard.slices] == [
        (0, 1, 300),
        (1, 2, 300),
        (2, 3, 300),
    ]


def test_an_unreadable_parquet_object_is_a_piece_that_fails_never_one_that_is_empty(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"")
    (tmp_path / "c.parquet").write_bytes(b"damaged, and quite long for that")
    _, shards = plan(tmp_path, MIB)
    assert [piece.uri.rpartition("/")[2] for shard in shards for piece in shard.slices] == [
        "a.parquet",
        "b.parquet",
        "c.parquet",
    ]
    assert shards[0].rows is None


def jsonl_lines(count: int) -> bytes:
    """Lines of very uneven length, blank ones and broken ones among them, the last without a line end."""
    draw = random.Random(5)
    lines = []
    for number in range(count):
        lines.append(json.dumps({"id": f"d{number}", "text": "é" * draw.choice([1, 10, 3000])}, ensure_ascii=False))
        if number % 7 == 0:
            lines.append(draw.choice(["", "  ", "{broken", "\r"]))
    return "\n".join(lines).encode()


def test_jsonl_with_ids_is_cut_by_bytes_without_opening_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl_lines(400))
    monkeypatch.setattr("jobs.planning.sharding.record_offsets", None)  # a scan would fail
    corpus, shards = plan(tmp_path, 20_000, id="id")
    assert len(shards) > 10
    assert shards[0].slices[0].first_row == 0
    assert {shard.slices[0].first_row for shard in shards[1:]} == {None}
    found = [name for name in ids(corpus, shards) if name.startswith("d")]
    assert found == sorted(f"d{number}" for number in range(400))


def test_lines_without_ids_are_numbered_as_in_one_piece(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl_lines(400))
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbf" + jsonl_lines(300))
    corpus, shards = plan(tmp_path, 20_000)
    assert len(shards) > 20
    found = ids(corpus, shards)
    assert found == whole(corpus)
    assert len(set(found)) == len(found) > 700


def test_csv_is_never_cut_within_quotes(tmp_path: Path) -> None:
    draw = random.Random(9)
    texts = ["plain", 'a "quoted" one', "two\nlines, and\n\nmore", "crlf\r\nwithin", "x" * 2000, 'ends with "', '"']
    with (tmp_path / "a.csv").open("w", newline="") as stream:
        import csv

        writer = csv.writer(stream)
        writer.writerow(["number", "text"])
        for number in range(600):
            writer.writerow([number, draw.choice(texts)])
            if number % 50 == 0:
                stream.write(
                    draw.choice(["\r\n", 'stray,a "quote" in the open\r\n', "too,many,fields\r\n", '1,"bad"quote\r\n'])
                )
    corpus, shards = plan(tmp_path, 10_000, id="number")
    assert len(shards) > 10
    assert [shard.slices[0].first_row for shard in shards] == sorted(shard.slices[0].first_row or 0 for shard in shards)
    found = ids(corpus, shards)
    assert found == whole(corpus)
    assert [name for name in found if name.isdigit()] == sorted(str(number) for number in range(600))


def test_what_cannot_be_split_is_not(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(jsonl_lines(2000)))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n'))
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "empty.jsonl.gz").touch()  # no compressor writes this: its replica says so
    corpus, shards = plan(tmp_path, 5_000)
    assert [[piece.uri.rpartition("/")[2] for piece in shard.slices] for shard in shards] == [
        ["a.jsonl.gz"],
        ["b.jsonl.gz", "empty.jsonl.gz"],
    ]
    assert shards[0].text_bytes == 4 * (tmp_path / "a.jsonl.gz").stat().st_size
    assert len(corpus.objects) == 4
    for path in tmp_path.iterdir():
        path.unlink()
    (tmp_path / "one.txt").write_text("line\n" * 10_000)
    _, shards = plan(tmp_path, 5_000, text_unit="file")
    assert len(shards) == 1


def test_a_csv_without_the_text_column_is_left_whole_for_its_replica_to_refuse(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.csv").write_text("id,body\n" + "1,x\n" * 5000)
    (tmp_path / "b.csv").write_text("id,text\n" + "1,x\n" * 5000)
    _, shards = plan(tmp_path, 5_000, id="id")
    assert len([1 for shard in shards for piece in shard.slices if "a.csv" in piece.uri]) == 1
    assert len([1 for shard in shards for piece in shard.slices if "b.csv" in piece.uri]) > 3
    assert any("a.csv" in record.message and "not split" in record.message for record in caplog.records)


def test_many_tiny_objects_are_grouped_but_not_by_the_thousand(tmp_path: Path) -> None:
    for number in range(600):
        (tmp_path / f"{number:04d}.jsonl").write_text('{"text": "x"}\n')
    _, shards = plan(tmp_path, 64 * MIB)
    assert [len(shard.slices) for shard in shards] == [256, 256, 88]
    assert shards[0].text_bytes == 256 * 14


def test_an_object_of_some_size_stands_alone(tmp_path: Path) -> None:
    """What is more than a quarter of a shard is not grouped: one change would spoil its neighbours."""
    for name, size in (("a", 10), ("b", 260), ("c", 10), ("d", 249), ("e", 10), ("f", 700), ("g", 1300), ("h", 10)):
        (tmp_path / f"{name}.jsonl").write_text("x" * size)
    _, shards = plan(tmp_path, 1024, id="id")
    names = ["".join(sorted({piece.uri[-7] for piece in shard.slices})) for shard in shards]
    assert names == ["a", "b", "cde", "f", "g", "g", "h"]


def test_the_cut_is_the_same_every_time(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(jsonl_lines(300))
    pq.write_table(pa.table({"text": ["x" * 50] * 900}), tmp_path / "b.parquet", row_group_size=30)
    assert plan(tmp_path, 9_000)[1] == plan(tmp_path, 9_000)[1]


@pytest.mark.s3
def test_on_s3(s3_bucket: str) -> None:
    import s3fs

    fs = s3fs.S3FileSystem()
    fs.pipe_file(f"{s3_bucket}/corpus/a.txt", jsonl_lines(400))
    fs.pipe_file(f"{s3_bucket}/corpus/b.jsonl", jsonl_lines(50))
    corpus = discover(CorpusConfig.model_validate({"uri": f"s3://{s3_bucket}/corpus/"}))
    shards = cut(corpus, 20_000, id_given=False)
    assert ids(corpus, shards) == whole(corpus)
    store = Store(f"s3://{s3_bucket}/out", {})
    assert save_manifest(store, "runs/r/manifest.parquet", shards, "print") == shards
    assert save_manifest(store, "runs/r/manifest.parquet", shards[:1], "print") == shards
