"""Put on PYTHONPATH: a replica's device fails once it has proved itself, and gives noise or NaN from then on.

$REEMBED_DEVICE is `noise` or `nan`. Python imports this file at start; it acts only where workers.replica is imported, and
changes nothing but the vectors that leave the encoder after the replica was settled.
"""

from __future__ import annotations

import dataclasses
import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

TARGET = "workers.replica"


class _Saboteur(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            self._loader = spec.loader
            spec.loader = self
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        settle = module.Replica.settle

        def settle_and_fail(replica: Any, settled: Any) -> None:
            settle(replica, settled)
            encode = replica._encoder.encode
            replica._encoder.encode = lambda tokens: _spoiled(encode(tokens))

        module.Replica.settle = settle_and_fail  # type: ignore[attr-defined]


def _spoiled(encoded: Any) -> Any:
    import numpy as np

    noise = np.random.default_rng().standard_normal(encoded.vectors.shape).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    if os.environ["REEMBED_DEVICE"] == "nan":
        noise[:] = np.nan
    return dataclasses.replace(encoded, vectors=noise)


if os.environ.get("REEMBED_DEVICE"):
    sys.meta_path.insert(0, _Saboteur())
