"""Put on PYTHONPATH: whoever tokenises a text that holds $REEMBED_POISON dies on the spot, or raises.

$REEMBED_POISON_HOW is `kill` or `raise`. Python imports this file at start; it acts only where workers.model.tokenizer is
imported, and changes nothing but that one method.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from types import ModuleType

from tests.after_import import after_import


def _poison(module: ModuleType) -> None:
    tokenize = module.TextTokenizer.tokenize
    poison = os.environ["REEMBED_POISON"]

    def poisoned(tokenizer: object, texts: Sequence[str]) -> object:
        if any(poison in str(text) for text in texts):  # strings, or cells of an Arrow column
            if os.environ["REEMBED_POISON_HOW"] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ArithmeticError("the poison works")
        return tokenize(tokenizer, texts)

    module.TextTokenizer.tokenize = poisoned  # type: ignore[attr-defined]


if os.environ.get("REEMBED_POISON"):
    after_import("workers.model.tokenizer", _poison)
