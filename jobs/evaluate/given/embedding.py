"""Texts of the evaluation's own (queries, pairs), embedded with the snapshot's model in the driver."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from jobs.passes.passes import Passes
from jobs.publish.open_snapshot import load_embedder
from workers.config import LongText
from workers.errors import UsageError
from workers.table.vectors import Floats

TEXTS = 1024  # embedded at a time


def embedded(passes: Passes, texts: Sequence[str], *, query: bool) -> Floats:
    """[len(texts), D] vectors; kept in the journal. `query`: with the model's query prompt.

    Raises: UsageError: the model is not available or another one than the snapshot's, or a text is blank.
    """
    blank = sum(not text.strip() for text in texts)
    if blank:
        raise UsageError(f"evaluate: {blank:,} of {len(texts):,} texts to embed are blank; remove them from the file")
    digest = hashlib.sha256("\0".join(texts).encode(errors="surrogatepass")).hexdigest()
    return passes.once(f"texts {query} {digest}", lambda: {"vectors": _embed(passes, texts, query)})["vectors"]


def _embed(passes: Passes, texts: Sequence[str], query: bool) -> Floats:
    source = passes.source
    embedder = load_embedder(source.run, query=query, long_text=LongText.TRUNCATE, column=source.column)
    found = [vectors[0] for at in range(0, len(texts), TEXTS) for vectors in embedder.embed(list(texts[at : at + TEXTS]))]
    vectors = np.stack(found).astype(np.float32)
    if vectors.shape[1] != source.dim:
        raise UsageError(
            f"evaluate.snapshot={source.uri}: its vectors have {source.dim} components, those of its model "
            f"{source.run.stamp.model} {vectors.shape[1]}; evaluate the snapshot that it was reduced from"
        )
    return vectors
