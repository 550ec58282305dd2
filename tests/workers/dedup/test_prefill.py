"""Earlier parts on their way to the cache: what cannot be used is left out and named, and never fails the shard."""

from __future__ import annotations

import io
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.workers.dedup.test_vector_cache import TEXTS, same
from tests.workers.output_samples import DIM
from tests.workers.shard_line import SETTINGS, Line, documents
from workers.config import LongText, Pooling, VectorType
from workers.dedup.prefill import EarlierPart
from workers.errors import TransientError
from workers.records.shard import Receipt
from workers.storage.store import Store

HALVES = TEXTS[:20], TEXTS[20:]


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


def two_parts(line: Line) -> list[str]:
    """Paths of two shards' parts, half of the texts each."""
    return [line.run("base", documents(half), shard=number).files[0].path for number, half in enumerate(HALVES)]


def check_left_out(line: Line, earlier: list[str], caplog: pytest.LogCaptureFixture, said: str) -> Receipt:
    """The second part is of no use: its texts are embedded, the first part's are not."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, "reembed"):
        receipt = line.run("next", documents(TEXTS), earlier)
    (record,) = caplog.records
    assert said in record.getMessage()
    assert Path(earlier[1]).name in record.getMessage()
    assert record.getMessage().endswith("so its texts are embedded again")
    assert receipt.reused_rows == 20
    assert [text for text in line.shown if text in HALVES[1]] == HALVES[1]
    caplog.clear()
    same(line.rows(receipt), line.rows(line.run("full", documents(TEXTS))))
    return receipt


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :]


def in_vectors(data: bytes) -> int:
    """A byte in the middle of the page that holds the vectors."""
    group = pq.read_metadata(io.BytesIO(data)).row_group(0)
    column = next(
        group.column(n) for n in range(group.num_columns) if group.column(n).path_in_schema.startswith("embedding")
    )
    return int(column.data_page_offset + column.total_compressed_size // 2)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: flip(data, in_vectors(data)), "damaged ("),
        (lambda data: data[: len(data) // 2], "damaged ("),
        (lambda data: b"PAR1" + data[100:], "damaged ("),
        (lambda data: b"", "damaged ("),
        (lambda data: data[:-200] + random.Random(1).randbytes(192) + data[-8:], "damaged ("),
    ],
    ids=["flipped byte", "cut short", "shifted", "empty", "footer"],
)
def test_a_damaged_part(damage: Callable[[bytes], bytes], said: str, line: Line, caplog: pytest.LogCaptureFixture) -> None:
    earlier = two_parts(line)
    line.store.put(earlier[1], damage(line.store.read(earlier[1])))
    check_left_out(line, earlier, caplog, said)


def test_a_part_that_is_gone(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    earlier = two_parts(line)
    line.store.delete(earlier[1])
    check_left_out(line, earlier, caplog, "gone")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights_digest": "other"}, "made with reembed.weights_digest='other' where this run has 'w'"),
        ({"tokenizer_digest": "other"}, "reembed.tokenizer_digest"),
        ({"pooling": Pooling.CLS}, "reembed.pooling='cls' where this run has 'mean'"),
        ({"normalize": False}, "reembed.normalize"),
        ({"precision": "bfloat16"}, "reembed.precision"),
        ({"prompt": "query: "}, "reembed.prompt='query: ' where this run has ''"),
        ({"max_tokens": 128}, "reembed.max_tokens"),
        ({"long_text": LongText.MEAN_OF_CHUNKS}, "reembed.long_text"),
        ({"vector": VectorType.FLOAT16}, "reembed.vector"),
        ({"vector": VectorType.INT8, "int8_scale": 0.02}, "reembed.vector"),
    ],
)
def test_a_part_of_another_make(
    change: dict[str, Any], said: str, line: Line, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = line.run("base", documents(HALVES[0])).files[0].path
    foreign = Line(tmp_path, change).run("base", documents(HALVES[1]), shard=1).files[0].path
    check_left_out(line, [mine, foreign], caplog, said)


def test_another_scale_of_int8_is_another_make(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    line = Line(tmp_path, {"vector": VectorType.INT8})
    mine = line.run("base", documents(HALVES[0])).files[0].path
    foreign = Line(tmp_path, {"vector": VectorType.INT8, "int8_scale": 0.02})
    path = foreign.run("base", documents(HALVES[1]), shard=1).files[0].path
    check_left_out(line, [mine, path], caplog, "reembed.int8_scale='0.02' where this run has '0.01'")


def test_what_does_not_decide_a_vector_may_differ(line: Line, tmp_path: Path) -> None:
    other = Line(tmp_path, {"model": "a mirror's name", "revision": "main", "code_version": "0.0.1"})
    base = other.run("base", documents(TEXTS))
    assert line.run("next", documents(TEXTS), [base.files[0].path]).reused_rows == 40


def rewritten(line: Line, path: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """The part as another writer might have left it, without checksums."""
    file, sink = pq.ParquetFile(io.BytesIO(line.store.read(path))), io.BytesIO()
    table = change(file.read())
    with pq.ParquetWriter(sink, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({key: cell for key, cell in file.metadata.metadata.items() if key != b"ARROW:schema"})
    line.store.put(path, sink.getvalue())


@pytest.mark.parametrize("setting", list(SETTINGS))
def test_parts_whose_lists_declare_nullable_elements(setting: str, tmp_path: Path) -> None:
    """As version 0.1.0 wrote them: the same vectors, reused, under today's type."""
    line = Line(tmp_path, SETTINGS[setting])
    path = line.run("base", documents(TEXTS)).files[0].path
    before = line.rows(line.run("full", documents(TEXTS)))
    wanted = pq.read_schema(line.store.uri_of(path))

    def as_earlier(table: pa.Table) -> pa.Table:
        for name in {"embedding", "tokens"} & set(table.column_names):
            place = table.schema.get_field_index(name)
            field = table.schema.field(place)
            table = table.cast(table.schema.set(place, field.with_type(nullable(field.type))))
        return table

    rewritten(line, path, as_earlier)
    assert pq.read_schema(line.store.uri_of(path)).field("embedding").type != wanted.field("embedding").type
    receipt = line.run("next", documents(TEXTS), [path])
    assert receipt.reused_rows == receipt.rows == len(before)
    same(line.rows(receipt), before)
    assert pq.read_schema(line.store.uri_of(receipt.files[0].path)) == wanted


