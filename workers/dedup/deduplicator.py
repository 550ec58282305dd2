"""Where each document of a window finds its vectors: on the shelf already, or among the texts that are embedded now.

    TextPlacer.admit     rows of earlier parts, text by text: which are to be put on the shelf      (before the first window)
    TextPlacer.place     a window -> Placement: which of its texts are new, which are probed
    TextPlacer.settle    once the new texts are tokenised: their shelf rows, and with them every document's

Shelf rows are given out in the order in which texts are met, so they are the same on every attempt; the writing thread puts
the vectors there in that very order, later. A text that turns out bad keeps its rows: what lies there is never read.
Knows neither tokens nor vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from workers.dedup.hash_index import Hashes, TextIndex, first_places, hash_texts
from workers.host.spill_file import Positions
from workers.records.documents import TEXT, DocumentWindow

Flags = npt.NDArray[np.bool_]

PROBE_TEXTS = 16  # reused texts of a shard that are embedded again, to compare
PROBE_TEXT_BYTES = 16 << 10  # longer ones cost more than they tell, unless there is nothing else


@dataclass(slots=True)
class Placement:
    """D documents of a window and its U distinct texts, N new ones and P probes among them."""

    window: DocumentWindow
    hashes: Hashes  # [D]
    new: Positions  # [N] places in the window of the texts to embed, ascending
    probes: Positions  # [P] places of reused texts that are embedded again, ascending
    seeded_rows: int  # shelf rows below this hold vectors of an earlier snapshot
    own_D: Positions  # which of the U texts is the document's
    row_U: Positions  # first shelf row of each text; -1 for new ones until they are settled
    count_U: Positions  # number of shelf rows, likewise 0

    def texts(self) -> list[str]:
        """What to tokenise and encode: [N + P], the probes last."""
        texts, chosen = self.window.table[TEXT], np.concatenate([self.new, self.probes])
        listed: list[str] = (texts if len(self.new) == len(texts) else texts.take(pa.array(chosen))).to_pylist()
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
        reused: Flags = self.row_D < self.seeded_rows
        return reused

    @property
    def repeated_D(self) -> Flags:
        """The document's text stood earlier in this shard and was embedded there."""
        repeated: Flags = ~self.reused_D
        repeated[self.new] = False
        return repeated


class TextPlacer:
    """Gives out the shelf rows of one shard. One thread at a time."""

    def __init__(self) -> None:
        self._index = TextIndex()
        self._rows = self._seeded_rows = 0
        self._probed = False

    def admit(self, hashes: Hashes, counts: Positions) -> Flags:
        """[N] which of these texts of an earlier snapshot are not on the shelf yet; those take the next rows, in order."""
        first, _ = first_places(hashes)
        rows, _ = self._index.find(hashes[first])
        first = first[rows < 0]
        self._add(hashes[first], counts[first])
        self._seeded_rows = self._rows
        admitted = np.zeros(len(hashes), np.bool_)
        admitted[first] = True
        return admitted

    def place(self, window: DocumentWindow) -> Placement:
        """What of this window is to be tokenised and encoded. `settle` must follow before the next window is placed."""
        texts = window.table[TEXT]
        hashes = hash_texts(texts)
        first_U, own_D = first_places(hashes)
        row_U, count_U = self._index.find(hashes[first_U])
        probes = self._probes(texts, first_U[(row_U >= 0) & (row_U < self._seeded_rows)])
        return Placement(window, hashes, first_U[row_U < 0], probes, self._seeded_rows, own_D, row_U, count_U)

    def settle(self, placement: Placement, counts: Positions) -> None:
        """`counts`: [N + P] rows that each of placement.texts() takes on the shelf, as the tokeniser has found."""
        new_U, counts = placement.row_U < 0, counts[: len(placement.new)]
        placement.count_U[new_U] = counts
        placement.row_U[new_U] = self._add(placement.hashes[placement.new], counts)

    def _add(self, hashes: Hashes, counts: Positions) -> Positions:
        rows: Positions = self._rows + np.cumsum(counts) - counts
        self._index.add(hashes, rows, counts)
        self._rows += int(counts.sum())
        return rows

    def _probes(self, texts: pa.ChunkedArray, reused: Positions) -> Positions:
        """Of the first window that has reused texts some, spread over it."""
        if self._probed or not len(reused):
            return np.empty(0, np.int64)
        self._probed = True
        sizes: Positions = pc.binary_length(texts).to_numpy()[reused]
        short = reused[sizes <= PROBE_TEXT_BYTES]
        if not len(short):
            return reused[[np.argmin(sizes)]]
        chosen: Positions = short[np.linspace(0, len(short) - 1, min(PROBE_TEXTS, len(short))).astype(np.int64)]
        return chosen
