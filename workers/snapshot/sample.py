"""Samples of a part: the vectors of a few rows, and the text that each was made from. Used by the publish gate.

    sample_part    the first rows of the part, and how many rows its footer says it has
    find_rows      rows of given texts near the beginning of the part

Pages are streamed, so little more of a large part is fetched than is needed. Bounds are in vectors, of which a row holds
several with pooling=tokens. A text is named by its hash and the chunk's number (0 where texts are not cut into
chunks). Knows nothing of runs or thresholds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from workers.records.shard import OutputFile
from workers.snapshot.vectors import part_vectors
from workers.storage.store import Store
from workers.storage.stream import LEAST_BYTES
from workers.table.part_file import PartDamaged, PartReader, open_part
from workers.table.schema import CHUNK, TEXT_HASH
from workers.table.vectors import Floats, VectorFormat

TextKey = tuple[bytes, int]  # text hash, number of the chunk
_BATCH_ROWS = 256


class PartUnreadable(Exception):
    """The file has the size that its receipt says, and is no Parquet or is damaged within."""


@dataclass(frozen=True, slots=True)
class PartSample:
    """The first rows of a part."""

    rows_in_part: int
    keys: list[TextKey]  # of the rows read, in order
    vectors: list[Floats]  # of each row [V, D]; V is 1 but for pooling=tokens


def sample_part(store: Store, file: OutputFile, stored: VectorFormat, most_vectors: int) -> PartSample | None:
    """The rows that hold the first so many vectors.

    Returns:
        None when the file is gone or not of the size its receipt says: publishing notices that and sees to it.
    Raises:
        PartUnreadable, UsageError, TransientError.
    """
    try:
        with _translated(), open_part(store, file.path, size=file.bytes, buffer_bytes=LEAST_BYTES) as part:
            rows = list(_rows(part, file.path, stored, most_vectors))
            return PartSample(part.rows, [key for key, _ in rows], [vectors for _, vectors in rows])
    except FileNotFoundError:
        return None


def find_rows(
    store: Store, file: OutputFile, stored: VectorFormat, texts: Collection[TextKey], most_vectors: int
) -> dict[TextKey, Floats]:
    """Vectors [V, D] of those of `texts` that are in the rows of the first so many vectors; of equal texts the first.

    Raises: as sample_part.
    """
    by_text: dict[TextKey, Floats] = {}
    gone = contextlib.suppress(FileNotFoundError)
    with gone, _translated(), open_part(store, file.path, size=file.bytes, buffer_bytes=LEAST_BYTES) as part:
        for key, vectors in _rows(part, file.path, stored, most_vectors):
            if key in texts:
                by_text.setdefault(key, vectors)
                if len(by_text) == len(texts):
                    break
    return by_text


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except PartDamaged as error:
        raise PartUnreadable(f"{error.object_uri} cannot be read ({error.detail})") from None


def _rows(part: PartReader, path: str, stored: VectorFormat, most_vectors: int) -> Iterator[tuple[TextKey, Floats]]:
    chunked = CHUNK in part.schema.names
    met = 0
    columns = [TEXT_HASH, *([CHUNK] if chunked else [])]
    for batch in part_vectors(part, path, stored, columns, max(1, min(_BATCH_ROWS, most_vectors))):
        hashes = batch.columns[TEXT_HASH].to_pylist()
        chunks = batch.columns[CHUNK].to_pylist() if chunked else [0] * len(batch)
        ends = np.arange(1, len(batch)) if batch.counts is None else np.cumsum(batch.counts)[:-1]
        for key, vectors_VD in zip(zip(hashes, chunks, strict=True), np.split(batch.vectors, ends), strict=True):
            if met >= most_vectors:
                return
            met += len(vectors_VD)
            yield key, vectors_VD
