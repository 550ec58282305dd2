"""The reference vectors of the golden texts: computed by a process of its own while Ray starts, and cached on this machine.

A local Ray takes seconds to start, and leaves the cores idle. `golden_reference_file` uses that time: its process loads
transformers and writes the vectors that every replica must reproduce. A replica that receives them need not load
transformers at all if it has layers of its own for the model. A replica that does not receive them (the process died, or it
is another machine), or cannot reproduce them (workers/engine/self_check.py), computes them itself: a wrong file costs time
only.

The cache is in this node's cache folder (workers/model/fetch.py:cache_folder). Its key is everything that decides the
vectors: weights, tokenizer, recipe, texts, library versions, and how they are computed.
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from workers import __version__
from workers.config import ModelConfig
from workers.host.processor import processor
from workers.model.fetch import cache_folder
from workers.model.files import ModelFiles
from workers.model.golden import GOLDEN_TEXTS
from workers.model.recipes.recipe import EmbeddingRecipe
from workers.records.tokens import TokenizedTexts

PATIENCE_SECONDS = 60.0  # after which a replica computes the reference itself
MANNER = "one text at a time, token types as the tokenizer gives them"  # another one: the cached vectors do not count
LIBRARIES = ("torch", "transformers", "tokenizers", "sentence-transformers")
# Lower priority than the start of Ray: replicas, which wait for the file, start later. Not much lower: on a busy machine a
# process of niceness 19 gets no time, and they wait in vain.
NICENESS = 5
_POLL_SECONDS = 0.02
log = logging.getLogger("reembed")


@dataclass(frozen=True, slots=True)
class GoldenReferenceFile:
    """The file that process `pid` of this machine writes the vectors of a model with these weights to."""

    path: str
    pid: int
    weights_digest: str


@contextlib.contextmanager
def golden_reference_file(
    model: ModelConfig, files: ModelFiles, recipe: EmbeddingRecipe
) -> Iterator[GoldenReferenceFile | None]:
    """The cached file, or one that a new process computes; None of a static model, whose reference takes a moment.

    At the end of the block the process is ended, and its file, if complete, put into the cache.
    """
    if recipe.static is not None:
        yield None
        return
    cached = cache_path(files, recipe)
    if cached.is_file():
        yield GoldenReferenceFile(str(cached), os.getpid(), files.weights_digest)
        return
    with tempfile.TemporaryDirectory(prefix="reembed-reference-") as folder:
        path = Path(folder) / "golden.npy"
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.replica.golden_reference", str(path)], stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            if process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):  # it could not start; replicas notice, and compute the reference
                    process.stdin.write(model.model_dump_json().encode())
                    process.stdin.close()
            yield GoldenReferenceFile(str(path), process.pid, files.weights_digest)
        finally:
            process.kill()
            process.wait()
            _store(path, cached)


def kept_reference(files: ModelFiles, recipe: EmbeddingRecipe, golden: TokenizedTexts) -> NDArray[np.float32]:
    """The vectors [sequences, dim] for a process that lives for one query: from the cache, else computed here and kept.

    Raises: as Encoder.golden_reference.
    """
    from workers.engine.encoder import Encoder

    if (found := cached_reference(files, recipe)) is not None:
        return found
    made = Encoder.golden_reference(files, recipe, golden)
    with tempfile.TemporaryDirectory(prefix="reembed-reference-") as folder:
        np.save(Path(folder) / "golden.npy", made, allow_pickle=False)
        _store(Path(folder) / "golden.npy", cache_path(files, recipe))
    return made


def cached_reference(files: ModelFiles, recipe: EmbeddingRecipe) -> NDArray[np.float32] | None:
    """The vectors [sequences, dim] in the cache; None: not there, or cut short."""
    with contextlib.suppress(OSError, ValueError, EOFError):
        found: NDArray[np.float32] = np.load(cache_path(files, recipe), allow_pickle=False).astype(np.float32, copy=False)
        return found
    return None


def known_ways(files: ModelFiles, recipe: EmbeddingRecipe, library: str = "") -> list[str]:
    """Names of the ways to run the model that gave the reference, in an earlier process of this code on this processor.

    `library`: that runs them, with its version, where it is not torch.
    """
    with contextlib.suppress(OSError, ValueError):
        names = json.loads(_ways_path(files, recipe, library).read_text())
        if isinstance(names, list):
            return [str(name) for name in names]
    return []


def keep_ways(files: ModelFiles, recipe: EmbeddingRecipe, names: Sequence[str], library: str = "") -> None:
    """Keep them for known_ways(). If the cache cannot be written, the next process measures again."""
    path = _ways_path(files, recipe, library)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(list(names)))
        part.replace(path)
    except OSError as error:
        log.info("the ways that give the golden texts' reference are not kept: %s", error)


def _ways_path(files: ModelFiles, recipe: EmbeddingRecipe, library: str) -> Path:
    facts = [cache_path(files, recipe).name, __version__, processor(), *([library] if library else [])]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "golden" / f"{key}.ways.json"


def cache_path(files: ModelFiles, recipe: EmbeddingRecipe) -> Path:
    """The cached reference of a model under one recipe, whether it exists or not."""
    versions = [importlib.metadata.version(name) for name in LIBRARIES]
    facts = [files.weights_digest, files.tokenizer_digest, dataclasses.asdict(recipe), GOLDEN_TEXTS, versions, MANNER]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "golden" / f"{key}.npy"


def _store(path: Path, cached: Path) -> None:
    """Copy into the cache, atomically. If the cache cannot be written, the next run computes the reference again."""
    if not path.is_file():
        return
    part = cached.with_name(f"{cached.name}.{os.getpid()}")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, part)
        part.replace(cached)
    except OSError as error:
        log.info("the golden texts' reference is not kept: %s", error)


def await_golden_reference(file: GoldenReferenceFile | None, weights_digest: str) -> NDArray[np.float32] | None:
    """Wait for the vectors [sequences, dim]; None if the file is for other weights, or its process ended without it."""
    if file is None or file.weights_digest != weights_digest:
        return None
    path, deadline = Path(file.path), time.monotonic() + PATIENCE_SECONDS
    while True:
        alive = _alive(file.pid)  # checked first: a process that ends after this check has written its file before
        if path.exists():
            break
        if not alive or time.monotonic() > deadline:
            why = f"nothing in {PATIENCE_SECONDS:.0f} s" if alive else "ended without"
            log.info("no reference of the golden texts from process %d (%s); computed here", file.pid, why)
            return None
        time.sleep(_POLL_SECONDS)
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
    from workers.model.recipes.read import read_recipe
    from workers.model.tokenizer import TextTokenizer

    files = resolve_model(model)
    recipe = read_recipe(files, model)
    return Encoder.golden_reference(files, recipe, TextTokenizer(files.folder, recipe).tokenize(GOLDEN_TEXTS))


def main(target: str) -> None:
    """The process: configuration on stdin, since it may hold credentials; vectors to the file `target`, atomically."""
    vectors = _compute(ModelConfig.model_validate_json(sys.stdin.buffer.read(), strict=False))
    path = Path(target)
    with path.with_suffix(".part").open("wb") as stream:
        np.save(stream, vectors, allow_pickle=False)
    os.replace(path.with_suffix(".part"), path)  # noqa: PTH105 - atomic


if __name__ == "__main__":
    os.nice(NICENESS)
    main(sys.argv[1])
    os._exit(0)  # torch's regular shutdown takes another second of CPU time
