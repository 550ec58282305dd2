"""Plain-text traps: lines that are no text, streams that are damaged, one line larger than a shard."""

from __future__ import annotations

from pathlib import Path

from tests.integration.trap_files import BAD_UTF8, LONG, SCRIPTS, Bad, Fate, Traps, add_broken_streams, gone
from tests.workers.corpus_files import COMPRESS


def text_traps(folder: Path) -> Traps:
    """Ids are `<object key>#<row number>`; a line of white space is no row, so a text is never null or empty."""
    traps = Traps(folder, "txt", id=None, keep=())

    def numbered(name: str, texts: dict[int, str]) -> list[tuple[str, str]]:
        return [(f"{folder / name}#{row}", text) for row, text in texts.items()]

    whole = dict(enumerate(SCRIPTS))
    data = "".join(text + "\n" for text in SCRIPTS).encode()
    for ending, compress in {"": bytes, **COMPRESS}.items():
        traps.add(f"plain.txt{ending}", compress(data), Fate(numbered(f"plain.txt{ending}", whole)))
    crlf = b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n")
    traps.add("crlf_and_bom.txt", crlf, Fate(numbered("crlf_and_bom.txt", whole)))
    traps.add(
        "texts.txt",
        b"one\n\n \t \n" + BAD_UTF8 + b"\n\xe3\x80\x80\n\x00\nno line end",
        Fate(
            numbered("texts.txt", {0: "one", 3: "\x00", 4: "no line end"}),
            [
                Bad(1, "^text is not valid UTF-8", f"{folder / 'texts.txt'}#1"),
                Bad(2, "^text is empty", f"{folder / 'texts.txt'}#2"),
            ],
        ),
    )
    traps.add(
        "long.txt",
        b"before\n" + LONG.encode() + b"\nbehind\n" + BAD_UTF8 + b"\n",
        Fate(
            numbered("long.txt", {0: "before", 1: LONG, 2: "behind"}),
            [Bad(3, "^text is not valid UTF-8", f"{folder / 'long.txt'}#3")],
        ),
    )
    add_broken_streams(traps, "".join(f"row {number}\n" for number in range(500)).encode())
    for name, fate in gone(None).items():
        traps.add(f"{name}.txt", data, fate)
    return traps
