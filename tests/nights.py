"""A small corpus that changes over night: what acceptance C1 asks for, in twelve Parquet objects of fifty rows."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 50
WORDS = ("harbour", "winter", "flour", "lamp", "oil", "letter", "pilot", "gull", "boat", "morning", "street", "clock")
CHANGED = (2, 5, 7)
RENAMED, DELETED = 9, 11


def first_night() -> dict[str, list[tuple[str, str]]]:
    chance = random.Random(4)
    return {
        f"object-{number:02d}": [
            (f"{number:02d}-{row:02d}", " ".join(chance.choices(WORDS, k=chance.randint(3, 40))) + f" {number} {row}")
            for row in range(ROWS)
        ]
        for number in range(12)
    }


def second_night(before: Mapping[str, list[tuple[str, str]]]) -> dict[str, list[tuple[str, str]]]:
    """Six texts changed, three rows deleted, six added (two of them with a text that is there already)."""
    after = dict(before)
    for number in CHANGED:
        name = f"object-{number:02d}"
        rows = list(before[name])
        rows[3], rows[40] = (rows[3][0], f"changed {number}"), (rows[40][0], f"changed too {number}")
        del rows[20]
        rows.insert(10, (f"added-{number}", f"a new one of {number}"))
        rows.append((f"copied-{number}", rows[0][1]))
        after[name] = rows
    after["renamed"] = after.pop(f"object-{RENAMED:02d}")
    return after


def write(folder: Path, objects: Mapping[str, list[tuple[str, str]]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in objects.items():
        columns = {"id": [key for key, _ in rows], "text": [text for _, text in rows], "place": [name[:6]] * len(rows)}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet", use_dictionary=False)


def to_second(corpus: Path) -> None:
    """Make the first night's corpus the second one's: three objects replaced, one renamed."""
    before = first_night()
    after = second_night(before)
    write(corpus, {name: after[name] for name in after if after[name] != before.get(name) and name != "renamed"})
    (corpus / f"object-{RENAMED:02d}.parquet").rename(corpus / "renamed.parquet")
