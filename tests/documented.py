"""Code of the documentation, as it stands there, for tests that rely on it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

PAGE = Path(__file__).resolve().parent.parent / "docs" / "changes.md"


def _names(page: Path) -> dict[str, Any]:
    """What the page's one Python example defines."""
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(page), "exec"), names)
    return names


apply_changes: Callable[[pa.Table, Sequence[str]], pa.Table] = _names(PAGE)["apply_changes"]
"""The rows of a snapshot and the files of a change set -> the rows of the next snapshot."""
