"""Types as users write them in corpus.schema; types and column names as messages show them.

    parse_type    int64, timestamp[us, UTC], list<string>, map<string, int64>, struct<a: int64, b: bool>, json -> Arrow type
    type_name     the same notation for an Arrow type
    shown_names   names of columns, at most 40, none of them long

The notation is Arrow's own, with the short forms that other tools use: `list<item: string>` is `list<string>`, `int` is
int64, `text` is string. `json` is any value, kept as its JSON text (Arrow's extension type arrow.json).
"""

from __future__ import annotations

import difflib
import re
import zoneinfo
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.types as pt

MOST_LEVELS = 32  # of a kept value's nesting: readers of Parquet follow no deeper
_SHOWN = 120  # characters of a type in a message
_SHOWN_NAME, _SHOWN_NAMES = 60, 40
JSON = pa.json_()
_SIMPLE: dict[str, pa.DataType] = {
    **{f"{sign}int{bits}": pa.type_for_alias(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "int": pa.int64(), "integer": pa.int64(), "bigint": pa.int64(), "long": pa.int64(),
    "float": pa.float32(), "float32": pa.float32(), "double": pa.float64(), "float64": pa.float64(),
    "string": pa.string(), "str": pa.string(), "utf8": pa.string(), "text": pa.string(), "varchar": pa.string(),
    "large_string": pa.string(), "bool": pa.bool_(), "boolean": pa.bool_(),
    "date": pa.date32(), "date32": pa.date32(), "date32[day]": pa.date32(),
    "json": JSON, "extension<arrow.json>": JSON,
}  # fmt: skip
_WITH_ARGUMENTS = ("timestamp", "time32", "time64", "decimal", "decimal128", "list", "large_list", "map", "struct")
_UNITS = {"timestamp": ("s", "ms", "us", "ns"), "time32": ("s", "ms"), "time64": ("us", "ns")}
_WORD = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_.]*)")
_FIELD = re.compile(r'\s*(?:"([^"]*)"|([^\s:<>,"][^:<>,"]*?))\s*:')
_ITEM = re.compile(r"\s*(?:item|element|entries)\s*:")


def parse_type(text: str) -> pa.DataType:
    """The Arrow type of a name.

    Raises:
        ValueError: it is none that a column can have; the message says what is wrong, with the nearest name.
    """
    simple = _SIMPLE.get(text.strip().lower())
    if simple is not None:
        return simple
    parser = _Parser(text)
    kind = parser.type(MOST_LEVELS)
    parser.end()
    return kind


def type_name(kind: pa.DataType) -> str:
    """The type in the notation that parse_type reads, where it reads that type."""
    if kind == JSON:
        return "json"
    if pt.is_timestamp(kind) and kind.tz is not None:
        return f"timestamp[{kind.unit}, {kind.tz}]"
    if pt.is_date32(kind):
        return "date32"
    if pt.is_struct(kind):
        return "struct<" + ", ".join(f"{_quoted(field.name)}: {type_name(field.type)}" for field in kind.fields) + ">"
    if pt.is_map(kind):
        return f"map<{type_name(kind.key_type)}, {type_name(kind.item_type)}>"
    if pt.is_list(kind):
        return f"list<{type_name(kind.value_type)}>"
    return str(kind)


def shown_type(kind: pa.DataType) -> str:
    """type_name, cut to what a message can hold."""
    name = type_name(kind)
    return name if len(name) <= _SHOWN else name[: _SHOWN - 3] + "..."


def shown_name(name: str) -> str:
    """A column's name on one line, cut; what no terminal takes (NUL, half of a surrogate pair) as its escape."""
    name = "".join(character if character.isprintable() else repr(character)[1:-1] for character in name[:_SHOWN_NAME])
    return name if len(name) < _SHOWN_NAME else name[: _SHOWN_NAME - 3] + "..."


def shown_names(names: Sequence[str]) -> str:
    """Names of columns for a message, which may be any bytes of an object."""
    return ", ".join(map(shown_name, names[:_SHOWN_NAMES])) + (", ..." if len(names) > _SHOWN_NAMES else "")


def _quoted(name: str) -> str:
    return (
        name if re.fullmatch(r'[^\s:<>,"][^:<>,"]*', name) and name == name.strip() else '"' + name.replace('"', "'") + '"'
    )


