"""CSV traps: records, headers and quotes that are wrong, streams that are damaged, one text larger than a shard."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Sequence
from pathlib import Path

from tests.integration.trap_files import (
    BAD_UTF8,
    LONG,
    SCRIPTS,
    Bad,
    Fate,
    Row,
    Traps,
    add_broken_streams,
    documents,
    gone,
    good,
)


def csv_traps(folder: Path) -> Traps:
    traps = Traps(folder, "csv")
    rows = documents("plain", [*SCRIPTS, 'quoted "words", and\nline\r\nbreaks'])
    traps.add("plain.csv", table(rows), Fate(good(rows)))
    rows = documents("packed")
    traps.add("packed.csv.gz", gzip.compress(table(rows)), Fate(good(rows)))
    rows = documents("turned")
    traps.add("columns_turned.csv", table(rows, ["year", "text", "lang", "id"]), Fate(good(rows)))
    rows = documents("tabs")
    traps.add("tabs.tsv", table(rows, delimiter="\t"), Fate(good(rows)))

    rows = documents("texts", ["", " \u3000", "BAD", "\x00", "last"])
    traps.add(
        "texts.csv",
        table(rows).replace(b"BAD", BAD_UTF8),
        Fate(
            good(rows[3:]),
            [
                Bad(0, "^text is empty", "texts-0"),
                Bad(1, "^text is empty", "texts-1"),
                Bad(2, "^record is not valid UTF-8"),
            ],
        ),
    )
    rows = documents("long", ["before", LONG, "behind", ""])
    traps.add("long.csv", table(rows), Fate(good(rows[:3]), [Bad(3, "^text is empty", "long-3")]))
    rows = documents("ids", ["one", "two", "three"])
    for row, identity in zip(rows, ["same", "same", ""], strict=True):
        row["id"] = identity
    traps.add("ids.csv", table(rows), Fate(good(rows[:2]), [Bad(2, "^id is null")]))
    rows = documents("again", ["one"])
    rows[0]["id"] = "same"
    traps.add("ids_again.csv", table(rows), Fate(good(rows)))

    rows = documents("records", ["one", "two"])
    first, second = (line + b"\r\n" for line in table(rows).split(b"\r\n")[1:3])
    header = table([])
    traps.add(
        "malformed.csv",
        header + first + b"few,fields\r\n\r\n" + b"a,b,en,1990,more\r\n" + second + b'x"y,"quo"te,en,1990\r\n',
        Fate(
            good(rows),
            [
                Bad(1, "^record has 2 fields where the header has 4"),
                Bad(2, "^record has 5 fields where the header has 4"),
                Bad(4, "^record is not valid CSV"),
            ],
        ),
    )
    traps.add(
        "open_quote.csv",
        header + first.replace(b"records", b"quote") + b'q,"never closed,en,1990\r\na,b,en,1990\r\nc,d,en,1990\r\n',
        Fate([("quote-0", "one")], [Bad(1, "^a quote is never closed, bytes .*3 lines", rows=3)]),
    )
    rows = documents("bare", ["one", "two"])
    traps.add("no_lang.csv", table(rows, ["id", "text"]), Fate(good(rows)))
    rows = documents("years", ["one", "two"])  # CSV holds strings alone: any value fits
    traps.add("year_is_text.csv", table([row | {"year": "long ago"} for row in rows]), Fate(good(rows)))
    traps.add("no_text.csv", table(rows, ["id", "lang"]), Fate(lost=r"no column 'text'.*correct"))
    traps.add("no_id.csv", table(rows, ["text", "lang"]), Fate(lost=r"no column 'id'.*correct"))
    traps.add("text_twice.csv", table(rows, ["id", "text", "text"]), Fate(lost="more than one column 'text'.*rename"))
    traps.add("no_rows.csv", header, Fate())
    add_broken_streams(traps, table(documents("cut", [f"row {number}" for number in range(500)])))
    for name, fate in gone(None).items():
        traps.add(f"{name}.csv", table(documents(name)), fate)
    return traps


def table(rows: Sequence[Row], names: Sequence[str] = ("id", "text", "lang", "year"), delimiter: str = ",") -> bytes:
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, delimiter=delimiter)
    writer.writerow(names)
    writer.writerows([row[name] for name in names] for row in rows)
    return sink.getvalue().encode()
