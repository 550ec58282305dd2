"""The demo's corpus: real, the same every time, no text twice."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import pytest

from jobs.demo.docstrings import MAX_CHARACTERS, MIN_CHARACTERS, _docstrings, gather, write

SOURCE = '''
"""A module whose docstring is long enough to be worth searching for."""

def public():
    """A function whose docstring is long enough to be searched.

    And goes on.
    """

def _private():
    """A private function is left out, however long its docstring is."""

def short():
    """Too short."""

class Shelf:
    """A class whose docstring is long enough to be worth searching for."""

    def method(self):
        """A method is left out, there are too many of them in the wild."""

    class Board:
        """A class within a class is as public as the one around it is."""
'''


def test_public_modules_classes_and_functions(tmp_path: Path) -> None:
    package = tmp_path / "box"
    (package / "tests").mkdir(parents=True)
    for name in ("__init__.py", "_hidden.py", "tests/test_box.py", "lid.py"):
        (package / name).write_text(SOURCE)
    (package / "broken.py").write_text("def (:")
    found = list(_docstrings(package))
    names = ["", ".public", ".Shelf", ".Shelf.Board"]
    assert [document.id for document in found] == [f"box{name}" for name in names] + [f"box.lid{name}" for name in names]
    assert [document.kind for document in found[:4]] == ["module", "function", "class", "class"]
    assert found[1].text == "A function whose docstring is long enough to be searched. And goes on."
    assert found[1].summary == "A function whose docstring is long enough to be searched."
    assert {document.package for document in found} == {"box"}


@pytest.mark.slow
def test_gathers_real_documents_the_same_way_twice() -> None:
    documents = gather(150)
    assert (
        len(documents)
        == len({document.id for document in documents})
        == len({document.text for document in documents})
        == 150
    )
    assert documents == gather(150)
    assert all(document.text and len(document.text) <= MAX_CHARACTERS for document in documents)
    assert sum(len(document.text) >= MIN_CHARACTERS for document in documents) > 145  # a word boundary may cut some short
    assert {"gzip", "argparse", "json"} <= {document.package for document in documents}


@pytest.mark.slow
def test_writes_every_document_once_and_the_same_bytes_again(tmp_path: Path) -> None:
    documents = gather(50)
    size = write(documents, tmp_path, 4)
    files = sorted(tmp_path.iterdir())
    assert size == sum(path.stat().st_size for path in files)
    rows = [json.loads(line) for path in files for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert sorted(row["id"] for row in rows) == [document.id for document in documents]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]
    write(documents, tmp_path, 4)
    assert before == [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]  # so that a second demo is a no-op
    write(documents[:10], tmp_path, 4)
    changed = [
        now != then for (now, then) in zip((path.read_bytes() for path in files), (data for data, _ in before), strict=True)
    ]
    assert all(changed), list(itertools.compress(files, changed))
