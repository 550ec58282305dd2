"""Loads the compiled WordPiece (wordpiece.c) and calls it: one vocabulary, a worker a thread.

    Vocabulary.encode     texts of an Arrow array -> flat ids, without Python's lock; texts are divided among the threads

Shapes: D texts, T ids.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.extension import load
from workers.model.wordpiece.definition import Definition

_EXTENSION = "workers.model.wordpiece._wordpiece"
_SPARE = 8  # ids that the library may write behind a text's last
_SHARE_BYTES = 1 << 16  # of text: what is worth a thread
_TRUNCATED, _ODD = 1, 2  # flags of a text
_pointer, _number = ctypes.c_void_p, ctypes.c_int64


@dataclass(frozen=True, slots=True)
class Encoded:
    """The ids of D texts."""

    ids: NDArray[np.int32]  # [T] of all texts, one behind the other
    ends: NDArray[np.int64]  # [D] where each text's ids end
    truncated: NDArray[np.bool_]  # [D] ids were cut off
    odd: NDArray[np.int64]  # positions of texts that the library leaves to `tokenizers`: they have no ids
    spans: NDArray[np.int64]  # [T, 2] code points of each id, where asked for


@functools.cache
def library() -> ctypes.CDLL:
    """Raises: OSError: not built, or not for this machine."""
    loaded = load(_EXTENSION)
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "new": (_pointer, [*[_pointer] * 3, _number, _pointer, _number, ctypes.c_int32, _number, ctypes.c_int32,
                           *[_pointer] * 2, _number, _pointer, _number]),
        "free": (None, [_pointer]),
        "worker": (_pointer, [_pointer]),
        "worker_free": (None, [_pointer]),
        "encode": (_number, [*[_pointer] * 3, _number, _pointer, ctypes.c_int, *[_number] * 3, *[_pointer, _number] * 2,
                             _pointer, _number, *[_pointer] * 3]),
        "tables": (ctypes.c_char_p, []),
    }  # fmt: skip
    for name, (result, arguments) in signatures.items():
        function = getattr(loaded, f"reembed_wordpiece_{name}")
        function.restype, function.argtypes = result, arguments
    return loaded


def tables_version() -> str:
    """The version of `tokenizers` of which the library's Unicode tables were made. Raises: OSError: no library."""
    version: bytes = library().reembed_wordpiece_tables()
    return version.decode()


def _joined(parts: Sequence[bytes]) -> tuple[bytes, NDArray[np.int64]]:
    return b"".join(parts), np.cumsum([len(part) for part in parts], dtype=np.int64).reshape(-1)


class _Worker:
    """What one thread needs: freed with the thread."""

    def __init__(self, vocabulary: int) -> None:
        self.handle = library().reembed_wordpiece_worker(vocabulary)
        if not self.handle:
            raise MemoryError("no memory for a cache of words")
        self._free = library().reembed_wordpiece_worker_free

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self._free(self.handle)


