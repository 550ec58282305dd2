"""Shards and receipts for the tests of the state on storage."""

from __future__ import annotations

from dataclasses import replace

from workers.records.shard import ObjectSlice, OutputFile, Receipt, Shard

RUN = "20261120T100312Z-1a2b3c4d"


def shard(number: int, rows: int | None = 10) -> Shard:
    piece = ObjectSlice(f"s3://corpus/{number}.parquet", size=100, etag="e", start=0, stop=1, rows=rows)
    return Shard(number, (piece,), text_bytes=1000)


def part(number: int, rows: int, data: bytes = b"", piece: str = "") -> OutputFile:
    path = f"data/{RUN}/lang=de/part-{number:07d}{piece}.parquet"
    return OutputFile(path, rows, len(data), sha256="", rows_digest="")


def receipt(number: int, documents: int = 10, quarantined: int = 0, data: bytes = b"", replica: str = "r") -> Receipt:
    return Receipt(
        shard=number,
        epoch=1,
        rows_read=documents + quarantined,
        documents=documents,
        rows=documents,
        quarantined_rows=quarantined,
        lost_objects=(),
        tokens=7 * documents,
        padded_tokens=8 * documents,
        truncated=1,
        duplicate_ids=0,
        files=(part(number, documents, data),) if documents else (),
        quarantine=None,
        stage_seconds={"read": 0.25, "encode": 1.5},
        seconds=2.0,
        replica=replica,
    )


def with_rows(original: Receipt, rows: int) -> Receipt:
    """Chunks: more rows than documents."""
    return replace(original, rows=rows, files=(replace(original.files[0], rows=rows),))
