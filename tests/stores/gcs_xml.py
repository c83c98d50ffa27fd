"""What fake-gcs-server lacks of Google's XML protocol, which obstore speaks: objects by JSON requests to the server.

Conditions on generations are the server's own.
"""

from __future__ import annotations

import http.client
import json
from urllib.parse import quote, unquote, urlsplit

from tests.stores.fault_proxy import FaultProxy, Handler

_END = "the-end-of-a-part"
_JSON = ("storage", "upload", "download", "resumable", "batch", "_internal")


class XmlGate(FaultProxy):
    """Passes JSON requests on as they are, and turns `GET` and `PUT /BUCKET/KEY` into such."""

    def __init__(self, address: str) -> None:
        super().__init__(address, handler=_Handler)


class _Handler(Handler):
    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        bucket, _, key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        if bucket in _JSON or not key:
            return super()._ask(body)
        name = quote(key, safe="")
        if self.command == "GET":
            return self._json("GET", f"/storage/v1/b/{bucket}/o/{name}?alt=media", {}, b"")
        wanted = self.headers.get("x-goog-if-generation-match")
        condition = "" if wanted is None else f"&ifGenerationMatch={wanted}"
        # Of its ways to upload this is the one that looks at conditions.
        path = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart{condition}"
        status, _, _ = self._json(
            "POST", path, {"Content-Type": f"multipart/related; boundary={_END}"}, _parts(key, body)
        )
        if status != 200:
            return status, {}, b""
        _, now, there = self._json("GET", f"/storage/v1/b/{bucket}/o/{name}?alt=media", {}, b"")
        if there != body:
            return 412, {}, b""  # another one was faster with the next version
        return 200, {name: now[name] for name in now if name.lower() in ("etag", "x-goog-generation")}, b""

    def _json(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.server.behind, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()


def _parts(key: str, body: bytes) -> bytes:
    """An object's name and content in one request."""
    about = b"--%b\r\nContent-Type: application/json\r\n\r\n%b\r\n" % (
        _END.encode(),
        json.dumps({"name": key}).encode(),
    )
    content = b"--%b\r\nContent-Type: application/octet-stream\r\n\r\n%b\r\n" % (_END.encode(), body)
    return about + content + b"--%b--\r\n" % _END.encode()
