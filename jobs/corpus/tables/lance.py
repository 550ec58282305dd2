"""Lance: the fragments of one version. A fragment stands for an object, whose rows Lance itself reads on the replicas.

Fragments are cut by runs of rows, so that a slice can be read by itself and carried over by itself when rows of others are
deleted. A fragment is the same object as before if its data files are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from jobs.corpus.listing import RowGroup
from jobs.corpus.tables.snapshot import DataFile, TableSnapshot, library, refused
from workers.config import CorpusConfig, TableFormat
from workers.errors import UsageError
from workers.reading.tables.credentials import object_store_options
from workers.reading.tables.lance import FRAGMENT, row_numbers
from workers.records.deleted_rows import encode_rows
from workers.records.documents import WINDOW_ROWS
from workers.records.pinned_table import TableColumn
from workers.storage.objects import ObjectInfo
from workers.storage.uris import public_line, redact

_NOT_FOUND = "was not found"


def open_lance(config: CorpusConfig) -> TableSnapshot:
    """Raises: UsageError: no such table or version."""
    lance = library("lance", TableFormat.LANCE)
    uri, version = config.uri[0], config.table_version
    options = object_store_options(config) or None
    if isinstance(version, str) and version.isdecimal():
        version = int(version)
    try:
        dataset = lance.dataset(uri, storage_options=options)
    except Exception as error:  # noqa: BLE001 - whatever it says is about the table
        raise refused(config, error) from None
    if version is not None:
        try:
            dataset = lance.dataset(uri, version=version, storage_options=options)
        except Exception as error:  # noqa: BLE001 - as above
            newest = dataset.version
            raise UsageError(
                f"corpus.table_version {version}: the Lance table {redact(uri)} has no such version or tag "
                f"({public_line(error)}); its newest is {newest}"
            ) from None
    try:
        files = list(_fragments(dataset, uri))
        ids = {name: int(dataset.lance_schema.field(name).id()) for name in dataset.schema.names}
    except Exception as error:  # noqa: BLE001 - as above
        raise refused(config, error) from None
    return TableSnapshot(
        TableFormat.LANCE,
        uri,
        str(dataset.version),
        files,
        schema=dataset.schema,
        columns={name: TableColumn(name, number, (name,)) for name, number in ids.items()},
    )


def _fragments(dataset: Any, uri: str) -> Iterator[DataFile]:
    for fragment in dataset.get_fragments():
        facts = fragment.metadata.to_json()
        facts = json.loads(facts) if isinstance(facts, str) else facts
        same = json.dumps([facts["files"], facts.get("overlays")], sort_keys=True)
        size = sum(file.get("file_size_bytes") or 0 for file in facts["files"]) or 1
        rows = fragment.physical_rows
        deleted = ""
        if fragment.num_deletions:
            addresses = fragment.scanner(columns=[], with_row_address=True).to_table().column("_rowaddr")
            deleted = encode_rows(np.setdiff1d(np.arange(rows), row_numbers(addresses), assume_unique=True))
        groups = tuple(
            RowGroup(min(WINDOW_ROWS, rows - at), size * min(WINDOW_ROWS, rows - at) // rows)
            for at in range(0, rows, WINDOW_ROWS)
        )
        info = ObjectInfo(
            f"{uri.rstrip('/')}/{FRAGMENT}{fragment.fragment_id}", size, hashlib.sha256(same.encode()).hexdigest()
        )
        yield DataFile(info.uri, deleted=deleted, info=info, row_groups=groups)
