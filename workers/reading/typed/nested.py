"""Arrow types inside other types: one walk over lists, maps and structs, whatever is done to what they hold."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

Leaf = Callable[[pa.DataType], pa.DataType]
_LISTS = {
    pa.ListType: pa.list_,
    pa.LargeListType: pa.large_list,
    pa.ListViewType: pa.list_view,
    pa.LargeListViewType: pa.large_list_view,
}


def map_type(kind: pa.DataType, leaf: Leaf) -> pa.DataType:
    """The type with `leaf` applied to it and to all types inside, from the outside in.

    `leaf` returns another type or the same; what it returns is entered if it is nested, so it may also take encodings off or
    turn one kind of list into another. Extension types are leaves. Names and nullability of list elements, and whether a
    map is sorted, are not kept.
    """
    kind = leaf(kind)
    if isinstance(kind, pa.StructType):
        return pa.struct([field.with_type(map_type(field.type, leaf)) for field in kind.fields])
    if isinstance(kind, pa.MapType):
        return pa.map_(map_type(kind.key_type, leaf), map_type(kind.item_type, leaf))
    if isinstance(kind, pa.FixedSizeListType):
        return pa.list_(map_type(kind.value_type, leaf), kind.list_size)
    for listed, make in _LISTS.items():
        if isinstance(kind, listed):
            return make(map_type(kind.value_type, leaf))
    return kind