class _Parser:
    """Recursive descent over one text; `at` is what is read next."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def type(self, levels: int) -> pa.DataType:
        if not levels:
            raise ValueError(f"is nested deeper than {MOST_LEVELS} levels")
        word = _WORD.match(self._text, self._at)
        if word is None:
            raise ValueError(f"a type is missing at {self._rest()}; {_known()}")
        self._at = word.end()
        name = word.group(1).lower()
        if name == "date32" and self._rest().startswith("[day]"):
            self._expect("[day]")
        if name in _SIMPLE:
            return _SIMPLE[name]
        if name not in _WITH_ARGUMENTS:
            near = difflib.get_close_matches(name, [*_SIMPLE, *_WITH_ARGUMENTS], n=1)
            raise ValueError(f"is no type: {word.group(1)}; " + (f"did you mean {near[0]}?" if near else _known()))
        if name in _UNITS:
            return self._temporal(name)
        if name.startswith("decimal"):
            return self._decimal()
        return self._nested(name, levels - 1)

    def end(self) -> None:
        if self._rest():
            raise ValueError(f"ends before {self._rest()}")

    def _temporal(self, name: str) -> pa.DataType:
        found = re.compile(r"\s*\[\s*(\w+)\s*(?:,\s*(?:tz\s*=\s*)?([^\]\s]+)\s*)?\]").match(self._text, self._at)
        if found is None or found.group(1) not in _UNITS[name] or (found.group(2) and name != "timestamp"):
            raise ValueError(f"{name} needs a unit: " + " or ".join(f"{name}[{unit}]" for unit in _UNITS[name]))
        self._at = found.end()
        unit, zone = found.groups()
        if name == "timestamp":
            return pa.timestamp(unit, _checked_zone(zone))
        return pa.time32(unit) if name == "time32" else pa.time64(unit)

    def _decimal(self) -> pa.DataType:
        found = re.compile(r"\s*\(\s*(\d{1,2})\s*,\s*(\d{1,2})\s*\)").match(self._text, self._at)
        if found is None or not 1 <= int(found.group(1)) <= 38 or int(found.group(2)) > int(found.group(1)):
            raise ValueError("decimal needs digits and digits behind the point, 38 at most: decimal(10, 2)")
        self._at = found.end()
        return pa.decimal128(int(found.group(1)), int(found.group(2)))

    def _nested(self, name: str, levels: int) -> pa.DataType:
        self._expect("<")
        if name == "struct":
            return self._struct(levels)
        if name == "map":
            key = self.type(levels)
            if key != pa.string():
                raise ValueError("has keys that are no strings; keys of a JSON object are: map<string, ...>")
            self._expect(",")
            kind = pa.map_(key, self.type(levels))
        else:
            item = _ITEM.match(self._text, self._at)
            self._at = item.end() if item else self._at
            kind = pa.list_(self.type(levels))
        self._expect(">")
        return kind

    def _struct(self, levels: int) -> pa.DataType:
        fields: dict[str, pa.DataType] = {}
        while True:
            found = _FIELD.match(self._text, self._at)
            if found is None:
                raise ValueError(f"a field is written name: type; found {self._rest() or 'nothing more'}")
            self._at = found.end()
            name = found.group(2) if found.group(1) is None else found.group(1)
            if name in fields:
                raise ValueError(f"has more than one field {name}")
            fields[name] = self.type(levels)
            if not self._rest().startswith(","):
                self._expect(">")
                return pa.struct(list(fields.items()))
            self._expect(",")

    def _expect(self, token: str) -> None:
        if not self._rest().startswith(token):
            raise ValueError(f"{token} is missing at {self._rest() or 'the end'}")
        self._at = self._text.index(token, self._at) + len(token)

    def _rest(self) -> str:
        return self._text[self._at :].strip()


def _checked_zone(zone: str | None) -> str | None:
    """Arrow takes any text for a time zone, and fails on it when values are shown."""
    if zone is not None and not re.fullmatch(r"[+-]\d\d:\d\d", zone):
        try:
            zoneinfo.ZoneInfo(zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"has no known time zone: {zone}; write one like UTC, Europe/Paris or +02:00") from None
    return zone


def _known() -> str:
    return (
        "known: int64, double, bool, string, date32, timestamp[us, UTC], decimal(10, 2), list<string>, "
        "map<string, int64>, struct<a: int64>, json"
    )
