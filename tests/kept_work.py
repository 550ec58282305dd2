"""Work on the same bytes, done once for all tests: digests of weights, the proof of a vocabulary, `verify`'s reference.

The packaged model has 90 MB, which every planning and every replica digests (0.07 CPU seconds), and each of its tokenizers
proves the compiled WordPiece anew (as long again). `verify` loads transformers' model for the vectors of the golden texts
(a second or more), which the cache of replicas has. All are pure functions. Files are the same while device,
inode, size and times of change are. The functions themselves are tested in tests/workers/model/test_files.py, by what they
give for changed files, in tests/workers/model/wordpiece, which call the proof directly, and in tests/workers/replica; a
`verify` in a process of its own (tests/integration/test_embed.py) makes its reference.
"""

from __future__ import annotations

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


@contextmanager
def kept_work() -> Iterator[None]:
    digest, prove = workers.model.files._digest, workers.model.tokenizer.proven_vocabulary
    digests: dict[tuple[object, ...], str] = {}
    proven: dict[tuple[object, ...], Any] = {}

    def kept_digest(folder: Path, paths: list[Path]) -> str:
        stats = [(path.relative_to(folder), path.stat()) for path in sorted(set(paths))]
        if sum(stat.st_size for _, stat in stats) < LARGE:
            return digest(folder, paths)
        key = tuple((name, at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns) for name, at in stats)
        if key not in digests:
            digests[key] = digest(folder, paths)
        return digests[key]

    def kept_proof(text: str, tokenizer: Tokenizer, texts: Sequence[str], threads: int = 1) -> Any:
        key = (text, tuple(texts), threads)
        if key not in proven:
            proven[key] = prove(text, tokenizer, texts, threads)
        return proven[key]

    after_import("workers.replica.encoders", _with_kept_reference)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers.model.files, "_digest", kept_digest)
        patch.setattr(workers.model.tokenizer, "proven_vocabulary", kept_proof)
        yield


def _with_kept_reference(encoders: ModuleType) -> None:
    from workers.replica.golden_reference import kept_reference

    load = encoders.load_encoder

    def load_encoder(files: Any, recipe: Any, golden: Any, options: Any) -> Any:
        if options.reference is None:
            options = replace(options, reference=lambda: kept_reference(files, recipe, golden))
        return load(files, recipe, golden, options)

    encoders.load_encoder = load_encoder  # type: ignore[attr-defined]
