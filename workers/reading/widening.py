"""Which type holds the values of two others as they are, and which values may pass from one type to another. Types only.

    output_type   the type of a source's column without its encoding
    join          the type that two columns are widened to; None: there is none
    unify         one type for a column of many objects, and the types that it leaves out
    refusal       why no value of a type can be the same in another; None: each value decides (workers/reading/exact.py)

What is joined, and what loses nothing, by itself or because a row whose value is not held exactly is quarantined:

    null with anything            the other type
    integers                      the wider one; signed with unsigned: a signed one that holds both, int64 at most
    integers with floats          the narrowest float that holds both; double for integers of 64 bits
    floats                        the wider one
    integers, decimals            the digits of both on either side of the point; 76 digits at most
    dates                         date64
    times, durations              the finer unit
    timestamps                    the finer unit; both without a zone, or both with one: two zones become UTC
    strings, bytes                one of each kind; where both occur, what most objects have
    list, map                     element by element; lists of unlike fixed sizes become lists of any size
    struct                        the fields of both, by name; what one lacks is null
    extension types               with themselves; JSON as string and UUID as bytes with those

Everything else has no common type: numbers and dates, times, timestamps or durations; booleans and numbers; decimals and
floats; strings and anything else; timestamps with and without a zone; dates and timestamps; a list and its element; a map
and a struct.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import Enum, auto

import pyarrow as pa
import pyarrow.types as pt

from workers.reading.typed.nested import map_type

RULES = 2  # of this module and of those that convert values: raised when they publish another value for the same source
MOST_DIGITS = 76  # of a decimal
_SIGNED = {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}
_FLOATS = {16: pa.float16(), 32: pa.float32(), 64: pa.float64()}
_FLOAT_FOR_INTEGER = {8: 16, 16: 32, 32: 64, 64: 64}  # bits of an integer -> of the float that holds it (64: not each value)
_DECIMALS = ((32, 9, pa.decimal32), (64, 18, pa.decimal64), (128, 38, pa.decimal128), (256, MOST_DIGITS, pa.decimal256))
_UNITS = ("s", "ms", "us", "ns")


class Family(Enum):
    """Types of one family hold the same kind of value."""

    NULL = auto()
    BOOLEAN = auto()
    INTEGER = auto()
    FLOAT = auto()
    DECIMAL = auto()
    STRING = auto()
    BYTES = auto()
    DATE = auto()
    TIME = auto()
    DURATION = auto()
    TIMESTAMP = auto()  # without a zone
    INSTANT = auto()  # a timestamp with a zone
    LIST = auto()
    MAP = auto()
    STRUCT = auto()
    EXTENSION = auto()
    OTHER = auto()  # intervals, unions: equal only to themselves


_TESTS = (
    (Family.NULL, pt.is_null),
    (Family.BOOLEAN, pt.is_boolean),
    (Family.INTEGER, pt.is_integer),
    (Family.FLOAT, pt.is_floating),
    (Family.DECIMAL, pt.is_decimal),
    (Family.STRING, lambda kind: pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind)),
    (Family.BYTES, lambda kind: pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_binary_view(kind)),
    (Family.BYTES, pt.is_fixed_size_binary),
    (Family.DATE, pt.is_date),
    (Family.TIME, pt.is_time),
    (Family.DURATION, pt.is_duration),
    (Family.INSTANT, lambda kind: pt.is_timestamp(kind) and kind.tz is not None),
    (Family.TIMESTAMP, pt.is_timestamp),
    (Family.MAP, pt.is_map),
    (Family.STRUCT, pt.is_struct),
    (
        Family.LIST,
        lambda kind: isinstance(
            kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType | pa.ListViewType | pa.LargeListViewType
        ),
    ),
)
_NUMBERS = frozenset({Family.INTEGER, Family.FLOAT, Family.DECIMAL})
_TEXT_OR_BYTES = frozenset({Family.STRING, Family.BYTES})


def family(kind: pa.DataType) -> Family:
    """Of a type without encoding around it."""
    if isinstance(kind, pa.BaseExtensionType):
        return Family.EXTENSION
    return next((found for found, test in _TESTS if test(kind)), Family.OTHER)


def decoded_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values that a dictionary or run-end encoding holds, or the type itself."""
    while pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        kind = kind.value_type
    return kind


