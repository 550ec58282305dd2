"""Types that the user states in corpus.schema: parsed, checked against the columns that are kept.

stated_types    the setting -> Arrow types
check_stated    names that nobody keeps are refused, with the nearest name
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import pyarrow as pa

from workers.config import CorpusConfig
from workers.errors import UsageError
from workers.reading.typed.type_names import parse_type, shown_name
from workers.records.pinned_table import PinnedTable


def stated_types(config: CorpusConfig, table: PinnedTable | None = None) -> dict[str, pa.DataType]:
    """Column -> its type, by the user; else by the table, of columns that are not in its files.

    Raises: UsageError: a type is not known.
    """
    types = {name: parse_type(text) for name, text in table.types} if table else {}
    for name, text in config.types.items():
        try:
            types[name] = parse_type(text)
        except ValueError as error:
            raise UsageError(f"corpus.schema: {shown_name(name)}: {shown_name(text)} {error}") from None
    return types


def check_stated(config: CorpusConfig, partition_by: Sequence[str] = ()) -> None:
    """Refuse what corpus.schema cannot say.

    Raises:
        UsageError: a type is not known, or a column is not kept.
    """
    kept = [*config.keep, *partition_by]
    for name in stated_types(config):
        if name in kept:
            continue
        if name == config.id or name in config.text:
            setting = "corpus.id" if name == config.id else "corpus.text"
            raise UsageError(f"corpus.schema: {name} is {setting}, which has a type of its own; leave it out")
        near = difflib.get_close_matches(name, kept, n=1)
        mend = f"did you mean {near[0]}?" if near else "add it to corpus.keep, or leave it out"
        raise UsageError(f"corpus.schema: {shown_name(name)} is not kept; {mend}")
