"""Planted secrets, and the search for them in everything that a run leaves behind or shows while it runs.

    Secret.forms        plain, URL-encoded, base64 (at each of its three alignments), hex: how they might be written
    Hunt.text / tree / store / processes / ray_metadata / memory      each looks at one kind of place; `found` says where

A search that cannot find proves nothing: the tests plant a secret in each kind of place and see it found.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import os
import secrets
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pyarrow.parquet as pq

LARGEST_BYTES = 64 << 20  # of a file that is looked into


@dataclass(frozen=True)
class Secret:
    name: str
    value: str

    @classmethod
    def drawn(cls, name: str) -> Secret:
        """Like a cloud's key: with characters that look otherwise in a URL."""
        return cls(name, f"{secrets.token_hex(9)}/{secrets.token_hex(5)}+{secrets.token_hex(5)}=")

    @property
    def in_url(self) -> str:
        """As it is written between `//` and `@`."""
        return quote(self.value, safe="")

    @cached_property
    def forms(self) -> dict[bytes, str]:
        """Bytes to look for -> what form they are."""
        plain = self.value.encode()
        found = {
            plain: "plain",
            quote(self.value, safe="").encode(): "URL-encoded",
            quote(self.value).encode(): "URL-encoded",
        }
        found[quote(quote(self.value, safe=""), safe="").encode()] = "URL-encoded twice"
        for shift in range(3):  # wherever it stands in what was encoded: the characters that it alone decides
            for encode in (base64.b64encode, base64.urlsafe_b64encode):
                coded = encode(bytes(shift) + plain)
                found[coded[-(-shift * 8 // 6) : (shift + len(plain)) * 8 // 6]] = "base64"
        found[plain.hex().encode()] = "hex"
        found[self.value.encode("utf-16-le")] = "UTF-16"
        return found


@dataclass
class Hunt:
    """Where which secret was found, as sentences."""

    secrets: Iterable[Secret]
    found: list[str] = field(default_factory=list)
    looked_at: int = 0  # places

    def bytes(self, data: bytes, where: str) -> None:
        self.looked_at += 1
        for secret in self.secrets:
            for form, kind in secret.forms.items():
                at = data.find(form)
                if at >= 0:
                    around = data[max(0, at - 60) : at].decode("utf-8", "replace")
                    self.found.append(f"{secret.name} ({kind}) in {where}, after {around!r}")

    def text(self, text: str, where: str) -> None:
        self.bytes(text.encode("utf-8", "surrogatepass"), where)

    def file(self, name: str, data: bytes, where: str) -> None:
        """As it is, and what is packed inside."""
        self.bytes(data, where)
        for unpacked in _unpacked(name, data):
            self.bytes(unpacked, f"{where} (unpacked)")

    def tree(self, folder: Path) -> None:
        """Names and contents of all files below, and what links point to."""
        for path in sorted(folder.rglob("*")):
            self.text(str(path), "a file's name")
            if path.is_symlink():
                self.text(str(path.readlink()), f"the link {path}")
            elif path.is_file() and path.stat().st_size <= LARGEST_BYTES:
                self.file(path.name, path.read_bytes(), str(path))

    def store(self, fs: Any, prefix: str) -> None:
        """Every object below a prefix, with its name and its metadata."""
        fs.invalidate_cache()
        for path in fs.find(prefix):
            self.text(path, "an object's name")
            self.text(str(fs.info(path)), f"what is told of {path}")
            self.file(path, fs.cat_file(path), path)

    def processes(self, family: Iterable[psutil.Process]) -> list[str]:
        """Command lines and titles, as anybody on the machine sees them."""
        lines = []
        for process in family:
            try:
                lines.append(" ".join([process.name(), *process.cmdline()]))
            except psutil.Error:
                continue
        for line in lines:
            self.text(line, f"a command line: {line[:80]}")
        return lines

    def memory(self, pid: int, where: str) -> None:
        """All that a process holds in memory but the environment and arguments it was started with. Needs root."""
        for data in _memory(pid):
            self.bytes(data, f"memory of {where}")

    def ray_metadata(self, gcs_address: str) -> int:
        """Jobs, actors, workers and the key-value store of a cluster, as its own records have them; bytes looked at."""
        code = "import sys; from tests.security.ray_records import dump; dump(sys.argv[1])"
        done = subprocess.run(
            [sys.executable, "-c", code, gcs_address], capture_output=True, check=True, timeout=400,
            env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        )  # fmt: skip
        self.bytes(done.stdout, "Ray's metadata")
        return len(done.stdout)


def _unpacked(name: str, data: bytes) -> Iterator[bytes]:
    if name.endswith(".parquet"):
        file = pq.ParquetFile(io.BytesIO(data))
        yield str(file.metadata.metadata).encode()
        for row in file.read().to_pylist():
            row.pop("embedding", None)
            yield str(row).encode()
    elif data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                yield archive.read(member)
    elif data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)
    elif data[:3] == b"BZh":
        yield bz2.decompress(data)


def _memory(pid: int) -> Iterator[bytes]:
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *rest = line.split()
            if not rights.startswith("rw") or rest[-1:] == ["[stack]"]:  # the stack begins with the environment
                continue
            start, stop = (int(part, 16) for part in span.split("-"))
            try:
                memory.seek(start)
                yield memory.read(min(stop - start, LARGEST_BYTES))
            except (OSError, ValueError, OverflowError):
                continue
