"""Loads the optional extensions in C, for calls by ctypes. Installing builds them where it finds a C compiler."""

from __future__ import annotations

import ctypes
import importlib.util


def load(name: str) -> ctypes.CDLL:
    """The extension of that module name, as in pyproject.toml. Raises: OSError: not built, or not for this machine."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise OSError("not built; install with a C compiler at hand")
    return ctypes.CDLL(spec.origin)
