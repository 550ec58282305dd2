"""JSONL traps: rows, lines and keys that are wrong, streams that are damaged, one text larger than a shard."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.trap_files import BAD_UTF8, LONG, Bad, Fate, Row, Traps, add_broken_streams, documents, gone, good
from tests.workers.corpus_files import COMPRESS


def jsonl_traps(folder: Path) -> Traps:
    traps = Traps(folder, "jsonl")
    for ending, compress in {"": bytes, **COMPRESS}.items():
        rows = documents(f"plain{ending}")
        traps.add(f"plain.jsonl{ending}", compress(lines(*rows)), Fate(good(rows)))
    rows = documents("crlf")
    traps.add("crlf_and_bom.jsonl", b"\xef\xbb\xbf" + lines(*rows, end=b"\r\n"), Fate(good(rows)))

    rows = documents("texts", [None, "", " \u3000", 7, "\x00", "last"])
    traps.add(
        "texts.jsonl",
        lines(
            *rows,
            {"id": "texts-6"},
            '{"id": "texts-7", "text": "half \\ud83d"}',
            b'{"id": "x", "text": "' + BAD_UTF8 + b'"}',
        ),
        Fate(
            good(rows[4:]),
            [
                Bad(0, "^text is null", "texts-0"),
                Bad(1, "^text is empty", "texts-1"),
                Bad(2, "^text is empty", "texts-2"),
                Bad(3, "^text is not a string but number", "texts-3"),
                Bad(6, "^text is missing", "texts-6"),
                Bad(7, "^text is not valid Unicode", "texts-7"),
                Bad(8, "^line is not valid UTF-8"),
            ],
        ),
    )
    rows = documents("long", ["before", LONG, "behind"])  # larger than a shard: rows behind the cut have no number
    traps.add(
        "long.jsonl", lines(*rows, "{cut off"), Fate(good(rows), [Bad(None, r"^line is not valid JSON.*at byte \d{7}")])
    )
    rows = documents("ids", ["one", "two", "three", "four", "five"])
    for row, identity in zip(rows, ["same", "same", None, ["list"], 7], strict=True):
        row["id"] = identity
    traps.add(
        "ids.jsonl",
        lines(*rows, {"text": "six"}),
        Fate(
            [("same", "one"), ("same", "two"), ("7", "five")],
            [Bad(2, "^id is null"), Bad(3, "^id is not a scalar"), Bad(5, "^id is null")],
        ),
    )
    rows = documents("again", ["one"])
    rows[0]["id"] = "same"
    traps.add("ids_again.jsonl", lines(*rows), Fate(good(rows)))
    rows = documents("lines", ["one", "two"])
    traps.add(
        "malformed.jsonl",
        lines(rows[0], "{'id': 'single quotes'}", "", "   ", '["a list"]', '"a string"', rows[1], '{"id": "cut')[:-1],
        Fate(
            good(rows),
            [
                Bad(1, "^line is not valid JSON"),
                Bad(2, "^line is not a JSON object but array"),
                Bad(3, "^line is not a JSON object but string"),
                Bad(5, "^line is not valid JSON"),
            ],
        ),
    )  # fmt: skip
    traps.add(
        "no_text.jsonl",
        lines(*({"id": f"body-{n}", "body": "b"} for n in range(3))),
        Fate(bad=[Bad(n, "^text is missing", f"body-{n}") for n in range(3)]),
    )
    traps.add(
        "text_is_list.jsonl",
        lines(*({"id": f"list-{n}", "text": ["a"]} for n in range(2))),
        Fate(bad=[Bad(n, "^text is not a string but array", f"list-{n}") for n in range(2)]),
    )
    rows = documents("years", ["one", "two"])
    traps.add(
        "year_is_text.jsonl",
        lines(rows[0], rows[1] | {"year": "long ago"}),
        Fate(good(rows[:1]), [Bad(1, "kept column year", "years-1")]),
    )
    rows = documents("bare", ["one", "two"])
    traps.add("no_lang.jsonl", lines(*({"id": row["id"], "text": row["text"]} for row in rows)), Fate(good(rows)))
    add_broken_streams(traps, lines(*documents("cut", [f"row {number}" for number in range(500)])))
    traps.add("garbage.jsonl", bytes(range(256)) * 2, Fate(bad=garbage_rows(bytes(range(256)) * 2)))
    for name, fate in gone(None).items():
        traps.add(f"{name}.jsonl", lines(*documents(name)), fate)
    return traps


def garbage_rows(data: bytes) -> list[Bad]:
    found = [line for line in data.split(b"\n") if line.strip()]
    return [Bad(number, "^line is not valid (UTF-8|JSON)") for number in range(len(found))]


def lines(*rows: Row | str | bytes, end: bytes = b"\n") -> bytes:
    """JSON for dicts, all else as it is."""
    encoded = (json.dumps(row, ensure_ascii=False).encode() if isinstance(row, dict) else row for row in rows)
    return b"".join((row if isinstance(row, bytes) else row.encode()) + end for row in encoded)