class Vocabulary:
    """A model's vocabulary and normaliser, compiled. May be used by several threads at once.

    Raises:
        OSError: the library is not there. MemoryError: it is too large.
    """

    def __init__(self, definition: Definition, threads: int = 1) -> None:
        words, ends = _joined([word.encode() for word in definition.vocabulary])
        added, added_ends = _joined([content.encode() for content in definition.added])
        ids = np.array(list(definition.vocabulary.values()), np.int32)
        runs = np.array([value for run in definition.runs for value in (len(run), *run)], np.int32)
        prefix = definition.prefix.encode()
        self._library = library()
        self._handle = self._library.reembed_wordpiece_new(
            words, ends.ctypes.data, ids.ctypes.data, len(ids), prefix, len(prefix), definition.unknown, definition.longest,
            definition.flags, added, added_ends.ctypes.data, len(added_ends), runs.ctypes.data, len(runs),
        )  # fmt: skip
        if not self._handle:
            raise MemoryError(f"a vocabulary of {len(ids)} words of {len(words)} bytes in all does not fit")
        self._look = max((len(run) for run in definition.runs), default=1)
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "wordpiece") if threads > 1 else None
        self._own = threading.local()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            if self._pool:
                self._pool.shutdown()
            self._library.reembed_wordpiece_free(self._handle)

    def encode(
        self, texts: pa.Array, room: int | None = None, *, before: NDArray[np.int32], after: NDArray[np.int32],
        spans: bool = False,
    ) -> Encoded:  # fmt: skip
        """At most `room` ids of each text (None: all) between those of `before` and `after`.

        Args:
            texts: string or large_string, no nulls.
            spans: also the code points of each id; only with empty `before` and `after`.
        """
        count, wide = len(texts), pa.types.is_large_string(texts.type)
        _, offsets_buffer, data = texts.buffers()
        flags, ends = np.zeros(count, np.uint8), np.zeros(count, np.int64)
        if not count:
            return Encoded(np.empty(0, np.int32), ends, flags > 0, np.empty(0, np.int64), np.empty((0, 2), np.int64))
        kind = np.dtype(np.int64 if wide else np.int32)
        offsets = np.frombuffer(offsets_buffer, kind)[texts.offset : texts.offset + count + 1]
        sizes = np.diff(offsets)
        most = np.iinfo(np.int64).max if room is None else room
        fits = sizes if room is None else np.minimum(sizes, room + self._look)
        fits = fits + np.int64(len(before) + len(after))
        cuts = self._cuts(offsets)
        rooms = [int(fits[start:stop].sum()) + _SPARE for start, stop in itertools.pairwise(cuts)]
        ids = np.empty(sum(rooms), np.int32)
        places = np.empty((sum(rooms) if spans else 0, 2), np.int64)

        def part(number: int) -> int:
            start, stop, at = cuts[number], cuts[number + 1], sum(rooms[:number])
            done: int = self._library.reembed_wordpiece_encode(
                self._handle, self._worker(), data.address if data else None, data.size if data else 0, offsets.ctypes.data,
                wide, start, stop, most, before.ctypes.data, len(before), after.ctypes.data, len(after),
                ids.ctypes.data + 4 * at, rooms[number], places.ctypes.data + 16 * at if spans else None,
                ends.ctypes.data + 8 * start, flags.ctypes.data + start,
            )  # fmt: skip
            if done < 0:
                raise ValueError("the texts' offsets are out of bounds")
            return done

        parts = range(len(rooms))
        done = list(self._pool.map(part, parts)) if self._pool and len(rooms) > 1 else [part(number) for number in parts]
        starts = [sum(rooms[:number]) for number in parts]
        for number in parts[1:]:
            ends[cuts[number] : cuts[number + 1]] += sum(done[:number])
        taken = [slice(start, start + size) for start, size in zip(starts, done, strict=True)]
        return Encoded(
            ids=np.concatenate([ids[part] for part in taken]),  # a copy also of one: most of the room is not used
            ends=ends,
            truncated=(flags & _TRUNCATED) > 0,
            odd=np.flatnonzero(flags & _ODD),
            spans=np.concatenate([places[part] for part in taken]) if spans else places,
        )

    def _cuts(self, offsets: NDArray[Any]) -> list[int]:
        """Indices of texts, 0 to D, that divide their bytes evenly among the threads; some may coincide."""
        total = int(offsets[-1]) - int(offsets[0])
        parts = max(1, min(self._threads, total // _SHARE_BYTES))
        shares = int(offsets[0]) + np.arange(1, parts) * (total / parts)
        return [0, *np.searchsorted(offsets[:-1], shares).tolist(), len(offsets) - 1]

    def _worker(self) -> int:
        if not hasattr(self._own, "worker"):
            self._own.worker = _Worker(self._handle)
        handle: int = self._own.worker.handle
        return handle
