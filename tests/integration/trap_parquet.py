"""Parquet traps: bad rows, columns that are missing or of another type, files that are damaged or none at all."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.integration.trap_files import BAD_UTF8, LONG, SCRIPTS, Bad, Fate, Row, Traps, documents, gone, good
from tests.workers.corpus_files import bad_utf8


def parquet_traps(folder: Path) -> Traps:
    traps = Traps(folder, "parquet")
    rows = documents("plain")
    traps.add("plain.parquet", parquet(columns(rows), row_group_size=2), Fate(good(rows)))

    rows = documents("texts", [None, "", " \t\n\u3000", "\x00", LONG, "last"])
    table = columns(rows)
    traps.add(
        "texts.parquet",
        parquet(table),
        Fate(
            good(rows[3:]),
            [
                Bad(0, "^text is null", "texts-0"),
                Bad(1, "^text is empty", "texts-1"),
                Bad(2, "^text is empty", "texts-2"),
            ],
        ),
    )
    rows = documents("bytes", ["first", "", "last"])
    table = columns(rows) | {"text": bad_utf8(b"first", BAD_UTF8, b"last")}
    traps.add(
        "bytes.parquet", parquet(table), Fate(good([rows[0], rows[2]]), [Bad(1, "^text is not valid UTF-8", "bytes-1")])
    )

    rows = documents("ids", ["one", "two", "three", "four"])
    table = columns(rows) | {"id": ["same", "same", None, "four"]}
    traps.add(
        "ids.parquet",
        parquet(table),
        Fate([("same", "one"), ("same", "two"), ("four", "four")], [Bad(2, "^id is null")]),
    )
    traps.add(
        "ids_again.parquet",
        parquet(table | {"id": ["same", "a", "b", "c"]}),
        Fate([("same", "one"), ("a", "two"), ("b", "three"), ("c", "four")]),
    )

    rows = documents("whole", ["one", "two", "three"])
    table = columns(rows)
    spoilt: dict[str, tuple[dict[str, Any], str]] = {
        "no_text": ({k: v for k, v in table.items() if k != "text"}, r"no column 'text'.*correct"),
        "no_id": ({k: v for k, v in table.items() if k != "id"}, r"no column 'id'.*correct"),
        "text_is_number": (table | {"text": [1, 2, 3]}, r"text column 'text' is of type int64.*write the column as string"),
        "year_is_list": (table | {"year": [[1], [2], [3]]}, r"kept column 'year'.*leave it out"),
        "year_is_text": (table | {"year": ["1999", "long ago", "x"]}, r"kept column 'year': string cannot.*leave it out"),
    }
    for name, (content, reason) in spoilt.items():
        traps.add(f"{name}.parquet", parquet(content), Fate(lost=reason, rows=3, drift=True))
    traps.add(
        "id_is_list.parquet",
        parquet(table | {"id": [["a"], ["b"], ["c"]]}),
        Fate(bad=[Bad(row, "^id is not a scalar") for row in range(3)], drift=True),
    )
    two = pa.Table.from_arrays([pa.array(["a", "b"])] * 3, names=["id", "text", "text"])
    traps.add("text_twice.parquet", parquet(two), Fate(lost="more than one column 'text'.*rename", rows=2, drift=True))

    rows = documents("bare", ["one", "two"])
    traps.add("no_lang.parquet", parquet({k: v for k, v in columns(rows).items() if k != "lang"}), Fate(good(rows)))

    whole = parquet(columns(documents("cut")))
    traps.add("cut.parquet", whole[:-7], Fate(lost="upload it again", drift=True))
    traps.add("zero.parquet", b"", Fate(lost="upload it again", drift=True))
    traps.add("garbage.parquet", b"no table at all " * 50, Fate(lost="upload it again", drift=True))
    damaged = bytearray(parquet(columns(documents("damaged")), write_page_checksum=True, compression="none"))
    damaged[damaged.index(b"plain words")] ^= 1
    traps.add("damaged.parquet", bytes(damaged), Fate(lost="corrupt Parquet.*upload it again", rows=len(SCRIPTS)))
    traps.add("no_rows.parquet", parquet(pa.table(columns(documents("none"))).slice(0, 0)), Fate())
    for name, fate in gone(len(SCRIPTS)).items():
        traps.add(f"{name}.parquet", parquet(columns(documents(name)), compression="none"), fate)
    return traps


def columns(rows: Sequence[Row]) -> dict[str, Any]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def parquet(content: dict[str, Any] | pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(content if isinstance(content, pa.Table) else pa.table(content), sink, **options)
    return sink.getvalue()
