"""A few rows of a part file: their vectors, and by which text each was made. What the publish gate looks at.

    sample_part    the first rows of the part, and how many rows its footer says it has
    find_rows      rows of given texts near the beginning of the part

Pages are streamed, so that of a large part little more is fetched than what is asked for; bounds are in vectors, of which a
row holds several with pooling=tokens. A text is known by its hash and the chunk's number (0 where texts are not cut into
chunks). Knows nothing of runs or thresholds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from workers.config import VectorType
from workers.records.shard import OutputFile
from workers.storage.store import Store
from workers.storage.stream import EXACT, LEAST_BYTES, SourceStream
from workers.table.schema import EMBEDDING
from workers.table.vectors import as_float32

TextKey = tuple[bytes, int]  # text hash, number of the chunk
Floats = npt.NDArray[np.float32]
_BATCH_ROWS = 256


class PartUnreadable(Exception):
    """The file has the size that its receipt says, and is no Parquet or is damaged within."""


@dataclass(frozen=True, slots=True)
class Stored:
    """How a snapshot stores its vectors, as its stamp says."""

    vector: VectorType
    int8_scale: float | None = None


@dataclass(frozen=True, slots=True)
class PartSample:
    """The first rows of a part."""

    rows_in_part: int
    keys: list[TextKey]  # of the rows read, in order
    vectors: list[Floats]  # of each row [V, D]; V is 1 but for pooling=tokens


def sample_part(store: Store, file: OutputFile, stored: Stored, most_vectors: int) -> PartSample | None:
    """The rows that hold the first so many vectors.

    Returns:
        None when the file is gone or not of the size its receipt says: publishing notices that and sees to it.
    Raises:
        PartUnreadable, UsageError, TransientError.
    """
    with _opened(store, file) as parquet:
        if parquet is None:
            return None
        rows = list(_rows(parquet, stored, most_vectors))
        return PartSample(parquet.metadata.num_rows, [key for key, _ in rows], [vectors for _, vectors in rows])


def find_rows(
    store: Store, file: OutputFile, stored: Stored, wanted: Collection[TextKey], most_vectors: int
) -> dict[TextKey, Floats]:
    """Vectors [V, D] of the wanted texts that stand in the rows of the first so many vectors, the first of equal texts.

    Raises: as sample_part.
    """
    found: dict[TextKey, Floats] = {}
    with _opened(store, file) as parquet:
        for key, vectors in _rows(parquet, stored, most_vectors) if parquet is not None else ():
            if key in wanted:
                found.setdefault(key, vectors)
                if len(found) == len(wanted):
                    break
    return found


@contextlib.contextmanager
def _opened(store: Store, file: OutputFile) -> Iterator[pq.ParquetFile | None]:
    try:
        raw = store.open(file.path, block=EXACT)
    except FileNotFoundError:
        yield None
        return
    with SourceStream(raw, store.uri_of(file.path), file.bytes, LEAST_BYTES) as stream:
        if raw.seek(0, 2) != file.bytes:
            yield None
            return
        try:
            with pq.ParquetFile(stream, buffer_size=LEAST_BYTES, pre_buffer=False) as parquet:
                yield parquet
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            if stream.failure is not None:
                raise stream.failure from None
            raise PartUnreadable(f"{stream.uri} cannot be read ({' '.join(str(error).split())[:200]})") from None


def _rows(parquet: pq.ParquetFile, stored: Stored, most_vectors: int) -> Iterator[tuple[TextKey, Floats]]:
    chunked = "chunk" in parquet.schema_arrow.names
    columns = ["text_hash", EMBEDDING, *(["chunk"] if chunked else [])]
    met = 0
    for batch in parquet.iter_batches(max(1, min(_BATCH_ROWS, most_vectors)), columns=columns, use_threads=False):
        hashes = batch.column("text_hash").to_pylist()
        chunks = batch.column("chunk").to_pylist() if chunked else [0] * batch.num_rows
        column = batch.column(EMBEDDING)
        counts = column.value_lengths().to_numpy() if pa.types.is_list(column.type) else np.ones(batch.num_rows, np.int64)
        each = np.split(as_float32(column, stored.vector, stored.int8_scale), np.cumsum(counts)[:-1]) if hashes else []
        for key, vectors_VD in zip(zip(hashes, chunks, strict=True), each, strict=True):
            if met >= most_vectors:
                return
            met += len(vectors_VD)
            yield key, vectors_VD
