"""Parquet footers that do not agree with themselves: named, never a traceback. Made in Thrift's compact protocol."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
import pytest

from jobs.corpus.discovery import discover
from jobs.planning.sharding import cut
from tests.jobs.source_files import TEXTS, config, parquet
from workers.errors import ObjectError
from workers.reading.footers.parquet import parse_footers
from workers.reading.reader import read_windows


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def record(*fields: tuple[int, int, object]) -> bytes:
    """(number, kind, value); kinds 5 i32, 6 i64, 8 binary, 9 list of structs."""
    out, last = b"", 0
    for number, kind, value in fields:
        out += bytes([(number - last) << 4 | kind])
        last = number
        if isinstance(value, int):
            out += varint(value * 2)
        elif isinstance(value, bytes):
            out += varint(len(value)) + value
        elif isinstance(value, list):
            out += bytes([len(value) << 4 | 12]) + b"".join(value)
    return out + b"\0"


def footer(groups: list[bytes], columns: int = 2, rows: int = 1) -> bytes:
    names = (b"id", b"text")
    leaves = [record((1, 5, 6), (3, 5, 0), (4, 8, name), (6, 5, 0)) for name in names]
    data = record((1, 5, 1), (2, 9, [record((4, 8, b"root"), (5, 5, columns)), *leaves]), (3, 6, rows), (4, 9, groups))
    return data + len(data).to_bytes(4, "little") + b"PAR1"


EMPTY_GROUP = record((1, 9, []), (2, 6, 0), (3, 6, 1))


def test_a_row_group_with_fewer_columns_than_the_schema(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1" + footer([EMPTY_GROUP]))
    parquet(tmp_path / "good.parquet", {"id": ["a", "b", "c"], "text": TEXTS})
    corpus = discover(config(tmp_path, id="id"))
    assert corpus.objects[0].problem == "its footer is corrupt: row group 0 lists 0 columns where the schema has 2"
    assert "bad.parquet" in corpus.warnings[0]
    texts: list[str] = []
    for shard in cut(corpus, 1 << 20, id_given=True):
        for piece in shard.slices:
            if "bad" in piece.uri:
                continue
            texts += [text for window in read_windows(shard, corpus.read_plan, {corpus.objects[0].info.uri: "corrupt"})
                      for text in window.table["text"].to_pylist()]  # fmt: skip
    assert texts == TEXTS


@pytest.mark.parametrize("columns", [0, 1, 3, 200])
def test_a_schema_that_counts_other_children(columns: int) -> None:
    """Facts or a problem: nothing is raised."""
    told = parse_footers([((footer([EMPTY_GROUP], columns),), 1000)], ["text"], ["id"])
    assert isinstance(told[0], str), told


def test_int96_is_a_timestamp_in_microseconds(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"at": pa.array([1], pa.timestamp("ns"))}), path, use_deprecated_int96_timestamps=True)
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little") + 8
    (facts,) = parse_footers([((data[-length:],), len(data))], [], ["at"])
    assert not isinstance(facts, str)
    assert facts.types == {"at": pa.timestamp("us")}


def test_reading_an_object_whose_row_groups_lack_columns_blames_it(tmp_path: Path) -> None:
    """What planning refuses a replica would refuse as well, when an earlier version planned it."""
    path = tmp_path / "bad.parquet"
    path.write_bytes(b"PAR1" + footer([EMPTY_GROUP]))
    from tests.workers.corpus_files import plan_of, read

    with pytest.raises(ObjectError, match=r"bad\.parquet: .*row group 0 lists 0 columns where the schema has 2; upload"):
        read(path, plan_of(id="id"))


def test_a_total_that_the_writer_left_at_zero(tmp_path: Path) -> None:
    """As early versions of parquet-rs wrote it; pyarrow and DuckDB go by the row groups too."""
    path = parquet(tmp_path / "a.parquet", {"text": TEXTS})
    data = path.read_bytes()
    total = bytes([0x16, 2 * len(TEXTS), 0x19])  # field num_rows, then the list of row groups
    assert data.count(total) == 1
    path.write_bytes(data.replace(total, bytes([0x16, 0, 0x19])))
    assert pq.read_metadata(path).num_rows == 0
    assert pq.read_table(path)["text"].to_pylist() == TEXTS
    corpus = discover(config(tmp_path))
    texts = [text for shard in cut(corpus, 1 << 20, id_given=False) for window in read_windows(shard, corpus.read_plan, {})
             for text in window.table["text"].to_pylist()]  # fmt: skip
    assert texts == TEXTS


class PlainKeys(encryption.KmsClient):
    """Keys in clear text: enough to write an encrypted file."""

    def __init__(self, _connection: object) -> None:
        super().__init__()

    def wrap_key(self, key_bytes: bytes, _name: str) -> str:
        return key_bytes.hex()

    def unwrap_key(self, wrapped_key: str, _name: str) -> bytes:
        return bytes.fromhex(wrapped_key)


def test_an_encrypted_column_is_named_where_the_footer_is_plain(tmp_path: Path) -> None:
    """pyarrow ends the process that asks for such a column's place; the columns beside it are read."""
    table = pa.table({"text": TEXTS, "name": ["x", "y", "z"]})
    keys = encryption.CryptoFactory(PlainKeys).file_encryption_properties(
        encryption.KmsConnectionConfig(),
        encryption.EncryptionConfiguration(footer_key="f", column_keys={"k": ["name"]}, plaintext_footer=True),
    )
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema, encryption_properties=keys) as writer:
        writer.write_table(table)
    corpus = discover(config(tmp_path, keep=["name"]))
    assert corpus.objects[0].problem == "column 'name' is encrypted: decrypt it; encrypted Parquet is not read"
    plain = discover(config(tmp_path))
    assert plain.objects[0].problem is None
    (shard,) = cut(plain, 1 << 20, id_given=False)
    (window,) = read_windows(shard, plain.read_plan, {})
    assert window.table["text"].to_pylist() == TEXTS
