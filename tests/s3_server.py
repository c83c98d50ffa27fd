"""An S3 server over a local folder: what pyarrow's client needs to read files, and PUT with conditions."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest


class S3Folder(ThreadingHTTPServer):
    """Serves `root`/BUCKET/KEY.

    Attributes:
        sent: bytes of objects that were sent.
        objects: keys that were asked for.
        lock: held while something is counted or written.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.sent, self.objects = root, 0, set[str]()
        self.lock = threading.Lock()

    def uri(self, path: str) -> str:
        """The URI of a path below the root."""
        return f"s3://{path}?region=us-east-1&scheme=http&endpoint_override=127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: S3Folder

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_PUT(self) -> None:
        """Writes an object if its conditions hold: else 412, or 404 where the one to replace is not there."""
        data = self.rfile.read(int(self.headers["Content-Length"]))
        file = self.server.root / unquote(urlsplit(self.path).path).strip("/")
        with self.server.lock:
            there = _etag(file.read_bytes()) if file.is_file() else None
            wanted = self.headers.get("If-Match")
            if (self.headers.get("If-None-Match") == "*" and there) or (wanted and there and wanted != there):
                self._empty(412)
            elif wanted and not there:
                self._empty(404)
            else:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
                self._empty(200, _etag(data))

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _answer(self, body: bool) -> None:
        name = unquote(urlsplit(self.path).path).strip("/")
        file = self.server.root / name
        if file.is_dir():  # a bucket: it is there, and is not listed
            self._empty(200)
            return
        if not file.is_file():
            self._empty(404)
            return
        data = file.read_bytes()
        first, last = self._range(len(data))
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(last + 1 - first))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("ETag", _etag(data))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if body:
            with self.server.lock:
                self.server.sent += last + 1 - first
                self.server.objects.add(name)
            self.wfile.write(data[first : last + 1])

    def _empty(self, status: int, etag: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        if etag is not None:
            self.send_header("ETag", etag)
        self.end_headers()

    def _range(self, size: int) -> tuple[int, int]:
        asked = self.headers.get("Range")
        if asked is None:
            return 0, size - 1
        first, _, last = asked.removeprefix("bytes=").partition("-")
        return int(first), min(size - 1, int(last or size - 1))


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


@contextmanager
def s3_server(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Folder]:
    """A running server, with credentials that any S3 client accepts."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server = S3Folder(root)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
