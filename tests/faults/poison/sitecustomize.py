"""Put on PYTHONPATH: whoever tokenises a text that holds $REEMBED_POISON dies on the spot, or raises.

$REEMBED_POISON_HOW is `kill` or `raise`. Python imports this file at start; it acts only where workers.tokenization is
imported, and changes nothing but that one method.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import signal
import sys
from collections.abc import Sequence
from types import ModuleType

TARGET = "workers.tokenization"


class _Poisoner(importlib.abc.MetaPathFinder, importlib.abc.Loader):
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
        tokenize = module.TextTokenizer.tokenize
        poison = os.environ["REEMBED_POISON"]

        def poisoned(tokenizer: object, texts: Sequence[str]) -> object:
            if any(poison in text for text in texts):
                if os.environ["REEMBED_POISON_HOW"] == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise ArithmeticError("the poison works")
            return tokenize(tokenizer, texts)

        module.TextTokenizer.tokenize = poisoned  # type: ignore[attr-defined]


if os.environ.get("REEMBED_POISON"):
    sys.meta_path.insert(0, _Poisoner())
