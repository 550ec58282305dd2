"""One schema for a corpus whose objects may disagree: inferred before anything starts, drift named object by object.

    infer_schema   columns of every object -> ReadPlan (id type, types of the kept columns), unusable objects, remarks

A wanted column that no object has is the user's mistake (UsageError). If only some objects lack it, or hold it in a type
that does not fit, that is drift: those objects end quarantined, and the warning says so before a replica starts.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from jobs.corpus.json_types import storable
from jobs.corpus.listing import SourceObject
from jobs.corpus.stated_schema import stated_types
from workers.config import CorpusConfig
from workers.errors import UsageError
from workers.reading.columns import is_text, plain_type
from workers.reading.notation import text_refusal
from workers.reading.typed.type_names import shown_name, shown_names, shown_type
from workers.reading.widening import join, output_type, refusal, unify
from workers.records.documents import ReadPlan
from workers.records.pinned_table import PinnedTable
from workers.storage.uris import redact
from workers.table.schema import OUTPUT_COLUMNS


@dataclass(frozen=True, slots=True)
class Columns:
    """What is known of an object's columns. `exact`: a column that is not named does not exist (a footer or a header says
    so; a sample cannot). `whole`: of a sample, that it saw every record."""

    types: Mapping[str, pa.DataType]
    names: tuple[str, ...]
    exact: bool
    whole: bool = False


@dataclass(slots=True)
class InferredSchema:
    """`drift` is why an object's rows cannot be used (uri -> reason); `remarks` are about objects that are usable."""

    plan: ReadPlan
    drift: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    all_seen: bool = True  # of every object it is known which columns it has; otherwise one that was not met may exist
    mixed: bool = False
    """Values of a kept column are converted, or left out, because objects have it in different types."""


def check_names(config: CorpusConfig) -> None:
    """Names that could never work, whatever the corpus holds.

    Raises:
        UsageError
    """
    for name in config.keep:
        if name in OUTPUT_COLUMNS:
            raise UsageError(
                f"corpus.keep: {name} is a column of the output itself; leave it out, or rename it in the source"
            )
    for setting, names in (("corpus.keep", config.keep), ("corpus.text", config.text)):
        for name, count in Counter(names).items():
            if count > 1:
                raise UsageError(f"{setting}: {name} stands {count} times; name it once")


def infer_schema(
    config: CorpusConfig,
    objects: Sequence[SourceObject],
    columns: Sequence[Columns | None],
    table: PinnedTable | None = None,
) -> InferredSchema:
    """Agree on one schema. `columns[i]` describes `objects[i]`, None where nothing is known. `table`: that they are of.

    Raises:
        UsageError: a wanted column is in no object, or in no object in a usable type.
    """
    check_names(config)
    known = [(source, found) for source, found in zip(objects, columns, strict=True) if found is not None]
    inferred = InferredSchema(
        ReadPlan(config, pa.string(), pa.schema([]), table=table), all_seen=_all_seen(objects, columns)
    )
    _refuse_doubles(config, known, inferred)
    for name in config.text:
        _require(
            name, "corpus.text", known, inferred, is_text, "text (string, large_string, string_view, dictionary, binary)"
        )
    if config.id is not None:
        _require(config.id, "corpus.id", known, inferred, _is_scalar, "a scalar type")
    partition_keys = {key for source in objects for key, _ in source.partitions}
    stated = stated_types(config, table)
    kept = [
        pa.field(name, _stated_type(name, stated[name], known, inferred))
        if name in stated
        else pa.field(name, _kept_type(name, known, partition_keys, inferred))
        for name in config.keep
    ]
    if any(not found.exact for _, found in known):
        kept = [column.with_type(storable(column.type)) for column in kept]
    inferred.plan = ReadPlan(config, _id_type(config, objects, known, inferred), pa.schema(kept), table=table)
    if config.id is not None:
        _remark_on_ids(config.id, known, inferred)
    return inferred


_Known = Sequence[tuple[SourceObject, Columns]]


