"""Put on PYTHONPATH: a replica's device fails once it has proved itself, and gives noise or NaN from then on.

$REEMBED_DEVICE is `noise` or `nan`. Python imports this file at start; it acts only where
workers.replica.replica is imported, and changes nothing but the vectors that leave the encoder of a ready replica.
"""

from __future__ import annotations

import dataclasses
import os
from types import ModuleType
from typing import Any

from tests.after_import import after_import


def _fail_once_configured(module: ModuleType) -> None:
    configure = module.Replica.configure

    def configure_and_fail(replica: Any, resolved: Any) -> None:
        configure(replica, resolved)
        encode = replica._encoder.encode
        replica._encoder.encode = lambda tokens: _spoiled(encode(tokens))

    module.Replica.configure = configure_and_fail  # type: ignore[attr-defined]


def _spoiled(encoded: Any) -> Any:
    import numpy as np

    noise = np.random.default_rng().standard_normal(encoded.vectors.shape).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    if os.environ["REEMBED_DEVICE"] == "nan":
        noise[:] = np.nan
    return dataclasses.replace(encoded, vectors=noise)


if os.environ.get("REEMBED_DEVICE"):
    after_import("workers.replica.replica", _fail_once_configured)
