"""A real HTTP server of files on the loopback, which may cut, change or send on, and one with a hub's conventions."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Files:
    """What a server does. cuts: bytes after which each coming answer breaks; asked: path and range of each request."""

    content: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    etags: bool = True
    asked: list[tuple[str, str]] = field(default_factory=list)
    tokens: list[tuple[str, str]] = field(default_factory=list)
    address: str = ""

    def etag(self, path: str) -> str:
        return f'"{hashlib.sha256(self.content[path]).hexdigest()}"'


@contextmanager
def serving(files: Files) -> Iterator[Files]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            files.asked.append((path, self.headers.get("range", "")))
            files.tokens.append((path, self.headers.get("authorization", "")))
            if path in files.redirects:
                return self.answer(302, b"", {"location": files.redirects[path], **files.headers.get(path, {})})
            if path not in files.content:
                return self.answer(files.statuses.get(path, 404), b"no", files.headers.get(path, {}))
            body, extra = files.content[path], dict(files.headers.get(path, {}))
            if files.etags:
                extra.setdefault("etag", files.etag(path))
            match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
            same = self.headers.get("if-range", extra.get("etag")) == extra.get("etag")
            if match and same:
                start = int(match[1])
                extra["content-range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                return self.answer(206, body[start:], extra)
            return self.answer(files.statuses.get(path, 200), body, extra)

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if not {"content-length", "transfer-encoding"} & headers.keys():
                self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            cut = files.cuts.pop(0) if files.cuts and len(body) > 1000 else len(body)
            with suppress(OSError):
                self.wfile.write(body[:cut])
            if cut < len(body):
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    files.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def as_hub(
    files: Files, repository: str, inside: dict[str, bytes], *, card: dict[str, object], lfs: bool = True
) -> None:
    """Lets a server answer for a repository as the hub does: its listing, and its files at COMMIT and main."""
    siblings = []
    for name, body in inside.items():
        blob = hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()
        entry: dict[str, object] = {"rfilename": name, "size": len(body), "blobId": blob}
        sha256 = hashlib.sha256(body).hexdigest()
        if lfs and name.endswith(".homeroom"):
            entry["lfs"] = {"sha256": sha256, "size": len(body), "pointerSize": 133}
        siblings.append(entry)
        stored = f"/store/{sha256}"
        files.content[stored] = body
        for revision in (COMMIT, "main", "v2"):
            path = f"/{repository}/resolve/{revision}/{name}"
            files.redirects[path] = f"{files.address}{stored}"
            files.headers[path] = {
                "x-repo-commit": COMMIT,
                "x-linked-size": str(len(body)),
                "x-linked-etag": f'"{sha256}"',
                "etag": f'"{blob}"',
            }
    listing = {
        "id": repository,
        "modelId": repository,
        "sha": COMMIT,
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": ["homeroom", "license:apache-2.0"],
        "cardData": card,
        "siblings": siblings,
    }
    for revision in (COMMIT, "main", "v2"):
        files.content[f"/api/models/{repository}/revision/{revision}"] = json.dumps(listing).encode()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
