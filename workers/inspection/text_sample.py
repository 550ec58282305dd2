"""A few texts from one place of the source, drawn and tokenised for the estimate (jobs/planning/estimate.py).

Parquet, Arrow and ORC are decoded by C++ that trusts its input too much, and a tokenizer is native code as well. Both run
in an isolated process, so that a corrupt object or a deadly text costs the estimate one sample, and the driver nothing.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from workers.errors import ObjectError, TransientError, UsageError
from workers.host.isolated_process import IsolatedProcess, ProcessEnded
from workers.model.recipes.recipe import EmbeddingRecipe
from workers.model.tokenizer import TextTokenizer
from workers.reading.formats.registry import format_of, traits_of
from workers.reading.reader import read_windows
from workers.records.documents import TEXT, ReadPlan, text_hash
from workers.records.shard import ObjectSlice, Shard
from workers.storage.objects import open_object

HEAD_BYTES = 256 << 10  # read of an object without a schema to see how long its records are

log = logging.getLogger("reembed")


@dataclass(frozen=True, slots=True)
class Drawn:
    """The texts' hashes, the source bytes behind them, their tokens and output rows."""

    hashes: tuple[bytes, ...] = ()
    bytes: int = 0
    tokens: int = 0
    rows: int = 0


def draw(spot: Shard, plan: ReadPlan, count: int, model: Path, recipe: EmbeddingRecipe, isolated: IsolatedProcess) -> Drawn:
    """Up to `count` texts of the spot's first window, spread over it; none where they cannot be read or tokenised.

    Raises: UsageError, TransientError.
    """
    try:
        return isolated.call(_draw, spot, plan, count, model, recipe)
    except (UsageError, TransientError):
        raise
    except ObjectError as error:  # it will be quarantined, or mended before the run; the other samples tell enough
        log.info("%s: estimated without it: %s", spot.slices[0].uri, error)
    except ProcessEnded as ended:  # its replicas will find out, and name it
        log.warning("%s: drawing a sample of its texts %s; estimated without it", spot.slices[0].uri, ended)
    except Exception as error:  # noqa: BLE001 - likewise: an estimate is not worth a run, whatever a tokenizer may raise
        log.warning(
            "%s: drawing a sample of its texts failed (%s: %s); estimated without it",
            spot.slices[0].uri, type(error).__name__, error,
        )  # fmt: skip
    return Drawn()


def _draw(spot: Shard, plan: ReadPlan, count: int, model: Path, recipe: EmbeddingRecipe) -> Drawn:
    texts = _texts(spot, plan, count)
    if not texts:
        return Drawn()
    tokens = _tokenizer(model, recipe).tokenize(texts)
    size = round(len(texts) * _record_bytes(spot.slices[0], plan, texts))
    return Drawn(tuple(map(text_hash, texts)), size, int(tokens.offsets[-1]), len(tokens.row_document))


@functools.lru_cache(1)
def _tokenizer(model: Path, recipe: EmbeddingRecipe) -> TextTokenizer:
    """Kept by the isolated process between calls."""
    return TextTokenizer(model, recipe)


def _texts(spot: Shard, plan: ReadPlan, count: int) -> list[str]:
    window = next(iter(read_windows(spot, plan, {})), None)
    if window is None or not window.table.num_rows:
        return []
    column, rows = window.table.column(TEXT), window.table.num_rows
    count = min(count, rows)
    texts: list[str] = column.take(pa.array([at * rows // count for at in range(count)])).to_pylist()
    return texts


def _record_bytes(piece: ObjectSlice, plan: ReadPlan, texts: Sequence[str]) -> float:
    """Source bytes behind one document: the record's, keys and other columns included, where the object's size counts them;
    else the text's.

    Compressed objects count as their texts: their size is itself an estimate.
    """
    corpus = plan.corpus
    source_format, compression = format_of(piece.uri, corpus.format)
    mean, record_bytes = None, traits_of(source_format).record_bytes
    if compression is None and record_bytes is not None:
        with open_object(piece.uri, piece.size, piece.etag, corpus.storage_options, block=HEAD_BYTES) as stream:
            stream.seek(piece.start)
            mean = record_bytes(stream.read(HEAD_BYTES), corpus)
    return sum(len(text.encode()) for text in texts) / len(texts) if mean is None else mean
