"""Arrow values -> the same values in another type, or none at all.

    exact_cast    a whole array; raises where one value would become another
    settled       the array with null in place of values that the type does not hold, and their places

Arrow's own cast is called safe, and still makes a date of a number, 1 of true, 0.1 of a decimal and a text of an integer.
Here the types decide first (workers/reading/widening.py), then each value: what was converted is compared with the source,
or converted by a cast that is known to refuse what it cannot hold. Nested values are taken apart and put together again, for
Arrow's cast of them drops fields that the target lacks.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from workers.reading.widening import MOST_DIGITS, Family, family, refusal

_WHOLE = pa.decimal128(20, 0)  # holds every integer of 64 bits, signed or not
_BEYOND = 2.0**64  # the first number beyond uint64; for int64 half of it


def plain(array: pa.Array) -> pa.Array:
    """The array without dictionary, run-end or extension encoding around it."""
    return decoded(array.storage if isinstance(array.type, pa.BaseExtensionType) else array, keep_marks=False)


def decoded(array: pa.Array, *, keep_marks: bool = True) -> pa.Array:
    """The array without dictionary or run-end encoding around it."""
    if isinstance(array.type, pa.BaseExtensionType) and not keep_marks:
        return decoded(array.storage, keep_marks=False)
    if pt.is_dictionary(array.type):
        wide = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}.get(array.type.value_type)
        if wide is not None:  # pyarrow decodes no dictionaries of views
            array = pa.DictionaryArray.from_arrays(array.indices, array.dictionary.cast(wide))
        return decoded(array.dictionary_decode(), keep_marks=keep_marks)
    if pt.is_run_end_encoded(array.type):
        return decoded(pc.run_end_decode(array), keep_marks=keep_marks)
    return array


def settled(array: pa.Array, target: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
    """The array in the type `target`, null where a value does not fit, and {place: Arrow's message} of these.

    Converted as a whole; where that fails in halves, so that a few values cost little.
    """
    bad: dict[int, str] = {}
    pieces = _settle(array, target, 0, bad)
    return (pieces[0] if len(pieces) == 1 else pa.concat_arrays(pieces)), bad


def _settle(array: pa.Array, target: pa.DataType, first: int, bad: dict[int, str]) -> list[pa.Array]:
    try:
        array.validate(full=True)  # also UTF-8 inside strings, nested ones too
        found = exact_cast(array, target)
        if found is not array:
            found.validate(full=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        if len(array) > 1:
            middle = len(array) // 2
            return [
                *_settle(array.slice(0, middle), target, first, bad),
                *_settle(array.slice(middle), target, first + middle, bad),
            ]
        if array.null_count < len(array):
            bad[first] = str(error)
        return [pa.nulls(len(array), target)]
    return [found]


def exact_cast(array: pa.Array, target: pa.DataType) -> pa.Array:
    """Raises: pa.ArrowInvalid: a value is not the same in the other type, or no value could be."""
    array = decoded(array)
    source = array.type
    if source == target and "date64" not in str(source):
        return array
    if pt.is_null(source):
        return pa.nulls(len(array), target)
    if isinstance(source, pa.BaseExtensionType):
        why = refusal(source, target)
        if why:
            raise pa.ArrowInvalid(why)
        return exact_cast(array.storage, target)
    families = family(source), family(target)
    match families:
        case (Family.STRUCT, Family.STRUCT):
            return _struct(array, target)
        case (Family.MAP, Family.MAP):
            return _map(array, target)
        case (Family.LIST, Family.LIST):
            return _list(array, target)
        case (Family.INTEGER | Family.FLOAT, Family.FLOAT):
            return _to_float(array, target)
        case (Family.FLOAT, Family.INTEGER):
            return _float_to_integer(array, target)
        case (Family.INTEGER, Family.DECIMAL):
            return array.cast(_WHOLE).cast(target)
        case (Family.DECIMAL, Family.INTEGER):
            return array.cast(pa.decimal256(MOST_DIGITS, 0)).cast(target)
        case (Family.STRING | Family.BYTES, Family.STRING | Family.BYTES):
            return array.cast(pa.large_binary()).cast(target)
    why = refusal(source, target)
    if why:
        raise pa.ArrowInvalid(why)
    found = array.cast(target)
    if pt.is_date64(target) and not found.cast(pa.date32()).cast(target).equals(found):
        raise pa.ArrowInvalid("a date64 is no whole day, or beyond the days that Parquet holds")
    if not found.cast(source, safe=False).equals(array):
        raise pa.ArrowInvalid(f"a value of {source} is not the same in {target}")
    return found


def _to_float(array: pa.Array, target: pa.DataType) -> pa.Array:
    wide = array.cast(pa.float64(), safe=False)
    if pt.is_integer(array.type) and array.type.bit_width == 64:
        inside = _inside(wide, array.type)
        _require(inside, array, target)
        _require(pc.equal(wide.cast(array.type, safe=False), array), array, target)
    if target == pa.float64():
        return wide
    narrow = wide.cast(target, safe=False)
    back = narrow.cast(pa.float64())
    _require(pc.or_(pc.equal(back, wide), pc.and_(pc.is_nan(back), pc.is_nan(wide))), array, target)
    return narrow


def _float_to_integer(array: pa.Array, target: pa.DataType) -> pa.Array:
    wide = array.cast(pa.float64())
    bits64 = pa.int64() if pt.is_signed_integer(target) else pa.uint64()
    _require(_inside(wide, bits64), array, target)
    _require(pc.equal(pc.floor(wide), wide), array, target)
    return wide.cast(bits64, safe=False).cast(target)


def _inside(wide: pa.Array, kind: pa.DataType) -> pa.Array:
    """Where doubles lie in the range of a 64-bit integer: outside of it a cast gives anything. False for NaN."""
    signed = pt.is_signed_integer(kind)
    lowest, beyond = (-_BEYOND / 2, _BEYOND / 2) if signed else (0.0, _BEYOND)
    return pc.and_(pc.greater_equal(wide, lowest), pc.less(wide, beyond))


def _require(holds: pa.Array, array: pa.Array, target: pa.DataType) -> None:
    """Null counts as true. Raises: pa.ArrowInvalid."""
    if pc.all(holds).as_py() is False:
        raise pa.ArrowInvalid(f"a value of {array.type} is not the same in {target}")


def _struct(array: pa.StructArray, target: pa.StructType) -> pa.Array:
    why = None if len(array.type.names) == len(set(array.type.names)) else "two fields of a struct have one name"
    why = why or ("a field would be lost" if set(array.type.names) - set(target.names) else None)
    if why:
        raise pa.ArrowInvalid(why)
    children = dict(zip(array.type.names, array.flatten(), strict=True))  # with the nulls of the struct
    columns: list[pa.Array] = []
    for field in target.fields:
        child = children.get(field.name)
        columns.append(pa.nulls(len(array), field.type) if child is None else exact_cast(child, field.type))
        if not field.nullable and columns[-1].null_count > array.null_count:
            raise pa.ArrowInvalid(f"field {field.name} must not be null")
    if not columns:
        raise pa.ArrowInvalid("a struct without fields")
    return pa.StructArray.from_arrays(columns, fields=list(target.fields), mask=array.is_null())


def _map(array: pa.MapArray, target: pa.MapType) -> pa.Array:
    offsets = array.offsets  # of this slice; keys and items are those of the whole array
    first, count = offsets[0].as_py(), offsets[-1].as_py() - offsets[0].as_py()
    keys = exact_cast(array.keys.slice(first, count), target.key_type)
    items = exact_cast(array.items.slice(first, count), target.item_type)
    starts = pc.subtract(offsets, offsets[0])
    return pa.MapArray.from_arrays(starts, keys, items, type=target, mask=array.is_null())


def _list(array: pa.Array, target: pa.DataType) -> pa.Array:
    values = exact_cast(pc.list_flatten(array), target.value_type)  # of rows that are not null
    lengths = pc.list_value_length(array).cast(pa.int64())
    if pt.is_fixed_size_list(target):
        return _fixed_size_list(array, values, lengths, target)
    ends = pc.cumulative_sum(lengths.fill_null(0))
    starts = pa.concat_arrays([pa.array([0], pa.int64()), ends])
    make = pa.LargeListArray if pt.is_large_list(target) else pa.ListArray
    offsets = starts if pt.is_large_list(target) else starts.cast(pa.int32())
    return make.from_arrays(offsets, values, type=target, mask=array.is_null())


def _fixed_size_list(array: pa.Array, values: pa.Array, lengths: pa.Array, target: pa.FixedSizeListType) -> pa.Array:
    size = target.list_size
    _require(pc.equal(lengths, size), array, target)
    if array.null_count:  # a null row takes the place of `size` values
        row, places = 0, list[int | None]()
        for valid in array.is_valid().to_pylist():
            places += range(row * size, (row + 1) * size) if valid else [None] * size
            row += valid
        values = values.take(pa.array(places, pa.int64()))
    return pa.FixedSizeListArray.from_arrays(values, type=target, mask=array.is_null())
