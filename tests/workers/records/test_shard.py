"""Records as storage and other processes see them."""

from __future__ import annotations

import json

import pytest

from workers.records.shard import ObjectSlice, OutputFile, Receipt, Shard, shard_name

FILE = OutputFile("data/run/lang=de/part-0000007.parquet", 3, 100, "sha", "digest")


def _receipt(**changed: object) -> Receipt:
    plain = {
        "shard": 7, "epoch": 1 << 33, "rows_read": 5, "documents": 3, "rows": 3, "quarantined_rows": 2,
        "lost_objects": ("s3://b/x",), "tokens": 40, "padded_tokens": 48, "truncated": 1, "duplicate_ids": 0,
        "files": (FILE,),
        "quarantine": OutputFile("runs/run/quarantine/shard-0000007.parquet", 2, 9, "s", "d"),
        "stage_seconds": {"read": 0.5}, "seconds": 1.25, "replica": "replica-0",
    }  # fmt: skip
    return Receipt(**(plain | changed))  # type: ignore[arg-type]


def test_a_receipt_reads_back_as_it_was_written() -> None:
    for receipt in (
        _receipt(),
        _receipt(quarantine=None, token_histogram=(1, 0, 2), excluded=("s3://b/y",), probe_cosine=0.5),
    ):
        assert Receipt.from_json(receipt.to_json()) == receipt


def test_a_receipt_is_one_line_of_plain_json() -> None:
    """The log of receipts separates them by line feeds."""
    data = _receipt(replica="two\nlines").to_json()
    assert b"\n" not in data
    stored = json.loads(data)
    assert (stored["shard"], stored["files"][0]["path"], stored["quarantine"]["rows"]) == (7, FILE.path, 2)


def test_a_receipt_of_an_earlier_version_lacks_later_fields() -> None:
    stored = json.loads(_receipt().to_json())
    for name in ("excluded", "token_histogram", "carried_from", "reused_rows", "empty", "probed", "probe_cosine"):
        del stored[name]
    assert Receipt.from_json(json.dumps(stored).encode()) == _receipt()


@pytest.mark.parametrize(("rows", "expected"), [((3, 4), 7), ((3, None), None), ((0,), 0)])
def test_rows_of_a_shard_are_known_when_those_of_all_slices_are(rows: tuple[int | None, ...], expected: int | None) -> None:
    slices = tuple(ObjectSlice("s3://b/a", 9, "e", at, at + 1, count) for at, count in enumerate(rows))
    assert Shard(0, slices, 9).rows == expected


def test_names_sort_by_number() -> None:
    numbers = [0, 7, 10, 999_999, 1_234_567, 9_999_999]
    assert sorted(map(shard_name, numbers)) == [shard_name(number) for number in numbers]
    assert shard_name(7) == "0000007"
    assert shard_name(12_345_678) == "12345678"
