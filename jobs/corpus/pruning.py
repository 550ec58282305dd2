"""corpus.where: objects that are read at all, chosen by the values that all rows of an object have in common.

These are the values of its key=value folders, or of its table's partitions. A condition on them chooses whole objects, so it
is exact without opening one. Columns whose values differ within an object cannot be asked.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import pyarrow as pa

from jobs.corpus.listing import SourceObject
from workers.config import CorpusConfig
from workers.errors import UsageError
from workers.reading.notation import text_column_of
from workers.snapshot.where import Where
from workers.storage.uris import redact

_SETTING = "corpus.where"
log = logging.getLogger("reembed")


def chosen(objects: Sequence[SourceObject], config: CorpusConfig, types: Mapping[str, pa.DataType]) -> list[SourceObject]:
    """The objects of which the condition is true, in order. `types`: of columns that are not text.

    Raises:
        UsageError: no such column, an object that has no value of it, a value of another type, or nothing is left.
    """
    if config.where is None:
        return list(objects)
    values = [dict(source.partitions) for source in objects]
    names = sorted({name for found in values for name in found})
    schema = pa.schema([(name, types.get(name, pa.string())) for name in names])
    if not names:
        raise UsageError(f"{_SETTING}: the corpus is not divided by columns (key=value folders, a table's partitions)")
    where = Where.parse(config.where, schema, _SETTING, "the corpus is not divided by {name}, but by {known}")
    columns = []
    for name in where.columns:
        without = [source for source, found in zip(objects, values, strict=True) if name not in found]
        if without:
            raise UsageError(
                f"{_SETTING}: {redact(without[0].info.uri)} and {len(without) - 1} more objects are not divided by {name}; "
                "write them again, or leave the column out of the condition"
            )
        texts = pa.array([found[name] for found in values], pa.string())
        column, unfit = text_column_of(texts, schema.field(name).type, f"{_SETTING}: column {name}")
        for place, reason in unfit.items():
            raise UsageError(f"{redact(objects[place].info.uri)}: {reason}")
        columns.append(column)
    table = pa.Table.from_arrays(columns, schema=pa.schema([schema.field(name) for name in where.columns]))
    left = [source for source, wanted in zip(objects, where.rows(table).tolist(), strict=True) if wanted]
    if not left:
        raise UsageError(f"{_SETTING} {config.where!r}: is true of none of {len(objects):,} objects; correct it")
    log.info("%s: %s of %s objects", _SETTING, f"{len(left):,}", f"{len(objects):,}")
    return left