def nullable(kind: pa.DataType) -> pa.DataType:
    """The list type with nullable elements, inner lists too."""
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_type, kind.list_size)
    return pa.list_(nullable(kind.value_type)) if pa.types.is_list(kind) else kind


def test_a_missing_column_or_another_type(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    earlier = two_parts(line)
    rewritten(line, earlier[1], lambda table: table.drop_columns(["truncated"]))
    check_left_out(line, earlier, caplog, "column truncated is missing where this run has bool")
    rewritten(line, earlier[1], lambda table: table.append_column("truncated", pa.array([0] * 20)))
    check_left_out(line, earlier, caplog, "column truncated is int64 where this run has bool")
    rewritten(line, earlier[1], lambda table: table.append_column("truncated", pa.array([True] * 20)))
    check_left_out(line, earlier, caplog, "column truncated is there twice where this run has bool")
    with_null = pa.array([None] + [True] * 19, pa.bool_())
    rewritten(line, earlier[1], lambda table: table.select(table.column_names[:4]).append_column("truncated", with_null))
    check_left_out(line, earlier, caplog, "damaged (null where the writer leaves none)")


@pytest.mark.parametrize("setting", ["float32", "tokens", "chunks"])
def test_a_vector_that_no_writer_leaves_is_not_reused(setting: str, tmp_path: Path) -> None:
    line = Line(tmp_path, SETTINGS[setting])
    path = line.run("base", documents(TEXTS)).files[0].path
    texts = pq.read_table(line.store.uri_of(path))["text_hash"].to_pylist()
    spoilt = len(texts) // 2

    def spoil(table: pa.Table) -> pa.Table:
        cells = table["embedding"].to_pylist()
        vector = cells[spoilt][-1] if setting == "tokens" else cells[spoilt]
        vector[3] = float("inf")
        place = table.column_names.index("embedding")
        return table.set_column(place, table.schema.field(place), pa.array(cells, table.schema.field(place).type))

    rewritten(line, path, spoil)
    receipt = line.run("next", documents(TEXTS), [path])
    assert receipt.reused_rows == sum(digest != texts[spoilt] for digest in texts)
    assert receipt.probe_cosine is not None
    assert receipt.probe_cosine > 0.999


def pieces(line: Line) -> list[str]:
    """One shard's rows in several parts of ten rows: many a text with chunks begins in one and goes on in the next."""
    line.part_bytes = 10 * DIM * 4
    base = line.run("base", documents(TEXTS))
    line.part_bytes = None
    assert len(base.files) > 4
    borders = [pq.read_table(line.store.uri_of(file.path))["chunk"][0].as_py() for file in base.files]
    assert any(borders), borders
    return [file.path for file in base.files]


def test_texts_that_go_on_in_the_next_part(tmp_path: Path) -> None:
    line = Line(tmp_path, SETTINGS["chunks"])
    paths = pieces(line)
    random.Random(0).shuffle(paths)
    receipt = line.run("next", documents(TEXTS), paths)
    full = line.run("full", documents(TEXTS))
    same(line.rows(receipt), line.rows(full))
    last = len([row for row in line.rows(full) if row["id"] == "doc-39"])
    assert receipt.reused_rows == full.rows - last  # of the last text nobody can say that it ends there


@pytest.mark.parametrize("missing", [0, 2, -1])
@pytest.mark.parametrize("damaged", [False, True])
def test_texts_whose_other_rows_are_not_there(
    missing: int, damaged: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = Line(tmp_path, SETTINGS["chunks"])
    paths = pieces(line)
    tables = [pq.read_table(line.store.uri_of(path), columns=["text_hash"])["text_hash"].to_pylist() for path in paths]
    lost = paths[missing]
    if damaged:
        line.store.put(lost, flip(line.store.read(lost), in_vectors(line.store.read(lost))))
    else:
        paths.remove(lost)
    receipt = line.run("next", documents(TEXTS), paths)
    same(line.rows(receipt), line.rows(line.run("full", documents(TEXTS))))
    touched = set(tables[missing]) | {tables[missing - 1][-1]}  # its own, and the open one of the part before or the last
    everything = [digest for table in tables for digest in table]
    whole = [digest for digest in everything if digest not in touched | {everything[-1]}]
    assert receipt.reused_rows == len(whole)
    assert receipt.probe_cosine == pytest.approx(1)
    assert len(caplog.records) == damaged


def test_only_the_needed_columns_are_read_and_once(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(3)
    noise = [generator.randbytes(40_000).hex() for _ in TEXTS]
    base = line.run("base", documents(TEXTS, note=noise))
    size, read = base.files[0].bytes, [0]
    assert size > 1_000_000

    class Counted(io.BufferedIOBase):
        def __init__(self, raw: IO[bytes]) -> None:
            self.raw = raw

        def read(self, count: int | None = -1, /) -> bytes:
            data = self.raw.read(-1 if count is None else count)
            read[0] += len(data)
            return data

        def seek(self, place: int, whence: int = 0, /) -> int:
            return self.raw.seek(place, whence)

    opened = Store.open
    monkeypatch.setattr(Store, "open", lambda self, path, **options: Counted(opened(self, path, **options)))
    monkeypatch.setattr("workers.table.part_file.LEAST_BYTES", 4096)
    receipt = line.run("next", documents(TEXTS), [base.files[0].path])
    assert receipt.reused_rows == 40
    assert 0 < read[0] < size // 20  # 64 KiB of it are the footer's


def test_a_store_that_does_not_answer_fails_the_attempt(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = two_parts(line)
    opened = Store.open

    class Broken(io.BytesIO):
        def read(self, count: int | None = -1, /) -> bytes:
            raise TimeoutError("no answer")

    def open_broken(self: Store, path: str, **options: Any) -> IO[bytes]:
        return Broken(opened(self, path, **options).read()) if path == earlier[1] else opened(self, path, **options)

    monkeypatch.setattr(Store, "open", open_broken)
    with pytest.raises(TransientError, match="no answer"):
        line.run("next", documents(TEXTS), earlier)


def test_parts_in_the_order_of_their_pieces() -> None:
    names = ["lang=a/part-0000003-10", "lang=a/part-0000003-9", "lang=b/part-0000003", "lang=a/part-0000002-11", "other"]
    parts = sorted(EarlierPart.of(f"data/run/{name}.parquet") for name in names)
    assert [part.path.removeprefix("data/run/").removesuffix(".parquet") for part in parts] == [
        "lang=a/part-0000002-11", "lang=a/part-0000003-9", "lang=a/part-0000003-10", "lang=b/part-0000003", "other"
    ]  # fmt: skip
    assert [after.follows(before) for before, after in zip([None, *parts], parts, strict=False)] == [
        False, False, True, False, False
    ]  # fmt: skip
    assert np.all([part.piece == -1 for part in parts[3:]])
