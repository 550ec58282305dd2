"""A hub that stands for huggingface.co: one repository of a data set, its commits, and the four requests of reading it.

Only the server is a stand-in; the client is huggingface_hub's own. It keeps what was asked for in `asked`.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_REPO = "owner/pages"
_PATH = re.compile(rf"/(api/)?datasets/{_REPO}(?:/(revision|tree|paths-info|resolve)/([^/]+)(?:/(.*))?)?")


class FakeHub:
    """Commits are dicts of path -> bytes; `refs` names some of them."""

    def __init__(self) -> None:
        self.commits: dict[str, Mapping[str, bytes]] = {}
        self.refs: dict[str, str] = {}
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.uri = f"hf://datasets/{_REPO}"

    def commit(self, files: Mapping[str, bytes], ref: str = "main") -> str:
        sha = hashlib.sha1(f"{len(self.commits)}".encode(), usedforsecurity=False).hexdigest()
        self.commits[sha] = dict(files)
        self.refs[ref] = sha
        return sha

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        """Status and content."""
        self.asked.append(f"{method} {unquote(urlsplit(target).path)}")
        found = _PATH.fullmatch(unquote(urlsplit(target).path))
        if found is None:
            return 404, b"{}"
        _, what, revision, path = found.groups()
        sha = self.refs.get(revision or "main", revision)
        if sha not in self.commits:
            return 404, b"{}"
        files = self.commits[sha]
        match what:
            case None | "revision":
                return 200, json.dumps({"id": _REPO, "sha": sha}).encode()
            case "tree":
                return 200, json.dumps(_tree(files, path or "", "recursive" in parse_qs(urlsplit(target).query))).encode()
            case "paths-info":
                wanted = parse_qs(body.decode()).get("paths", []) if not body.startswith(b"{") else json.loads(body)["paths"]
                return 200, json.dumps([entry for entry in _tree(files, "", True) if entry["path"] in wanted]).encode()
            case _:
                return (200, files[path]) if path in files else (404, b"{}")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def _respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, content = hub.answer(self.command, self.path, body)
                wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                if status == 200 and wanted:
                    last = int(wanted[2] or len(content) - 1)
                    status, content = 206, content[int(wanted[1]) : last + 1]
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                if status == 404:
                    of_repo = "RevisionNotFound" if "/revision/" in self.path else "EntryNotFound"
                    self.send_header("X-Error-Code", of_repo if _REPO in self.path else "RepoNotFound")
                self.end_headers()
                self.wfile.write(content if self.command != "HEAD" else b"")

            do_GET = do_POST = do_HEAD = _respond

            def log_message(self, *_: Any) -> None:
                """Nothing is logged."""

        return Handler


def _tree(files: Mapping[str, bytes], below: str, recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{below}/" if below else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, content in files.items():
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts)):
            folder = prefix + "/".join(parts[:depth])
            if recursive or depth == 1:
                entries[folder] = {"type": "directory", "path": folder, "oid": _oid(folder.encode())}
        if recursive or len(parts) == 1:
            entries[path] = {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
    return list(entries.values())


def _oid(content: bytes) -> str:
    """Git's name of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
