"""A package that only an extra of this project installs, imported where it is needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from workers.errors import UsageError


def optional_package(name: str, extra: str, wanted_by: str) -> ModuleType:
    """The module `name`. `wanted_by`: the setting or command that needs it, as the error begins.

    Raises: UsageError: it is not installed; names the extra that brings it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"{wanted_by} needs a package that is not installed ({error}); pip install 'reembed[{extra}]'"
        ) from None
