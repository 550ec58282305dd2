"""Folders that are tables of Delta Lake, Iceberg, Hudi or Lance, told by the names of their own records.

Such a table says in its log which of its data files, and which of their rows, are valid. Whoever reads all files below it
also reads rows that were deleted or replaced.

    tables_in       tables among names that were listed
    table_markers   the folders to look for where the listing does not show them
    folders_above   where to look
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

ICEBERG, LANCE = "Iceberg", "Lance"
_HIDDEN = {"_delta_log": "Delta", ".hoodie": "Hudi"}
ICEBERG_FOLDER = "metadata"
_LOG = re.compile(r"(?:^|(.*)/)(_delta_log|\.hoodie)(?:/|$)")
_ICEBERG = re.compile(rf"(?:^|(.*)/){ICEBERG_FOLDER}/[^/]*\.metadata\.json(?:\.gz)?$")
_LANCE = re.compile(r"(?:^|(.*)/)data/[^/]*\.lance$")


def tables_in(names: Iterable[str]) -> dict[str, str]:
    """Path of each table's folder -> Delta, Hudi, Iceberg or Lance. `names`: paths of files and of hidden folders."""
    tables: dict[str, str] = {}
    for name in names:
        if log := _LOG.match(name):
            tables[log[1] or ""] = _HIDDEN[log[2]]
        elif iceberg := _ICEBERG.match(name):
            tables[iceberg[1] or ""] = ICEBERG
        elif lance := _LANCE.match(name):
            tables[lance[1] or ""] = LANCE
    return tables


def is_iceberg(name: str) -> bool:
    """Whether a file of this name makes an Iceberg table of the folder above its own."""
    return _ICEBERG.match(name) is not None


def table_markers() -> Mapping[str, str]:
    """Name of a folder inside of a table -> what the table is."""
    return _HIDDEN


def folders_above(path: str) -> list[str]:
    """Folders of which `path` may be a partition or the data folder: those above key=value folders and `data`."""
    above: list[str] = []
    folder, _, name = path.rstrip("/").rpartition("/")
    while folder and ("=" in name or name == "data"):
        above.append(folder)
        folder, _, name = folder.rpartition("/")
    return above
