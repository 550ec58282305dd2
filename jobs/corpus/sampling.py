"""Columns of formats without a schema, guessed from the first records of a few objects spread over the listing.

At most SAMPLE_OBJECTS objects of a format are opened at their start, never all: planning ten thousand small objects stays
one listing. A sample of JSON records proves that a column exists, not that it is missing; a header proves both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from jobs.corpus.footers import read_range
from jobs.corpus.listing import SourceObject
from jobs.corpus.schema import Columns
from workers.config import CorpusConfig
from workers.reading.first_look import decompressed_head
from workers.reading.formats.registry import FORMATS
from workers.reading.formats.traits import HeadSample

SAMPLE_OBJECTS = 16
SAMPLE_BYTES = 256 << 10  # of compressed bytes fetched, and of decompressed records parsed, for each sampled object
MOST_LEVELS = 32  # of a kept value's nesting; what is nested deeper is kept as text


def sample_columns(objects: Sequence[SourceObject], config: CorpusConfig) -> tuple[dict[int, Columns], list[str]]:
    """Columns of the sampled objects, by position in `objects`, and remarks. Objects of formats with a footer are left out.

    An object whose start cannot be decompressed or parsed says nothing here; its replica will say what is wrong with it.

    Raises:
        UsageError, TransientError: the store refused or did not answer.
    """
    columns: dict[int, Columns] = {}
    chosen: list[int] = []
    for traits in FORMATS.values():
        of_format = [at for at, source in enumerate(objects) if source.format is traits.format]
        if traits.columns is not None:
            known = Columns(dict.fromkeys(traits.columns, pa.string()), traits.columns, exact=True)
            columns.update(dict.fromkeys(of_format, known))
        if traits.sample is not None:
            filled = [at for at in of_format if objects[at].info.size > 0]
            step = max(1, len(filled) / SAMPLE_OBJECTS)
            chosen += [filled[int(turn * step)] for turn in range(min(SAMPLE_OBJECTS, len(filled)))]
    if not chosen:
        return columns, []
    with ThreadPoolExecutor(max_workers=SAMPLE_OBJECTS) as pool:
        samples = dict(zip(chosen, pool.map(lambda at: _sample(objects[at], config), chosen), strict=True))
    records = [record for sample in samples.values() if sample for record in sample.records]
    types, remarks = _pooled_types(records, config.keep)
    for at, sample in samples.items():
        if sample:
            typed = {} if not sample.records else types
            columns[at] = Columns({name: typed.get(name, pa.string()) for name in sample.names}, sample.names, sample.exact)
    return columns, remarks


def _sample(source: SourceObject, config: CorpusConfig) -> HeadSample | None:
    if source.traits.sample is None:
        raise ValueError(f"{source.format} is not sampled")
    return source.traits.sample(*read_head(source, config, SAMPLE_BYTES), source.info.uri, config)


def read_head(source: SourceObject, config: CorpusConfig, limit: int) -> tuple[bytes, bool]:
    """At most `limit` of the object's first decompressed bytes, and whether they are all of it.

    Raises:
        UsageError, TransientError: the store refused or did not answer.
    """
    fetched = min(source.info.size, limit)
    try:
        data = read_range(source.info.uri, 0, fetched, config.storage_options)
    except FileNotFoundError:
        return b"", True
    if source.compression is None:
        return data, fetched == source.info.size
    head = decompressed_head(data, source.compression, limit)
    return head, fetched == source.info.size and len(head) < limit


def _pooled_types(records: Sequence[dict[str, Any]], keep: Sequence[str]) -> tuple[dict[str, pa.DataType], list[str]]:
    """One type a kept column over all samples: what pyarrow infers, from the commonest kind where values disagree."""
    types: dict[str, pa.DataType] = {}
    remarks: list[str] = []
    for name in keep:
        values = [record[name] for record in records if record.get(name) is not None]
        inferred = _inferred(values)
        if inferred is None:
            kinds = [kind for kind, _ in Counter(map(type, values)).most_common()]
            inferred = _inferred([value for value in values if type(value) is kinds[0]]) or pa.string()
            why = f"of several kinds ({', '.join(kind.__name__ for kind in kinds)})" if len(kinds) > 1 else "of no one type"
            remarks.append(
                f"corpus.keep: JSON values of {name} are {why}; "
                f"taken as {inferred}, rows that do not fit will be quarantined: write one kind, or leave it out of keep"
            )
        types[name] = inferred
    return types, remarks


def _inferred(values: list[Any]) -> pa.DataType | None:
    try:
        return _storable(pa.array(values).type, MOST_LEVELS)
    except (pa.ArrowException, OverflowError, ValueError, TypeError, RecursionError):
        return None


def _storable(inferred: pa.DataType, levels: int) -> pa.DataType:
    """Empty lists and objects carry no type, and Parquet holds no empty struct: strings stand in.

    Raises:
        ValueError: nested deeper than `levels`.
    """
    if not levels:
        raise ValueError("nested too deeply")
    if pa.types.is_null(inferred):
        return pa.string()
    if pa.types.is_list(inferred):
        return pa.list_(_storable(inferred.value_type, levels - 1))
    if pa.types.is_struct(inferred):
        fields = [inferred.field(at) for at in range(inferred.num_fields)]
        return pa.struct([field.with_type(_storable(field.type, levels - 1)) for field in fields]) if fields else pa.string()
    return inferred
