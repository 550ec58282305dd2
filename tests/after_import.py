"""Change a module the moment some process imports it: for the sitecustomize files that tests put on PYTHONPATH.

Python imports those at every start; nothing but the standard library may be needed here, and nothing else is touched.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType


class _Changer(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, target: str, change: Callable[[ModuleType], None]) -> None:
        self._target, self._change = target, change

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._target:
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
        self._change(module)


def after_import(target: str, change: Callable[[ModuleType], None]) -> None:
    """`change` is given the module `target` once it is loaded, before anybody else sees it."""
    sys.meta_path.insert(0, _Changer(target, change))
