"""The golden texts' reference, computed beside the start of Ray instead of after it.

A local Ray takes seconds to start and leaves the cores idle meanwhile. `computed_beside(model)` uses them: a process of its
own loads transformers and writes the vectors that every replica must reproduce. A replica that gets them need not load
transformers at all, where it has layers of its own for the model. One that does not (the process died, another machine)
computes them itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from workers.config import ModelConfig

PATIENCE_SECONDS = 60.0  # a replica that has waited so long computes the reference itself
_LOOK_SECONDS = 0.02
NICENESS = 19  # behind what starts Ray, before the replicas, which wait for it
log = logging.getLogger("reembed")


@dataclass(frozen=True, slots=True)
class ReferenceFile:
    """Where process `pid` of this machine puts the vectors; the weights they are of are the caller's to compare."""

    path: str
    pid: int
    weights_digest: str


@contextlib.contextmanager
def computed_beside(model: ModelConfig, weights_digest: str) -> Iterator[ReferenceFile]:
    """Start computing; at the end of the block the process and its file go."""
    with tempfile.TemporaryDirectory(prefix="reembed-reference-") as folder:
        path = Path(folder) / "golden.npy"
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.reference", str(path)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            if process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):  # it could not even start: replicas find it dead, and do it
                    process.stdin.write(model.model_dump_json().encode())
                    process.stdin.close()
            yield ReferenceFile(str(path), process.pid, weights_digest)
        finally:
            process.kill()
            process.wait()


def await_reference(file: ReferenceFile | None, weights_digest: str) -> NDArray[np.float32] | None:
    """The vectors once they are there; None when there will be none: compute them."""
    if file is None or file.weights_digest != weights_digest:
        return None
    path, deadline = Path(file.path), time.monotonic() + PATIENCE_SECONDS
    while not path.exists():
        if time.monotonic() > deadline or not _alive(file.pid):
            log.info("no reference of the golden texts from process %d; computed here", file.pid)
            return None
        time.sleep(_LOOK_SECONDS)
    return np.load(path, allow_pickle=False).astype(np.float32, copy=False)  # type: ignore[no-any-return]


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _compute(model: ModelConfig) -> NDArray[np.float32]:
    from workers.engine.encoder import Encoder
    from workers.engine.golden import GOLDEN_TEXTS
    from workers.model_files import resolve_model
    from workers.model_layout import read_layout
    from workers.tokenization import TextTokenizer

    files = resolve_model(model)
    recipe = read_layout(files, model)
    return Encoder.golden_reference(files, recipe, TextTokenizer(files.folder, recipe).tokenize(GOLDEN_TEXTS))


def main(target: str) -> None:
    """The process: configuration on stdin (it may hold credentials), vectors to `target`, there all at once."""
    vectors = _compute(ModelConfig.model_validate_json(sys.stdin.buffer.read(), strict=False))
    path = Path(target)
    with path.with_suffix(".part").open("wb") as stream:
        np.save(stream, vectors, allow_pickle=False)
    os.replace(path.with_suffix(".part"), path)  # noqa: PTH105 - as a whole, or not at all


if __name__ == "__main__":
    os.nice(NICENESS)
    main(sys.argv[1])
    os._exit(0)  # the ordinary end takes torch another second of a core that others want
