"""Which texts of a window are embedded, and which vectors are reused: those of an earlier snapshot, or of this shard.

    Deduplicator.admit          texts of an earlier snapshot, before the first window: which go into the vector cache
    Deduplicator.deduplicate    a window -> DedupedWindow: which of its texts are new, which are probed
    Deduplicator.assign_rows    cache rows of the new texts, once the tokeniser knows how many each takes

Rows of the vector cache are given out in the order in which texts appear, so they are the same on every attempt. The writing
thread appends the vectors in that very order, later. A text whose vector is bad keeps its rows; nothing reads them.
Knows neither tokens nor vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from workers.dedup.hash_index import Hashes, HashIndex, first_positions, hash_texts
from workers.host.spill_file import Positions
from workers.records.documents import TEXT, DocumentWindow

Flags = npt.NDArray[np.bool_]

PROBE_TEXTS = 16  # reused texts of a shard that are embedded again, to compare
PROBE_TEXT_BYTES = 16 << 10  # longer ones cost more than they tell, unless there is nothing else


@dataclass(slots=True)
class DedupedWindow:
    """D documents of a window and its U distinct texts, N new ones and P probes among them."""

    window: DocumentWindow
    hashes: Hashes  # [D]
    new: Positions  # [N] positions in the window of the texts to embed, ascending
    probes: Positions  # [P] positions of reused texts that are embedded again, ascending
    prefilled_rows: int  # cache rows below this hold vectors of an earlier snapshot
    own_D: Positions  # which of the U texts is the document's
    row_U: Positions  # first cache row of each text; -1 for new ones until rows are assigned
    count_U: Positions  # number of cache rows, likewise 0

    def column(self) -> pa.ChunkedArray:
        """The texts to tokenise and encode: [N + P], the probes last."""
        texts, chosen = self.window.table[TEXT], np.concatenate([self.new, self.probes])
        return texts if len(self.new) == len(texts) else texts.take(pa.array(chosen))

    def texts(self) -> list[str]:
        """The same as strings."""
        listed: list[str] = self.column().to_pylist()
        return listed

    @property
    def row_D(self) -> Positions:
        return self.row_U[self.own_D]

    @property
    def count_D(self) -> Positions:
        return self.count_U[self.own_D]

    @property
    def reused_D(self) -> Flags:
        """The document's vectors come from an earlier snapshot."""
        reused: Flags = self.row_D < self.prefilled_rows
        return reused

    @property
    def repeated_D(self) -> Flags:
        """The document's text appeared earlier in this shard and was embedded there."""
        repeated: Flags = ~self.reused_D
        repeated[self.new] = False
        return repeated


class Deduplicator:
    """Of one shard. Gives out the rows of its vector cache. One thread at a time."""

    def __init__(self) -> None:
        self._index = HashIndex()
        self._rows = self._prefilled_rows = 0
        self._probed = False

    def admit(self, hashes: Hashes, counts: Positions) -> Flags:
        """[N] which of these texts of an earlier snapshot are not cached yet; those take the next rows, in order."""
        first, _ = first_positions(hashes)
        rows, _ = self._index.find(hashes[first])
        first = first[rows < 0]
        self._add(hashes[first], counts[first])
        self._prefilled_rows = self._rows
        admitted = np.zeros(len(hashes), np.bool_)
        admitted[first] = True
        return admitted

    def deduplicate(self, window: DocumentWindow) -> DedupedWindow:
        """What of this window is to be tokenised and encoded. `assign_rows` must follow before the next window."""
        texts = window.table[TEXT]
        hashes = hash_texts(texts)
        first_U, own_D = first_positions(hashes)
        row_U, count_U = self._index.find(hashes[first_U])
        probes = self._probes(texts, first_U[(row_U >= 0) & (row_U < self._prefilled_rows)])
        return DedupedWindow(window, hashes, first_U[row_U < 0], probes, self._prefilled_rows, own_D, row_U, count_U)

    def assign_rows(self, deduped: DedupedWindow, counts: Positions) -> None:
        """`counts`: [N + P] cache rows that each of deduped.column() takes, by the tokeniser."""
        new_U, counts = deduped.row_U < 0, counts[: len(deduped.new)]
        deduped.count_U[new_U] = counts
        deduped.row_U[new_U] = self._add(deduped.hashes[deduped.new], counts)

    def _add(self, hashes: Hashes, counts: Positions) -> Positions:
        rows: Positions = self._rows + np.cumsum(counts) - counts
        self._index.add(hashes, rows, counts)
        self._rows += int(counts.sum())
        return rows

    def _probes(self, texts: pa.ChunkedArray, reused: Positions) -> Positions:
        """Some texts of the first window that has reused ones, spread over it."""
        if self._probed or not len(reused):
            return np.empty(0, np.int64)
        self._probed = True
        sizes: Positions = pc.binary_length(texts).to_numpy()[reused]
        short = reused[sizes <= PROBE_TEXT_BYTES]
        if not len(short):
            return reused[[np.argmin(sizes)]]
        chosen: Positions = short[np.linspace(0, len(short) - 1, min(PROBE_TEXTS, len(short))).astype(np.int64)]
        return chosen
