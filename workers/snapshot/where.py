"""Conditions on the columns of a snapshot, as SQL writes them: `lang = 'de' and (year >= 2020 or year is null)`.

    condition    := every ("or" every)*              every := plain ("and" plain)*
    plain        := "not" plain | "(" condition ")" | column test
    test         := comparison value | "is" ["not"] "null" | ["not"] "in" "(" value "," ... ")"
    comparison   := "=" | "!=" | "<>" | "<" | "<=" | ">" | ">="
    value        := 'text' | number | true | false   column := name | "name"

A comparison with null is neither true nor false, and a row is chosen only where the condition is true, as in SQL. Dates and
times are compared with text (`day >= '2026-01-31'`). No strings are evaluated as code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workers.errors import UsageError
from workers.table.schema import EMBEDDING, TEXT_HASH, TOKENS

MOST_WORDS = 10_000  # of a condition
MOST_NESTED = 50
_UNKNOWN = "the snapshot has no column {name}; it has {known} (corpus.keep keeps more)"
_WORD = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<quoted>\"(?:[^\"]|\"\")+\")|(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[^\W\d]\w*)|(?P<sign><=|>=|<>|!=|=|<|>|\(|\)|,))"
)
_KEYWORDS = frozenset({"and", "or", "not", "in", "is", "null", "true", "false"})
_COMPARISONS: dict[str, Callable[[pa.Array, pa.Scalar], pa.Array]] = {
    "=": pc.equal, "!=": pc.not_equal, "<>": pc.not_equal,
    "<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal,
}  # fmt: skip
_Test = Callable[[pa.Table], pa.Array]
_Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Where:
    """A condition. `columns`: those that it asks."""

    text: str
    columns: tuple[str, ...]
    _test: _Test

    @classmethod
    def parse(cls, text: str, schema: pa.Schema, setting: str = "--where", unknown: str = _UNKNOWN) -> Where:
        """`schema`: of the rows that are asked, the snapshot's.

        `setting`, `unknown`: for messages: where the condition stands, and what of a {name} that is not among the {known}.

        Raises: UsageError: no condition, an unknown column, a value of another type.
        """
        reader = _Reader(text, schema, setting, unknown)
        test = reader.condition(0)
        reader.end()
        return cls(text, tuple(dict.fromkeys(reader.columns)), test)

    def rows(self, table: pa.Table) -> NDArray[np.bool_]:
        """[N] whether the condition is true of each row. `table` has at least `columns`."""
        if not table.num_rows:
            return np.zeros(0, np.bool_)
        found = self._test(table.combine_chunks())
        chosen: NDArray[np.bool_] = pc.fill_null(found, False).to_numpy(zero_copy_only=False).astype(np.bool_)
        return chosen


class _Reader:
    """Reads a condition, word by word."""

    def __init__(self, text: str, schema: pa.Schema, setting: str, unknown: str) -> None:
        self._text, self._schema = text, schema
        self._setting, self._unknown = setting, unknown
        self._words = list(self._split())
        self._at = 0
        self.columns: list[str] = []

    def condition(self, depth: int) -> _Test:
        if depth > MOST_NESTED:
            raise self._refused(f"more than {MOST_NESTED} parentheses or `not` within each other; write it flatter")
        return self._joined("or", pc.or_kleene, lambda: self._joined("and", pc.and_kleene, lambda: self._plain(depth)))

    def end(self) -> None:
        if self._at < len(self._words):
            raise self._refused(f"what is {self._shown()} here? Join conditions by `and` or `or`")

    def _joined(self, word: str, join: Callable[[pa.Array, pa.Array], pa.Array], read: Callable[[], _Test]) -> _Test:
        tests = [read()]
        while self._take(word):
            tests.append(read())

        def all_of(table: pa.Table) -> pa.Array:
            found = tests[0](table)
            for test in tests[1:]:
                found = join(found, test(table))
            return found

        return all_of if len(tests) > 1 else tests[0]

    def _plain(self, depth: int) -> _Test:
        if self._take("not"):
            if depth > MOST_NESTED:
                raise self._refused(f"more than {MOST_NESTED} parentheses or `not` within each other; write it flatter")
            inner = self._plain(depth + 1)
            return lambda table: pc.invert(inner(table))
        if self._take("("):
            inside = self.condition(depth + 1)
            self._expect(")")
            return inside
        return self._of_column(self._column())

    def _of_column(self, field: pa.Field) -> _Test:
        name = field.name
        if self._take("is"):
            negated = self._take("not")
            self._expect("null")
            ask = pc.is_valid if negated else pc.is_null
            return lambda table: ask(_cells(table, name))
        negated = self._take("not")
        if self._take("in"):
            found = self._among(field)
            return (lambda table: pc.invert(found(table))) if negated else found
        sign = self._next()
        compare = _COMPARISONS.get(sign[1]) if sign[0] == "sign" and not negated else None
        if compare is None:
            self._at -= 1
            raise self._refused(f"{self._shown()} after column {name}; write =, !=, <, <=, >, >=, in (...) or is null")
        value = self._value(field)
        return lambda table: compare(_cells(table, name), value)

    def _among(self, field: pa.Field) -> _Test:
        self._expect("(")
        values = [self._value(field)]
        while self._take(","):
            values.append(self._value(field))
        self._expect(")")
        name, kind = field.name, values[0].type

        def test(table: pa.Table) -> pa.Array:
            cells = _cells(table, name)
            if all(value.type == kind for value in values) and cells.type == kind:
                found = pc.is_in(cells, value_set=pa.array([value.as_py() for value in values], kind))
                return pc.if_else(pc.is_null(cells), pa.scalar(None, pa.bool_()), found)
            found = pc.equal(cells, values[0])
            for value in values[1:]:
                found = pc.or_kleene(found, pc.equal(cells, value))
            return found

        return test

    def _column(self) -> pa.Field:
        kind, word = self._next()
        if kind == "quoted":
            word = word[1:-1].replace('""', '"')
        elif kind != "name" or word.lower() in _KEYWORDS:
            self._at -= 1
            raise self._refused(f"{self._shown()} where a column should be named")
        known = [name for name in self._schema.names if name not in (EMBEDDING, TOKENS, TEXT_HASH)]
        if word not in known:
            raise self._refused(self._unknown.format(name=word, known=", ".join(known)))
        self.columns.append(word)
        return self._schema.field(word)

    def _value(self, field: pa.Field) -> pa.Scalar:
        kind, word = self._next()
        value: _Value
        if kind == "text":
            value = word[1:-1].replace("''", "'")
        elif kind == "number":
            value = float(word) if re.search(r"[.eE]", word) else int(word)
        elif kind == "name" and word.lower() in ("true", "false"):
            value = word.lower() == "true"
        else:
            self._at -= 1
            mend = "; write `is null`" if word.lower() == "null" else "; text is written in single quotes: 'de'"
            raise self._refused(f"{self._shown()} where a value should be{mend}")
        return self._typed(field, value, word)

    def _typed(self, field: pa.Field, value: _Value, word: str) -> pa.Scalar:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        try:
            if isinstance(value, bool) and pa.types.is_boolean(kind):
                return pa.scalar(value)
            if isinstance(value, str) and text:
                return pa.scalar(value, kind)
            if isinstance(value, str) and pa.types.is_temporal(kind):
                return pa.scalar(value).cast(kind)
            if isinstance(value, int | float) and not isinstance(value, bool) and number:
                return pa.scalar(value)
        except (pa.ArrowException, OverflowError, ValueError):
            pass
        raise self._refused(f"column {field.name} is {field.type}, with which {word[:60]} cannot be compared")

    def _split(self) -> Iterator[tuple[str, str]]:
        at, text = 0, self._text.rstrip()
        for _ in range(MOST_WORDS):
            if at >= len(text):
                return
            found = _WORD.match(text, at)
            if found is None:
                raise self._refused(f"cannot be read from {text[at : at + 30].strip()!r} on")
            kind = str(found.lastgroup)
            yield kind, found[kind]
            at = found.end()
        raise self._refused(f"more than {MOST_WORDS:,} words")

    def _next(self) -> tuple[str, str]:
        self._at += 1
        return self._words[self._at - 1] if self._at <= len(self._words) else ("end", "")

    def _take(self, word: str) -> bool:
        there = self._at < len(self._words) and self._words[self._at]
        if not there or there[0] not in ("name", "sign") or there[1].lower() != word:
            return False
        self._at += 1
        return True

    def _expect(self, word: str) -> None:
        if not self._take(word):
            raise self._refused(f"{self._shown()} where `{word}` should be")

    def _shown(self) -> str:
        return repr(self._words[self._at][1][:60]) if self._at < len(self._words) else "the end"

    def _refused(self, reason: str) -> UsageError:
        return UsageError(f"{self._setting} {self._text[:200]!r}: {reason}")


def _cells(table: pa.Table, name: str) -> pa.Array:
    cells = table.column(name)
    chunks: Sequence[pa.Array] = cells.chunks
    array = chunks[0] if len(chunks) == 1 else cells.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.storage if isinstance(array.type, pa.BaseExtensionType) else array