def output_type(kind: pa.DataType) -> pa.DataType:
    """The type without its encoding, at any depth: dictionaries decoded, large and view variants as their plain kind.

    Extension types stay: they say what the values mean. Seconds become milliseconds: Parquet has no timestamps in seconds.
    """
    return map_type(kind, _plain)


def _plain(kind: pa.DataType) -> pa.DataType:
    kind = decoded_type(kind)
    if pt.is_large_string(kind) or pt.is_string_view(kind):
        return pa.string()
    if pt.is_large_binary(kind) or pt.is_binary_view(kind):
        return pa.binary()
    if pt.is_timestamp(kind) and kind.unit == "s":
        return pa.timestamp("ms", kind.tz)
    if family(kind) is Family.LIST and not isinstance(kind, pa.FixedSizeListType):
        return pa.list_(kind.value_type)
    return kind


def unify(types: Iterable[pa.DataType], suggested: Iterable[pa.DataType] = ()) -> tuple[pa.DataType, set[pa.DataType]]:
    """One output type for all, and those that do not fit. The most frequent type leads (the first of equals).

    `suggested` types, which samples or texts have, widen those that objects state, and never lead them.
    """
    agreed: pa.DataType = pa.null()
    misfits: set[pa.DataType] = set()
    for kind, _ in [*Counter(types).most_common(), *Counter(suggested).most_common()]:
        wider = join(agreed, kind)
        if wider is None:
            misfits.add(kind)
        else:
            agreed = wider
    return (pa.string() if pt.is_null(agreed) else agreed), misfits


