"""The first bytes of every object without a footer, looked at before anything is started: is it what its name says?

    look         one small request an object: its format, where the name leaves that open, and its problem, if it has one
    explained    a footer's problem in other words: an object that is no Parquet at all has no damaged footer either

An object with a problem is named now and ends quarantined, as its reader finds the same (workers/reading/first_look.py). If
none is left, or the store refuses them all, the configuration is at fault.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from jobs.corpus.footers import FOOTER_THREADS, read_range
from jobs.corpus.listing import SourceObject
from jobs.corpus.sampling import read_head
from workers.config import CorpusConfig, SourceFormat
from workers.errors import AccessDenied, ObjectArchived, ObjectError
from workers.reading.first_look import HEAD_BYTES, Head, first_look, footer_problem
from workers.reading.signatures import SIGNATURE_BYTES
from workers.storage.uris import redact

HEAD_GROWTH = 16  # how many times more is read where HEAD_BYTES do not tell the format
log = logging.getLogger("reembed")


def look(listed: Sequence[SourceObject], config: CorpusConfig, known: Collection[int]) -> list[SourceObject]:
    """The objects, with their format by content and their problem. `known`: positions of those looked at by an earlier run.

    Raises: UsageError, TransientError.
    """
    objects = list(listed)
    by_content = config.format is SourceFormat.AUTO
    unclear = [at for at, source in enumerate(objects) if by_content and source.traits.resolve and source.info.size]
    others = [at for at, source in enumerate(objects) if source.traits.footer is None and at not in known]
    chosen = sorted({*unclear, *others})
    if not chosen:
        return objects
    with ThreadPoolExecutor(max_workers=min(FOOTER_THREADS, len(chosen))) as pool:
        for at, seen in zip(chosen, pool.map(lambda at: _look(objects[at], config), chosen), strict=True):
            objects[at] = seen
    resolved = [objects[at].format for at in unclear if objects[at].problem is None]
    for kind in sorted(set(resolved)):
        count = resolved.count(kind)
        log.info("%d objects are read as %s by their content; corpus.format: %s would say so", count, kind, kind)
    return objects


def explained(source: SourceObject, config: CorpusConfig) -> SourceObject:
    """Of a format with a footer, and with a problem. Raises: UsageError, TransientError."""
    if source.denied or not source.info.size:
        return source
    try:
        head = read_range(source.info.uri, 0, min(source.info.size, SIGNATURE_BYTES), config.storage_options)
    except (FileNotFoundError, ObjectError, AccessDenied):
        return source
    return replace(source, problem=footer_problem(head, source.traits) or source.problem)


def _look(source: SourceObject, config: CorpusConfig) -> SourceObject:
    uri, size = source.info.uri, source.info.size
    try:
        stored = read_range(uri, 0, min(size, HEAD_BYTES), config.storage_options) if size else b""
    except AccessDenied as error:
        return replace(source, problem=str(error).removeprefix(f"{redact(uri)}: "), denied=True)
    except ObjectError as error:
        return replace(source, problem=error.reason, denied=isinstance(error, ObjectArchived))
    except FileNotFoundError:
        return replace(source, problem="deleted while it was listed")
    head = first_look(stored, size, source.compression, source.traits, uri, config)
    if isinstance(head, str):
        return replace(source, problem=head)
    return replace(source, format=_format_by_content(source, config, head)) if size else source


def _format_by_content(source: SourceObject, config: CorpusConfig, head: Head) -> SourceFormat:
    """As the reader decides it, from as few bytes as needed and no more than one record may have."""
    resolve, size = source.traits.resolve, HEAD_BYTES
    while resolve is not None and config.format is SourceFormat.AUTO and size < config.max_text_bytes * HEAD_GROWTH:
        by_content = resolve(*head)
        if by_content is not None:
            return by_content
        size *= HEAD_GROWTH
        head = Head(*read_head(source, config, size))
    return source.format
