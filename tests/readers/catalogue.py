"""The readers of docs/readers.md: what each needs, and how the rows are taken from what its example leaves behind.

    READERS     by the heading of the reader's section
    example     the section's Python block

No package of a reader is imported here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "readers.md"
_SPARK = """
rows = [(row["id"], row["section"], list(row["embedding"])) for row in frame.collect()]
spark.stop()
"""


@dataclass(frozen=True)
class Reader:
    """One program in one version."""

    section: str  # heading in docs/readers.md
    package: str  # whose version is told
    needs: tuple[str, ...]  # requirements for pip
    rows: str  # statements that make `rows`, [(id, section, components)], of what the example leaves behind
    here: bool = False  # in the development environment, so the tests try it too


READERS = (
    Reader("pyarrow", "pyarrow", ("pyarrow==26.0.1", "numpy"), "rows = list(zip(*table.to_pydict().values()))", here=True),
    Reader("DuckDB", "duckdb", ("duckdb==2.0.0", "numpy"), "rows = documents.fetchall()", here=True),
    Reader("Polars", "polars", ("polars==2.1.0", "numpy"), "rows = frame.rows()", here=True),
    Reader(
        "pandas with pyarrow",
        "pandas",
        ("pandas==3.1.1", "pyarrow==26.0.1"),
        """
texts = documents["section"].astype(object).where(documents["section"].notna(), None)
rows = list(zip(documents["id"], texts, documents["embedding"].map(list)))
""",
        here=True,
    ),
    Reader(
        "pandas with fastparquet",
        "fastparquet",
        ("pandas<3", "fastparquet"),
        """
texts = documents["section"].astype(object).where(documents["section"].notna(), None)
rows = list(zip(documents["id"], texts, documents["embedding"].map(list)))
""",
    ),
    Reader("Spark", "pyspark", ("pyspark==3.5.*", "setuptools"), _SPARK),
    Reader("Spark", "pyspark", ("pyspark==4.0.*",), _SPARK),
    Reader("Spark", "pyspark", ("pyspark==4.1.*",), _SPARK),
    Reader("Spark", "pyspark", ("pyspark==4.3.*",), _SPARK),
    Reader(
        "ClickHouse",
        "chdb",
        ("chdb", "pyarrow==26.0.1", "pandas<3"),
        "rows = list(zip(*documents.select(['id', 'section', 'embedding']).to_pydict().values()))",
    ),
    Reader("Daft", "daft", ("daft",), "rows = list(zip(*frame.to_pydict().values()))"),
    Reader(
        "Ray Data",
        "ray",
        ("ray[data]==2.60.0",),
        "rows = [(row['id'], row['section'], row['embedding']) for row in rows]",
    ),
    Reader(
        "Hugging Face datasets",
        "datasets",
        ("datasets",),
        "rows = [(row['id'], row['section'], row['embedding']) for row in documents]",
    ),
    Reader(
        "LanceDB",
        "lancedb",
        ("lancedb", "pyarrow==26.0.1"),
        "rows = list(zip(*table.to_arrow().select(['id', 'section', 'embedding']).to_pydict().values()))",
    ),
)


def example(section: str) -> str:
    """The first Python block below that heading. Raises: ValueError: none is there."""
    text = PAGE.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    if block is None:
        raise ValueError(f"docs/readers.md has no example below {section!r}")
    return block[1]
