"""pyarrow without pandas.

At the first pa.array() of a process pyarrow looks whether pandas is installed, and imports it: 0.3 s of CPU time and 48 MiB
that nothing here needs. It looks once, until to_pandas() is called.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder


class _NotFound(MetaPathFinder):
    def find_spec(self, fullname: str, path: object, target: object = None) -> None:  # noqa: ARG002 - the protocol's
        if fullname == "pandas":
            raise ModuleNotFoundError(f"{fullname} is not looked for here", name=fullname)


def without_pandas() -> None:
    """Have pyarrow look while pandas cannot be found. For processes of our own, before they have threads.

    Not for a library's functions: until to_pandas() was called, pyarrow reads a pandas Series as it reads an array, and NaN
    in it is no null.
    """
    import pyarrow as pa

    if "pandas" in sys.modules:
        return
    finder = _NotFound()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(finder)
