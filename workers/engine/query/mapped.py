"""The tensors of a safetensors checkpoint, mapped into memory: what a query does not need is not read.

The file's format: 8 bytes with the size of the header, the header (JSON), and the tensors' bytes, little-endian.
safetensors' own NumPy interface copies every tensor and has no bfloat16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.engine.bert.facts import stored_name
from workers.model.files import checkpoint_files, safetensors_header

_STORED: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
Floats = NDArray[np.float32]


class MappedTensors:
    """Tensors in float32 by the names of a bare model, of the checkpoint in `folder`."""

    def __init__(self, folder: Path, prefix: str) -> None:
        """`prefix`: of the names, if the checkpoint has it. Raises: OSError, UsageError: the files cannot be read."""
        self._prefix = prefix
        self._stored: dict[str, tuple[NDArray[np.uint8], dict[str, Any]]] = {}  # name -> bytes of its file, its entry
        self._converted: dict[str, Floats] = {}
        for name in checkpoint_files(folder):
            mapped = np.asarray(np.memmap(folder / name, np.uint8, "r"))
            tensors = mapped[8 + int.from_bytes(mapped[:8].tobytes(), "little") :]
            entries = safetensors_header(folder / name)
            self._stored |= {key: (tensors, entry) for key, entry in entries.items() if key != "__metadata__"}

    def __getitem__(self, name: str) -> Floats:
        """Raises: KeyError: there is no such tensor. ValueError: its numbers are none of _STORED, or the file is cut off."""
        if name not in self._converted:
            self._converted[name] = _float32(self._view(name))
        return self._converted[name]

    def rows(self, name: str, rows: NDArray[np.integer[Any]]) -> Floats:
        """The rows of a table, of which the others are not read. Raises: as __getitem__. IndexError: no such row."""
        return _float32(self._view(name)[rows])

    def length(self, name: str) -> int:
        """Rows of a table. Raises: as __getitem__."""
        return len(self._view(name))

    def _view(self, name: str) -> NDArray[Any]:
        tensors, entry = self._stored[stored_name(name, self._prefix, self._stored)]
        if entry["dtype"] not in _STORED:
            raise ValueError(f"{name} is stored as {entry['dtype']}")
        start, end = entry["data_offsets"]
        values: NDArray[Any] = tensors[start:end].view(_STORED[entry["dtype"]])
        return values.reshape(entry["shape"])


def _float32(stored: NDArray[Any]) -> Floats:
    """bfloat16, which NumPy lacks, is the upper half of a float32."""
    if stored.dtype == _STORED["BF16"]:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32, copy=False)
