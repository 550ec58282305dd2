"""Work on the same bytes, done once for all tests: digests of weights, the proof of a vocabulary, golden texts.

The packaged model has 90 MB, which every planning and every replica digests (0.07 CPU seconds), and each of its tokenizers
proves the compiled WordPiece anew (as long again). Each of its encoders asks transformers' model for the hidden states of
the golden texts (a second); `verify` does so, too, and has their vectors from the cache of replicas here. All are pure
functions. Files are the same while device, inode, size and times of change are. The functions themselves are tested in
tests/workers/model/test_files.py, by what they give for changed files, in tests/workers/model/wordpiece, which call the
proof directly, and in tests/workers/replica; a `verify` in a process of its own (tests/integration/test_embed.py) makes its
reference, and so does the process of tests/workers/replica/test_golden_reference.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tokenizers import Tokenizer

import workers.model.files
import workers.model.tokenizer
from tests.after_import import after_import

LARGE = 1 << 20  # bytes; less is digested in no time
DECIDE = ("config.json", "tokenizer*.json", "special_tokens_map.json", "vocab.txt", "*.safetensors")  # the hidden states


@contextmanager
def kept_work() -> Iterator[None]:
    digest, prove = workers.model.files._digest, workers.model.tokenizer.proven_vocabulary
    digests: dict[tuple[object, ...], str] = {}
    proven: dict[tuple[object, ...], Any] = {}

    def kept_digest(folder: Path, paths: list[Path]) -> str:
        files = sorted(set(paths))
        if sum(path.stat().st_size for path in files) < LARGE:
            return digest(folder, paths)
        key = tuple((path.relative_to(folder), *_identity(path)) for path in files)
        if key not in digests:
            digests[key] = digest(folder, paths)
        return digests[key]

    def kept_proof(text: str, tokenizer: Tokenizer, texts: Sequence[str], threads: int = 1) -> Any:
        key = (text, tuple(texts), threads)
        if key not in proven:
            proven[key] = prove(text, tokenizer, texts, threads)
        return proven[key]

    after_import("workers.engine.encoder", _with_kept_states)
    after_import("workers.replica.encoders", _with_kept_reference)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers.model.files, "_digest", kept_digest)
        patch.setattr(workers.model.tokenizer, "proven_vocabulary", kept_proof)
        yield


def _identity(path: Path) -> tuple[int, ...]:
    at = path.stat()
    return at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns


def _with_kept_states(encoder: ModuleType) -> None:
    """reference_vectors() of a large model that lies in files: its forward passes are kept, what follows them is not."""
    self_check = sys.modules["workers.engine.self_check"]
    compute, padded = self_check.reference_vectors, self_check.Padded
    kept: dict[object, Any] = {}

    class Kept:
        """As Padded of one text at a time; the model is loaded for what is not kept."""

        name, layout = self_check.Layout.SINGLE.value, self_check.Layout.SINGLE

        def __init__(self, checkpoint: Any, key: object) -> None:
            self._checkpoint, self._key = checkpoint, key

        def __call__(self, batch: Any, *, layers: int) -> Any:
            key = (self._key, layers, batch.ids_T.numpy().tobytes())
            if key not in kept:
                model, types = self._checkpoint.transformer(), self_check._token_types(self._checkpoint)
                kept[key] = padded(model, types, self.layout)(batch, layers=layers)
            return kept[key]

    def reference_vectors(checkpoint: Any, golden: Any, embed: Any) -> Any:
        files = sorted(path for pattern in DECIDE for path in checkpoint._folder.glob(pattern))
        if checkpoint._model is not None or sum(path.stat().st_size for path in files) < LARGE:
            return compute(checkpoint, golden, embed)
        key = tuple((path.name, path.read_bytes() if path.stat().st_size < LARGE else _identity(path)) for path in files)
        return embed(Kept(checkpoint, (key, checkpoint.with_pooler)), golden, self_check._CPU)

    for module in (self_check, encoder):
        module.reference_vectors = reference_vectors  # type: ignore[attr-defined]


def _with_kept_reference(encoders: ModuleType) -> None:
    from workers.replica.golden_reference import kept_reference

    load = encoders.load_encoder

    def load_encoder(files: Any, recipe: Any, golden: Any, options: Any) -> Any:
        if options.reference is None:
            options = replace(options, reference=lambda: kept_reference(files, recipe, golden))
        return load(files, recipe, golden, options)

    encoders.load_encoder = load_encoder  # type: ignore[attr-defined]