def join(leading: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The output type that the values of both are widened to; None: there is none. `leading` decides for text or bytes."""
    if leading == other:
        return leading
    families = family(leading), family(other)
    if Family.NULL in families:
        return other if families[0] is Family.NULL else leading
    if Family.EXTENSION in families:
        return _join_extension(leading, other)
    if families[0] is not families[1]:
        if _NUMBERS.issuperset(families):
            return _join_numbers(leading, other)
        if _TEXT_OR_BYTES.issuperset(families):
            return pa.string() if families[0] is Family.STRING else pa.binary()
        return None
    match families[0]:
        case Family.INTEGER | Family.FLOAT | Family.DECIMAL:
            return _join_numbers(leading, other)
        case Family.STRING:
            return pa.string()
        case Family.BYTES:
            return pa.binary()
        case Family.DATE:
            return pa.date64()
        case Family.TIME:
            unit = _finer(leading, other)
            return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)
        case Family.DURATION:
            return pa.duration(_finer(leading, other))
        case Family.TIMESTAMP:
            return pa.timestamp(_finer(leading, other))
        case Family.INSTANT:
            return pa.timestamp(_finer(leading, other), leading.tz if leading.tz == other.tz else "UTC")
        case Family.LIST:
            return _join_lists(leading, other)
        case Family.MAP:
            key, item = join(leading.key_type, other.key_type), join(leading.item_type, other.item_type)
            return None if key is None or item is None else pa.map_(key, item)
        case Family.STRUCT:
            return _join_structs(leading, other)
        case _:
            return None


def refusal(source: pa.DataType, target: pa.DataType) -> str | None:
    """Why a column of `source` can never be one of `target`; None when each value decides."""
    source = decoded_type(source)
    if _bridged(source, target):
        return None
    if pt.is_struct(source) and pt.is_struct(target):
        lacking = [name for name in source.names if name not in target.names]
        if lacking:
            return f"{source} has fields that {target} lacks ({', '.join(lacking)})"
    return f"{source} cannot become {target}"


def _bridged(source: pa.DataType, target: pa.DataType) -> bool:
    source = decoded_type(source)
    if source == target or pt.is_null(source):
        return True
    families = family(source), family(target)
    if families[1] is Family.EXTENSION:
        return False
    if families[0] is Family.EXTENSION:
        return _stands_for(source, families[1]) and _bridged(source.storage_type, target)
    if families[0] is not families[1]:
        if Family.DECIMAL in families and Family.FLOAT in families:
            return False
        return _NUMBERS.issuperset(families) or _TEXT_OR_BYTES.issuperset(families)
    match families[0]:
        case Family.LIST:
            sizes = {kind.list_size for kind in (source, target) if pt.is_fixed_size_list(kind)}
            return len(sizes) < 2 and _bridged(source.value_type, target.value_type)
        case Family.MAP:
            return _bridged(source.key_type, target.key_type) and _bridged(source.item_type, target.item_type)
        case Family.STRUCT:
            return _struct_bridged(source, target)
        case Family.OTHER:
            return False
        case _:
            return True


def _struct_bridged(source: pa.StructType, target: pa.StructType) -> bool:
    if len(set(source.names)) < len(source.names) or len(set(target.names)) < len(target.names):
        return False
    lacking = set(target.names) - set(source.names)
    return all(target.field(name).nullable for name in lacking) and all(
        field.name in target.names and _bridged(field.type, target.field(field.name).type) for field in source.fields
    )


def _stands_for(kind: pa.DataType, other: Family) -> bool:
    """Whether the stored value of an extension type is the same value without the mark: not the number that bool8 stores."""
    return isinstance(kind, pa.UuidType | pa.JsonType) and family(kind.storage_type) is other


def _join_extension(leading: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if _stands_for(leading, family(other)):
        return join(output_type(leading.storage_type), other)
    return join(leading, output_type(other.storage_type)) if _stands_for(other, family(leading)) else None


def _join_lists(leading: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    element = join(leading.value_type, other.value_type)
    if element is None:
        return None
    fixed = pt.is_fixed_size_list(leading) and pt.is_fixed_size_list(other) and leading.list_size == other.list_size
    return pa.list_(element, leading.list_size) if fixed else pa.list_(element)


def _join_structs(leading: pa.StructType, other: pa.StructType) -> pa.DataType | None:
    if len(set(leading.names)) < len(leading.names) or len(set(other.names)) < len(other.names):
        return None
    fields: list[pa.Field] = []
    for name in dict.fromkeys([*leading.names, *other.names]):
        both = [kind.field(name) for kind in (leading, other) if name in kind.names]
        widened = both[0].type if len(both) == 1 else join(both[0].type, both[1].type)
        if widened is None:
            return None
        fields.append(both[0].with_type(widened).with_nullable(True))
    return pa.struct(fields)


def _join_numbers(leading: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    families = {family(leading), family(other)}
    if Family.DECIMAL in families:
        return None if Family.FLOAT in families else _join_decimals(leading, other)
    if Family.FLOAT in families:
        bits = [kind.bit_width if pt.is_floating(kind) else _FLOAT_FOR_INTEGER[kind.bit_width] for kind in (leading, other)]
        return _FLOATS[max(bits)]
    if pt.is_signed_integer(leading) == pt.is_signed_integer(other):
        return leading if leading.bit_width > other.bit_width else other
    signed, unsigned = (leading, other) if pt.is_signed_integer(leading) else (other, leading)
    return _SIGNED[max(signed.bit_width, min(64, 2 * unsigned.bit_width))]


def _join_decimals(leading: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    sizes = [_digits(kind) for kind in (leading, other)]
    before, after = max(size[0] for size in sizes), max(size[1] for size in sizes)
    narrowest = max(kind.bit_width for kind in (leading, other) if pt.is_decimal(kind))
    for bits, most, make in _DECIMALS:
        if bits >= narrowest and before + after <= most:
            return make(before + after, after)
    return None


def _digits(kind: pa.DataType) -> tuple[int, int]:
    """Most digits before and after the point."""
    if pt.is_decimal(kind):
        return kind.precision - kind.scale, kind.scale
    bits = kind.bit_width - pt.is_signed_integer(kind)
    return len(str(2**bits)), 0  # -128 has as many digits as 127


def _finer(leading: pa.DataType, other: pa.DataType) -> str:
    units: tuple[str, str] = leading.unit, other.unit
    return max(units, key=_UNITS.index)
