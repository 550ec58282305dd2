"""Bounds of a column's values for a table's records: of integers, dates and strings.

Not of floats, whose footers leave NaN out while tables take it for the largest value, nor of other types. Strings are cut
to 32 characters; the largest then gets the last character of Unicode, so that it stays an upper bound.
"""

from __future__ import annotations

import datetime

from workers.table.column_statistics import ColumnStatistics

_PREFIX = 32  # characters of a string
_LAST = "\U0010ffff"
Bound = int | str | datetime.date


def bounds_of(known: ColumnStatistics) -> tuple[Bound, Bound] | None:
    """None: not known, or not of a type that they are told of."""
    least, most = known.least, known.most
    if isinstance(least, bool) or isinstance(most, bool):
        return None
    if isinstance(least, int) and isinstance(most, int):
        return least, most
    if isinstance(least, str) and isinstance(most, str):
        return least[:_PREFIX], _at_least(most)
    if type(least) is datetime.date and type(most) is datetime.date:
        return least, most
    return None


def _at_least(text: str) -> str:
    """A string of about 32 characters that does not sort before `text`, by code points as by UTF-8."""
    at = _PREFIX
    while text[at : at + 1] == _LAST:
        at += 1
    return text if len(text) <= at else text[:at] + _LAST
