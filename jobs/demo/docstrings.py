"""The demo's corpus: docstrings of the standard library and of the installed packages. No download is needed.

    gather  ->  documents: the standard library, then packages about vectors and models, then the rest, evenly
    write   ->  JSONL.gz objects with the columns id, text, package, kind, summary

It holds modules, classes and functions with a public name. Methods are left out: most of their docstrings are trivial.
Source files are parsed, never imported. A package's top-level modules come first. The same installation always gives the
same corpus. Knows nothing of models or runs.
"""

from __future__ import annotations

import ast
import gzip
import inspect
import io
import itertools
import json
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MIN_CHARACTERS = 40  # shorter docstrings ("Return x.") have nothing to search for
MAX_CHARACTERS = 400  # the opening of a docstring says what it is about; examples and parameter lists follow it
MOST_PER_PACKAGE = 150  # parsing stops there: large packages have tens of thousands
RELATED = {"fsspec", "numpy", "pyarrow", "ray", "scipy", "sentence_transformers", "sklearn", "tokenizers", "torch",
           "transformers"}  # fmt: skip
_SKIPPED = {"test", "tests", "testing", "idlelib", "lib2to3", "turtledemo", "pydoc_data", "encodings", "ensurepip",
            "distutils", "antigravity", "this", "site-packages", "vendor", "vendored", "third_party", "thirdparty_files",
            "pip", "setuptools", "pkg_resources"}  # fmt: skip
_Node = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Docstring:
    """One document. `kind`: module, class or function; `id`: the dotted name; `summary`: the first line."""

    id: str
    text: str
    package: str
    kind: str
    summary: str


def gather(limit: int) -> list[Docstring]:
    """At most `limit` docstrings, ordered by id; every text and every id is unique."""
    paths = sysconfig.get_paths()
    stdlib = _roots(Path(paths["stdlib"]))
    installed = sorted({root for name in ("purelib", "platlib") for root in _roots(Path(paths[name]))})
    related = [root for root in installed if root.stem in RELATED]
    groups = [stdlib, related, [root for root in installed if root not in related]]
    offered = itertools.chain.from_iterable(_round_robin([_offer(root) for root in group]) for group in groups)
    return sorted(itertools.islice(_distinct(offered), limit), key=lambda document: document.id)


def write(documents: Sequence[Docstring], folder: Path, objects: int) -> int:
    """Distribute the documents over `objects` files. An unchanged file is not rewritten. Returns the bytes on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    size = 0
    for number in range(objects):
        lines = (json.dumps(asdict(document), ensure_ascii=False) + "\n" for document in documents[number::objects])
        buffer = io.BytesIO()
        with gzip.GzipFile(
            "", "wb", fileobj=buffer, mtime=0
        ) as stream:  # no name and no time in the header: same text, same bytes
            stream.write("".join(lines).encode())
        path = folder / f"docstrings-{number}.jsonl.gz"
        if not path.exists() or path.read_bytes() != buffer.getvalue():
            path.write_bytes(buffer.getvalue())
        size += path.stat().st_size
    return size


def _roots(folder: Path) -> list[Path]:
    """The public packages and single-file modules of a folder."""
    modules = [path for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    return sorted(path for path in modules if not path.name.startswith("_") and path.stem not in _SKIPPED)


def _offer(root: Path) -> Iterator[Docstring]:
    return itertools.islice(_docstrings(root), MOST_PER_PACKAGE)


def _docstrings(root: Path) -> Iterator[Docstring]:
    """The public docstrings of one package, top-level modules first."""
    for path in _sources(root):
        dotted = ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)  # invalid escape sequences in their sources
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # sources for another Python version, or templates
            continue
        yield from _documented(tree, dotted, root.stem, "module")


def _sources(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    public = []
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).parts
        if not any(part in _SKIPPED or (part.startswith("_") and part != "__init__.py") for part in parts):
            public.append((len(parts), parts, path))
    return [path for _, _, path in sorted(public)]


def _documented(node: _Node, name: str, package: str, kind: str) -> Iterator[Docstring]:
    text = inspect.cleandoc(ast.get_docstring(node, clean=False) or "")
    if len(text) >= MIN_CHARACTERS:
        yield Docstring(name, _opening(text), package, kind, text.partition("\n")[0][:120])
    for child in node.body if kind != "function" else ():
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from _documented(child, f"{name}.{child.name}", package, "class")
        elif (
            isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and kind == "module" and not child.name.startswith("_")
        ):
            yield from _documented(child, f"{name}.{child.name}", package, "function")


def _opening(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= MAX_CHARACTERS else flat[:MAX_CHARACTERS].rpartition(" ")[0]


def _round_robin(offers: Sequence[Iterator[Docstring]]) -> Iterator[Docstring]:
    """One document from each in turn, until all are exhausted."""
    waiting = list(offers)
    while waiting:
        for offer in tuple(waiting):
            document = next(offer, None)
            if document is None:
                waiting.remove(offer)
            else:
                yield document


def _distinct(documents: Iterator[Docstring]) -> Iterator[Docstring]:
    """Skip repeated texts and ids (re-exports, overloads, conditional definitions)."""
    seen: set[str] = set()
    for document in documents:
        keys = {f"id {document.id}", f"text {document.text}"}
        if not keys & seen:
            seen |= keys
            yield document