def _type_of(name: str, source: SourceObject, found: Columns) -> pa.DataType | None:
    """As the readers look it up: the object's own column first, else the folder it lies in, else it is not there."""
    if name in found.types:
        return found.types[name]
    return pa.string() if any(key == name for key, _ in source.partitions) else None


def _require(
    name: str, setting: str, known: _Known, inferred: InferredSchema, usable: Callable[[pa.DataType], bool], wanted: str
) -> None:
    """A column that every object must have, in a usable type."""
    types = [(source, found, _type_of(name, source, found)) for source, found in known]
    having = [(source, kind) for source, _, kind in types if kind is not None]
    if known and not having:
        who = "no object" if inferred.all_seen else "no sampled record"
        raise UsageError(f"{setting}: {who} has a column {name}; {_suggest(name, known)}")
    if having and not any(usable(kind) for _, kind in having):
        raise UsageError(
            f"{setting}: column {name} is {having[0][1]} in {redact(having[0][0].info.uri)}; it must be {wanted}"
        )
    for source, found, kind in types:
        if kind is None and found.exact:
            _drift(inferred, source, f"has no column {name} ({setting})")
        elif kind is not None and not usable(kind):
            _drift(inferred, source, f"column {name} ({setting}) is {kind}; it must be {wanted}")


def _kept_type(name: str, known: _Known, partition_keys: set[str], inferred: InferredSchema) -> pa.DataType:
    """The output type of a kept column: what most objects agree on, widened by the others where that loses nothing."""
    found = [(source, columns, _type_of(name, source, columns)) for source, columns in known]
    types = [(source, columns, kind) for source, columns, kind in found if kind is not None]
    if not types:
        if name in partition_keys or not known:
            return pa.string()
        if not inferred.all_seen:
            inferred.remarks.append(
                f"corpus.keep: no sampled record has {name}; {_suggest(name, known, partition_keys)}; it is read all the "
                f"same, as strings: corpus.schema: {{{name}: ...}} states another type"
            )
            return pa.string()
        raise UsageError(f"corpus.keep: no object has a column {name}; {_suggest(name, known, partition_keys)}")
    agreed, _ = unify(
        (output_type(kind) for source, columns, kind in types if _stated(name, source, columns)),
        (output_type(kind) for source, columns, kind in types if not _stated(name, source, columns)),
    )
    _name_differences(name, agreed, types, inferred)
    without = [redact(source.info.uri) for source, columns, kind in found if kind is None and columns.exact]
    if without:
        where = without[0] + (f" and {len(without) - 1} more objects are" if len(without) > 1 else " is")
        inferred.remarks.append(f"{where} without column {name} (corpus.keep): null in its rows")
    return agreed


def _stated_type(name: str, stated: pa.DataType, known: _Known, inferred: InferredSchema) -> pa.DataType:
    """The type that corpus.schema states; objects that have a type of their own must fit it."""
    typed = [(source, found.types[name]) for source, found in known if _stated(name, source, found)]
    misfits = [(source, kind) for source, kind in typed if refusal(kind, stated)]
    if misfits and len(misfits) == len(typed):
        source, kind = misfits[0]
        raise UsageError(
            f"corpus.schema: {name} is {kind} in {redact(source.info.uri)}, which cannot become {shown_type(stated)}; "
            "leave it out"
        )
    for source, kind in misfits:
        _drift(inferred, source, f"column {name} (corpus.keep) is {kind}, {shown_type(stated)} in corpus.schema")
    if inferred.all_seen and not any(_type_of(name, source, found) is not None for source, found in known):
        who = "corpus.schema states" if name in inferred.plan.corpus.types else "the table has"
        inferred.remarks.append(f"corpus.keep: no object has a column {name}, which {who}: null in every row")
    return stated


def _all_seen(objects: Sequence[SourceObject], columns: Sequence[Columns | None]) -> bool:
    return all(
        source.rows == 0 or (source.problem is not None if found is None else found.exact or found.whole)
        for source, found in zip(objects, columns, strict=True)
    )


def _stated(name: str, source: SourceObject, columns: Columns) -> bool:
    """Whether the object itself states the column's type. A sample only suggests one, a CSV cell or a folder has none."""
    return name in columns.types and source.traits.footer is not None


