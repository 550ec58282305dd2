"""Corpora of traps: objects on disk, and what must become of every row, written by hand beside the bytes.

    Traps    a folder of objects of one format: name -> Fate      (built by trap_parquet, trap_jsonl, trap_csv, trap_text)
    Fate     the rows that must come out, the rows that must be quarantined, or that the whole object must be

Nothing here asks the product what it thinks of them. `deleted` and `replaced` are good objects that a test spoils once the
run is planned.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LONG = "all work and no play " * 250_000  # 5 MB
BAD_UTF8 = b"caf\xe9 au lait"
SCRIPTS = [
    "plain words",
    "👩🏽\u200d🚀 🇩🇪 emoji, joined and flagged",
    "日本語のテキストと中文字符混合在一起没有空格",
    "שלום עולם, مرحبا بالعالم, right to left",
    "e\u0301 combining, \ufb01 ligature, zero\u200bwidth, \u202eoverride",
    "NUL \x00 inside",
]
LANGUAGES = ("en", "de")
Row = dict[str, Any]


@dataclass(frozen=True)
class Bad:
    """A row that must be quarantined. row None: its number cannot be known; `rows` are lost with it."""

    row: int | None
    reason: str  # a pattern
    id: str | None = None
    rows: int = 1


@dataclass
class Fate:
    """good: (id, text) of the rows that must come out. lost: a pattern, when the whole object must be quarantined, with
    `rows` rows or None where nobody can know; `drift`: the plan must say so already."""

    good: list[tuple[str, str]] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    lost: str | None = None
    rows: int | None = None
    drift: bool = False


@dataclass
class Traps:
    folder: Path
    suffix: str
    id: str | None = "id"
    keep: tuple[str, ...] = ("lang", "year")
    objects: dict[str, Fate] = field(default_factory=dict)

    def add(self, name: str, data: bytes, fate: Fate) -> None:
        (self.folder / name).write_bytes(data)
        self.objects[name] = fate

    def spoil(self) -> None:
        """After planning: one object is gone, one is another now, of the same size."""
        for name in ("deleted", "replaced"):
            (self.folder / f"{name}.{self.suffix}").rename(self.folder.with_name(name))
        data = self.folder.with_name("replaced").read_bytes()
        (self.folder / f"replaced.{self.suffix}").write_bytes(data.replace(b"plain words", b"other words"))

    def restore(self) -> None:
        """The very files that were there when the run was planned."""
        for name in ("deleted", "replaced"):
            self.folder.with_name(name).rename(self.folder / f"{name}.{self.suffix}")


def documents(name: str, texts: Sequence[Any] = SCRIPTS) -> list[Row]:
    """One row a text, with ids of the object's own."""
    return [
        {"id": f"{name}-{number}", "text": text, "lang": LANGUAGES[number % 2], "year": 1990 + number}
        for number, text in enumerate(texts)
    ]


def good(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return [(row["id"], row["text"]) for row in rows]


def gone(rows: int | None) -> dict[str, Fate]:
    return {
        "deleted": Fate(lost=r"deleted after the run was planned.*restore it", rows=rows),
        "replaced": Fate(lost=r"replaced after the run was planned.*next run", rows=rows),
    }


def add_broken_streams(traps: Traps, data: bytes) -> None:
    """What every line format can meet: nothing at all, and compressed streams that end early, are damaged, or are none."""
    packed, suffix = gzip.compress(data), traps.suffix
    traps.add(f"zero.{suffix}", b"", Fate())
    traps.add(f"zero.{suffix}.gz", b"", Fate(lost="empty where gzip was expected.*upload it again"))
    traps.add(
        f"cut.{suffix}.gz",
        packed[: len(packed) // 2],
        Fate(lost=r"truncated or corrupt gzip after \d+ rows.*upload it again"),
    )
    damaged = bytearray(packed)
    damaged[-5] ^= 1  # the checksum at the end
    traps.add(f"damaged.{suffix}.gz", bytes(damaged), Fate(lost="truncated or corrupt gzip.*upload it again"))
    traps.add(f"no_gzip.{suffix}.gz", data, Fate(lost="is not compressed, although its name ends with .gz", drift=True))
