"""The source as a run sees it: listed once, its metadata read once, one schema inferred.

1. list       jobs/corpus/listing.py: every object with size and etag, sorted by URI; of a table jobs/corpus/tables/open.py
2. look       the first bytes of objects without a footer (first_bytes.py): what they are, and what speaks against them
3. describe   row groups and schemas of formats with a footer (footers.py); the first records of a few objects of the
              others (sampling.py); metadata_cache.py: what the last run learned of objects that have not changed
4. infer      jobs/corpus/schema.py: id type, kept types; objects that cannot be used are named before any replica starts

The result is frozen: later changes of the source are the next run's affair. No document is opened here.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from jobs.corpus.first_bytes import explained, look
from jobs.corpus.footers import read_footers
from jobs.corpus.listing import SourceObject, list_sources
from jobs.corpus.metadata_cache import MetadataCache
from jobs.corpus.pruning import chosen
from jobs.corpus.sampling import agreed_columns, look_further, sample_columns
from jobs.corpus.schema import Columns, check_names, infer_schema
from jobs.corpus.stated_schema import check_stated, stated_types
from jobs.corpus.tables.open import open_table, pinned, source_objects, wanted_columns
from jobs.corpus.tables.snapshot import TableSnapshot
from workers.config import CorpusConfig
from workers.errors import RunAborted, TransientError, UsageError
from workers.records.documents import ReadPlan
from workers.records.pinned_table import TableColumn
from workers.storage.uris import redact
from workers.table.partitions import can_name_folder
from workers.table.schema import OUTPUT_COLUMNS

MAX_LOGGED = 20  # warnings logged one by one; all of them are in Corpus.warnings
COMPRESSED_RATIO = 4  # text is estimated to be this many times its compressed size
log = logging.getLogger("reembed")


@dataclass(frozen=True, slots=True)
class Corpus:
    """Everything known about the source. `drifted` are URIs whose schema is not usable: their rows end quarantined.

    `columns[i]` is what is known of the columns of `objects[i]`; None: nothing. `mixed`: see InferredSchema.
    """

    objects: tuple[SourceObject, ...]
    read_plan: ReadPlan
    warnings: tuple[str, ...] = ()
    drifted: tuple[str, ...] = ()
    columns: tuple[Columns | None, ...] = ()
    mixed: bool = False

    @property
    def source_fingerprint(self) -> str:
        """sha256 over (uri, size, etag) of all objects in URI order.

        An object that the store does not hand out is told apart from the same one later, so that a run which ended without
        it is not taken for a run of all objects.
        """
        digest = hashlib.sha256()
        table = self.read_plan.table
        for source in self.objects:
            info, more = source.info, "\0denied" if source.denied else ""
            if table is not None:
                more += f"\0{json.dumps(source.partitions)}\0{source.deleted}"
            digest.update(f"{info.uri}\0{info.size}\0{info.etag}{more}\n".encode("utf-8", "surrogatepass"))
        if table is not None:  # not its version: a commit that changes no row makes no new corpus
            digest.update(json.dumps([[asdict(column) for column in table.columns], table.types]).encode())
        return digest.hexdigest()

    @property
    def text_bytes(self) -> int:
        """Bytes of source text, estimated: see `text_bytes_of`."""
        return sum(text_bytes_of(source) for source in self.objects)

    @property
    def rows(self) -> int | None:
        """Rows of the whole corpus, or None when some object's rows are known only after reading."""
        total = 0
        for source in self.objects:
            if source.rows is None:
                return None
            total += source.rows
        return total


def text_bytes_of(source: SourceObject) -> int:
    """Uncompressed bytes of the text columns by the footer; without one the object's bytes, times COMPRESSED_RATIO when
    compressed."""
    if source.row_groups is not None:
        return sum(group.text_bytes for group in source.row_groups)
    return source.info.size * (COMPRESSED_RATIO if source.compression else 1)


def discover(config: CorpusConfig, partition_by: Sequence[str] = (), cache: MetadataCache | None = None) -> Corpus:
    """List the source and infer its schema. Warnings are logged here, before anything is started.

    `partition_by` are the output's partition columns: those found only in source folders become kept columns.
    An object that `cache` knows is not opened again.

    Raises:
        UsageError: names the uri or column, the setting and the mend. RunAborted: the store failed midway.
    """
    check_names(config)
    check_stated(config, partition_by)
    table = open_table(config, partition_by) if config.table else None
    listed = source_objects(table, config) if table else list_sources(config)
    listed = chosen(listed, config, {field.name: field.type for field in table.schema} if table and table.schema else {})
    wanted = wanted_columns(config, partition_by)
    pin = pinned(table, wanted) if table else None
    named = pin.columns if pin else ()
    if cache and cache.table_columns != named:  # a column was renamed: what was found under its name is another's
        cache = None
    known = {at for at, source in enumerate(listed) if cache and cache.get(source)}
    try:
        objects, columns, problems = _describe(look(listed, config, known), config, cache, named, _told(table, wanted))
    except TransientError as error:
        raise RunAborted(f"corpus.uri: listed, but not readable: {error}; the same command tries again") from None
    if table:
        pin = pinned(table, wanted, [found.types for found in columns if found is not None])
    inferred = infer_schema(config, objects, columns, pin)
    warnings = problems + [
        f"{redact(uri)}: {reason}; drifted, its rows will be quarantined: "
        "rewrite it with the common schema, or take it out of the corpus"
        for uri, reason in inferred.drift.items()
    ]
    warnings += inferred.remarks
    if all(source.rows == 0 for source in objects):
        warnings.append(f"corpus.uri {', '.join(map(redact, config.uri))}: {len(objects)} objects without a single row")
    corpus = Corpus(objects, inferred.plan, tuple(warnings), tuple(sorted(inferred.drift)), tuple(columns), inferred.mixed)
    corpus = check_partitions(partition_by, corpus)
    _log(warnings)
    return corpus