def _name_differences(
    name: str, agreed: pa.DataType, types: Sequence[tuple[SourceObject, Columns, pa.DataType]], inferred: InferredSchema
) -> None:
    """Objects whose column cannot be the agreed one are left out; a remark names what is widened or read from texts."""
    widened: dict[str, list[str]] = {}
    before = len(inferred.drift)
    for source, columns, kind in types:
        if _stated(name, source, columns):
            if refusal(kind, agreed):
                _drift(inferred, source, f"column {name} (corpus.keep) is {kind}, elsewhere {agreed}")
            elif output_type(kind) != agreed and not pa.types.is_null(output_type(kind)):
                widened.setdefault(f"is {output_type(kind)}", []).append(redact(source.info.uri))
        elif (columns.exact or name not in columns.types) and text_refusal(agreed):
            _drift(inferred, source, f"column {name} (corpus.keep) is text, elsewhere {agreed}")
        elif join(agreed, output_type(kind)) != agreed:
            what = "is text" if columns.exact or name not in columns.types else f"is {output_type(kind)} by a sample"
            widened.setdefault(what, []).append(redact(source.info.uri))
    inferred.mixed |= bool(widened) or before < len(inferred.drift)
    for what, uris in widened.items():
        more = f" and {len(uris) - 1} more objects" if len(uris) > 1 else ""
        inferred.remarks.append(
            f"{uris[0]}{more}: column {name} (corpus.keep) {what}, published as {agreed}: "
            "each value as it is, rows whose value that type does not hold exactly will be quarantined"
        )


def _id_type(config: CorpusConfig, objects: Sequence[SourceObject], known: _Known, inferred: InferredSchema) -> pa.DataType:
    """int64 where every usable object has typed ids that are integers and fit; text holds all others without loss."""
    if config.id is None or not all(source.traits.typed_ids for source in objects):
        return pa.string()
    usable = [(source, found) for source, found in known if source.info.uri not in inferred.drift]
    kinds = [_type_of(config.id, source, found) for source, found in usable]
    whole = bool(kinds) and all(
        kind and pa.types.is_integer(plain_type(kind)) and plain_type(kind) != pa.uint64() for kind in kinds
    )
    return pa.int64() if whole else pa.string()


def _remark_on_ids(name: str, known: _Known, inferred: InferredSchema) -> None:
    """Types whose text form may not be what the user expects, once for each."""
    told: set[pa.DataType] = set()
    for source, found in known:
        kind = found.types.get(name)
        if kind is None or kind in told or source.info.uri in inferred.drift:
            continue
        told.add(kind)
        where = f"{redact(source.info.uri)}: column {name} (corpus.id) is {kind}"
        if pa.types.is_floating(plain_type(kind)):
            inferred.remarks.append(f"{where}: ids are written as 1.0; write it as an integer or as text")
        elif pa.types.is_fixed_size_binary(kind):
            inferred.remarks.append(
                f"{where}: ids that are not UTF-8 will be quarantined; write it as text, or with the logical type UUID"
            )


def _refuse_doubles(config: CorpusConfig, known: _Known, inferred: InferredSchema) -> None:
    """Two columns of one name: which is meant cannot be told."""
    wanted = [*config.text, *config.keep, *([config.id] if config.id else [])]
    for source, found in known:
        for name in wanted:
            if found.names.count(name) > 1:
                _drift(inferred, source, f"has more than one column {name}")


def _is_scalar(kind: pa.DataType) -> bool:
    return not pa.types.is_nested(plain_type(kind))


def _drift(inferred: InferredSchema, source: SourceObject, reason: str) -> None:
    inferred.drift.setdefault(source.info.uri, reason)


def _suggest(name: str, known: _Known, more: Iterable[str] = ()) -> str:
    names = list(dict.fromkeys([*(name for _, found in known for name in found.names), *more]))
    near = difflib.get_close_matches(name, names, n=1)
    where = f" (of {redact(known[0][0].info.uri)}" + (f" and {len(known) - 1} more objects)" if len(known) > 1 else ")")
    return (f"did you mean {shown_name(near[0])}?" if near else f"known columns: {shown_names(names)}") + where
