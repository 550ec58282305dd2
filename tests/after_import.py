"""Change a module the moment some process imports it: for the sitecustomize files that tests put on PYTHONPATH.

Python imports those at every start; nothing but the standard library may be needed here, and nothing else is touched.
A target that does not exist ends the process: a hook by string that a rename has orphaned would patch nothing, and the
test that needs it would pass without its fault.
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
    """`change` is given the module `target` once it is loaded, before anybody else sees it; at once if it is loaded.

    Raises:
        SystemExit: there is no such module. `site` swallows every Exception of a sitecustomize file.
    """
    if not _exists(target):
        raise SystemExit(f"after_import: there is no module {target}; the hook would change nothing")
    if loaded := sys.modules.get(target):
        change(loaded)
    else:
        sys.meta_path.insert(0, _Changer(target, change))


def replace(module: ModuleType, name: str, value: object) -> None:
    """Replace what `module` has under `name`. Raises: SystemExit: it has no such name."""
    if not hasattr(module, name):
        raise SystemExit(f"after_import: {module.__name__} has no {name}; the hook would change nothing")
    setattr(module, name, value)


def _exists(target: str) -> bool:
    """Whether `target` can be imported, found without importing its parents."""
    path: Sequence[str] | None = None
    parts = target.split(".")
    for end in range(1, len(parts) + 1):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[:end]), path)
        if spec is None:
            return False
        path = spec.submodule_search_locations
    return True