def check_partitions(partition_by: Sequence[str], corpus: Corpus) -> Corpus:
    """The same corpus, its read plan extended by partition columns that only the source's folders hold.

    Raises:
        UsageError: a column that is neither kept nor a source folder, or whose values make no folder name.
    """
    keep = corpus.read_plan.keep
    folder_keys = {key for source in corpus.objects for key, _ in source.partitions}
    for position, name in enumerate(partition_by):
        if name in partition_by[:position]:
            raise UsageError(f"output.partition_by: {name} stands twice; name it once")
        if name not in keep.names:
            if name not in folder_keys:
                known = ", ".join([*keep.names, *sorted(folder_keys - set(keep.names))]) or "none"
                raise UsageError(
                    f"output.partition_by: {name} is neither kept nor a key=value folder of the source "
                    f"(candidates: {known}); add it to corpus.keep"
                )
            if name in OUTPUT_COLUMNS:
                raise UsageError(f"output.partition_by: {name} is a column of the output itself; rename the source folders")
            types = stated_types(corpus.read_plan.corpus, corpus.read_plan.table)
            keep = keep.append(pa.field(name, types.get(name, pa.string())))
        kind = keep.field(name).type
        if not can_name_folder(kind):
            raise UsageError(
                f"output.partition_by: {name} is {kind}, which makes no folder name; choose a text, integer or date column"
            )
    return replace(corpus, read_plan=replace(corpus.read_plan, keep=keep))


def _describe(
    listed: Sequence[SourceObject],
    config: CorpusConfig,
    cache: MetadataCache | None,
    table_columns: Sequence[TableColumn],
    told: Columns | None,
) -> tuple[tuple[SourceObject, ...], list[Columns | None], list[str]]:
    """Footers of every object that has one, samples of the others: objects with row groups, their columns, warnings."""
    objects = list(listed)
    columns: list[Columns | None] = [None] * len(objects)
    cached = set()
    for at, source in enumerate(listed):
        if told is not None and source.row_groups is not None:
            columns[at] = told
            cached.add(at)
        elif cache and source.problem is None and (known := cache.get(source)):
            objects[at], columns[at] = known
            cached.add(at)
    fresh = [at for at in range(len(objects)) if at not in cached]
    with_footer = [at for at in fresh if objects[at].traits.footer]
    read = read_footers([objects[at] for at in with_footer], config, table_columns)
    for at, footer in zip(with_footer, read, strict=True):
        objects[at] = replace(objects[at], row_groups=footer.row_groups, problem=footer.problem, denied=footer.denied)
        if footer.problem is None:
            columns[at] = Columns(footer.columns, footer.names, exact=True)
        else:
            objects[at] = explained(objects[at], config)
    readable = [at for at in fresh if objects[at].problem is None]
    sampled, unreadable, remarks = sample_columns([objects[at] for at in readable], config)
    for place, sample in sampled.items():
        columns[readable[place]] = sample
    for place, problem in unreadable.items():
        objects[readable[place]] = replace(objects[readable[place]], problem=problem)
    if cache:
        cache.complete_samples(objects, columns, cached)
    remarks += look_further(objects, columns, config)
    _refuse_unusable(objects)
    columns, unlike = agreed_columns(columns)
    problems = [
        f"{redact(source.info.uri)}: {source.problem}; it will be quarantined: mend it, write the object again or remove it"
        for source in objects
        if source.problem is not None
    ]
    return tuple(objects), columns, problems + list(dict.fromkeys(remarks + unlike))


def _told(table: TableSnapshot | None, wanted: Sequence[str]) -> Columns | None:
    """The columns of objects that only the table's own library opens."""
    if table is None or table.schema is None:
        return None
    types = {field.name: field.type for field in table.schema if field.name in wanted}
    return Columns(types, tuple(table.schema.names), exact=True)


def _refuse_unusable(objects: Sequence[SourceObject]) -> None:
    """Raises: UsageError: the store refuses every object, or none is what its name and the settings say."""
    full = [source for source in objects if source.info.size]
    bad = [source for source in full if source.denied or (source.problem and source.traits.footer is None)]
    if bad and len(bad) == len(full):
        more = f" (and so the other {len(bad) - 1} objects, each for a reason of its kind)" if len(bad) > 1 else ""
        raise UsageError(f"corpus.uri {redact(bad[0].info.uri)}: {bad[0].problem}{more}")


def _log(warnings: Sequence[str]) -> None:
    for warning in warnings[:MAX_LOGGED]:
        log.warning("%s", warning)
    if len(warnings) > MAX_LOGGED:
        log.warning("%d more warnings about the corpus", len(warnings) - MAX_LOGGED)
