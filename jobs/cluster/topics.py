"""What clusters are about: words and beginnings of texts, from the corpus that the snapshot was embedded from.

A snapshot holds no texts. They are read again by the manifest of the source's run, in a pass over its shards: a sample of
each cluster's rows, chosen by row keys, and the nearest rows. Of a corpus larger than cluster.text_bytes some shards are
read, chosen by a hash of their numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.cluster.config import ClusterSection
from jobs.passes.passes import Passes
from jobs.passes.source import SourceSnapshot
from workers.vectors.clustering.description import EXAMPLE, WORD
from workers.vectors.clustering.texts import NO_EXAMPLE, ReadTexts, SampledRows
from workers.vectors.clustering.words import characteristic


@dataclass(frozen=True, slots=True)
class Topics:
    """`words`: of each place. `texts`: example -> the beginning of its text. `trouble`: why there are none, or fewer."""

    words: list[list[str]]
    texts: Mapping[int, str] = field(default_factory=dict)
    read: int = 0  # texts that words were counted in
    note: str = ""  # for the report: where they come from
    trouble: str = ""


def text_shards(source: SourceSnapshot, limit: int) -> NDArray[np.int64]:
    """Numbers of the shards whose texts are read, ascending: all, or so many that their texts have at most `limit` bytes."""
    if source.run.job is not None:
        return np.empty(0, np.int64)

    def order(number: int) -> bytes:
        return hashlib.blake2b(str(number).encode(), digest_size=8).digest()

    sizes = {shard.number: shard.text_bytes for shard in source.run.shards if shard.number in source.receipts}
    chosen: list[int] = []
    total = 0
    for number in sorted(sizes, key=order):
        total += sizes[number]
        if chosen and total > limit:
            break
        chosen.append(number)
    return np.array(sorted(chosen), np.int64)


def read_topics(passes: Passes, described: Mapping[str, NDArray[Any]], clusters: int, section: ClusterSection) -> Topics:
    """One pass over shards of the corpus. Raises: as Passes.units()."""
    source, nothing = passes.source, Topics([[] for _ in range(clusters)])
    if section.words == 0 or source.schema.lists:
        return nothing
    if source.run.job is not None:
        trouble = f"the snapshot is the output of `reembed {source.run.job}`; cluster the snapshot that it was made from"
        return Topics(nothing.words, trouble=trouble)
    numbers = text_shards(source, section.text_bytes)
    shards = [shard for shard in source.run.shards if shard.number in set(numbers.tolist())]
    corpus = source.run.config.corpus.model_copy(update={"storage_options": section.corpus_options})
    step = ReadTexts(
        source.run.record.read_plan(corpus),
        tuple(shards),
        tuple(source.receipts[shard.number].excluded for shard in shards),
        _sampled(described, numbers),
        clusters,
    )
    found = passes.units(step, len(shards))
    failed = found["failed"].tolist()
    texts = dict(zip(found["example"].tolist(), found["beginning"].tolist(), strict=True))
    read = int(found["texts"].sum())
    vocabulary = found["words"].tolist()
    words = characteristic(vocabulary, found["word"], found["place"], found["count"], found["texts"], section.words)
    return Topics(words, texts, read, _note(read, len(shards), source), _trouble(failed, len(shards), int(found["missing"])))


def _sampled(described: Mapping[str, NDArray[Any]], shards: NDArray[np.int64]) -> SampledRows:
    """Examples and the sample for words, in order of shards."""
    names = ("text", "place", "start", "end", "shard")
    joined = {name: np.concatenate([described[EXAMPLE + name], described[WORD + name]]) for name in names}
    examples, sampled = len(described[EXAMPLE + "place"]), len(described[WORD + "place"])
    example = np.concatenate([np.arange(examples), np.full(sampled, NO_EXAMPLE)]).astype(np.int64)
    here = np.flatnonzero(np.isin(joined["shard"], shards))
    order = here[np.argsort(joined["shard"][here], kind="stable")]
    borders = np.searchsorted(joined["shard"][order], np.append(shards, np.iinfo(np.int64).max))
    return SampledRows(
        joined["text"][order],
        joined["place"][order].astype(np.int32),
        joined["start"][order],
        joined["end"][order],
        example[order],
        borders.astype(np.int64),
    )


def _note(read: int, shards: int, source: SourceSnapshot) -> str:
    there = len(source.receipts)
    part = "" if shards == there else f", of {shards:,} of its {there:,} shards (cluster.text_bytes)"
    return f"Words are counted in {read:,} texts of the corpus{part}."


def _trouble(failed: list[str], shards: int, missing: int) -> str:
    if failed:
        return f"{len(failed):,} of {shards:,} shards of the corpus cannot be read again: {failed[0]}"
    if missing:
        return f"{missing:,} sampled texts are no longer in the corpus: it has changed since it was embedded"
    return ""
