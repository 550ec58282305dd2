"""The golden texts' reference, computed beside the start of Ray instead of after it, and kept on this machine.

A local Ray takes seconds to start and leaves the cores idle meanwhile. `golden_reference_file` uses them: a process of its own
loads transformers and writes the vectors that every replica must reproduce. A replica that gets them need not load
transformers at all, where it has layers of its own for the model. One that does not get them (the process died, another
machine) computes them itself, and so does one that cannot reproduce what it got (workers/engine/self_check.py): a file that
lies costs seconds.

Kept in the user's cache folder, by everything that decides the vectors: weights, tokenizer, recipe, texts, library versions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
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
from workers.model.files import ModelFiles
from workers.model.golden import GOLDEN_TEXTS
from workers.model.recipe import EmbeddingRecipe

PATIENCE_SECONDS = 60.0  # a replica that has waited so long computes the reference itself
LIBRARIES = ("torch", "transformers", "tokenizers", "sentence-transformers")
NICENESS = 19  # behind what starts Ray, before the replicas, which wait for it
_LOOK_SECONDS = 0.02
log = logging.getLogger("reembed")


@dataclass(frozen=True, slots=True)
class GoldenReferenceFile:
    """Where process `pid` of this machine puts the vectors; the weights they are of are the caller's to compare."""

    path: str
    pid: int
    weights_digest: str


@contextlib.contextmanager
def golden_reference_file(model: ModelConfig, files: ModelFiles, recipe: EmbeddingRecipe) -> Iterator[GoldenReferenceFile]:
    """The file that is kept, or else start computing one; at the end of the block the process goes."""
    kept = cache_path(files, recipe)
    if kept.is_file():
        yield GoldenReferenceFile(str(kept), os.getpid(), files.weights_digest)
        return
    with tempfile.TemporaryDirectory(prefix="reembed-reference-") as folder:
        path = Path(folder) / "golden.npy"
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.replica.golden_reference", str(path)], stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            if process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):  # it could not even start: replicas find it dead, and do it
                    process.stdin.write(model.model_dump_json().encode())
                    process.stdin.close()
            yield GoldenReferenceFile(str(path), process.pid, files.weights_digest)
        finally:
            process.kill()
            process.wait()
            _keep(path, kept)


def cache_path(files: ModelFiles, recipe: EmbeddingRecipe) -> Path:
    """Where this machine keeps the reference of a model under one recipe."""
    versions = [importlib.metadata.version(name) for name in LIBRARIES]
    facts = [files.weights_digest, files.tokenizer_digest, dataclasses.asdict(recipe), GOLDEN_TEXTS, versions]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return caches / "reembed" / "golden" / f"{key}.npy"


def _keep(path: Path, kept: Path) -> None:
    """Whole or not at all. A home that cannot be written to is nobody's fault: the next run computes it again."""
    if not path.is_file():
        return
    part = kept.with_name(f"{kept.name}.{os.getpid()}")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, part)
        part.replace(kept)
    except OSError as error:
        log.info("the golden texts' reference is not kept: %s", error)


def await_golden_reference(file: GoldenReferenceFile | None, weights_digest: str) -> NDArray[np.float32] | None:
    """The vectors once they are there; None when there will be none: compute them."""
    if file is None or file.weights_digest != weights_digest:
        return None
    path, deadline = Path(file.path), time.monotonic() + PATIENCE_SECONDS
    while True:
        alive = _alive(file.pid)  # asked first: a process that ends between the two questions has left its file
        if path.exists():
            break
        if not alive or time.monotonic() > deadline:
            why = f"nothing in {PATIENCE_SECONDS:.0f} s" if alive else "ended without"
            log.info("no reference of the golden texts from process %d (%s); computed here", file.pid, why)
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
    from workers.model.files import resolve_model
    from workers.model.golden import GOLDEN_TEXTS
    from workers.model.recipe import read_recipe
    from workers.model.tokenizer import TextTokenizer

    files = resolve_model(model)
    recipe = read_recipe(files, model)
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
