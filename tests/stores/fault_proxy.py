"""A proxy in front of an HTTP server that breaks what passes through it, as a rule says."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, TypeVar

_HOP = {"connection", "keep-alive", "transfer-encoding"}


@dataclass(frozen=True)
class Answer:
    """An answer that the server never gave."""

    status: int
    code: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """As S3 words an error."""
        text = f"<Error><Code>{self.code}</Code><Message>made up by a test</Message></Error>"
        return text.encode() if self.code else b""


# "reset" before the server hears of it, "lost" after it did, "flip" a byte of what is sent, "hang" until the end; what
# can be called is waited for, then the request is passed on.
Fault = Answer | Literal["reset", "lost", "flip", "hang"] | Callable[[], object] | None
SLOW_DOWN, BROKEN = Answer(503, "SlowDown"), Answer(500, "InternalError")


@dataclass(frozen=True)
class Request:
    """One request: its number from 0, its method and its path with the query."""

    number: int
    method: str
    path: str


class FaultProxy(ThreadingHTTPServer):
    """Listens on a port of its own; each request is passed on unless the rule says otherwise.

    Attributes:
        rule: fault of a request; called by several threads, one at a time.
        delay_s: of each request.
        seen: requests so far.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        address: str,
        rule: Callable[[Request], Fault] = lambda request: None,
        handler: type[Handler] | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", 0), handler or Handler)
        self.behind, self.rule, self.delay_s = address, rule, 0.0
        self.seen: list[Request] = []
        self.ended = threading.Event()
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        """Its host and port."""
        return f"127.0.0.1:{self.server_port}"

    def fault(self, method: str, path: str) -> Fault:
        """Notes a request, and says what goes wrong with it."""
        with self._lock:
            request = Request(len(self.seen), method, path)
            self.seen.append(request)
            return self.rule(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections that end are what this is for."""


class Handler(BaseHTTPRequestHandler):
    """One connection of a `FaultProxy`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: the second would wait 40 ms for an acknowledgement
    server: FaultProxy

    def _pass(self) -> None:
        body = self._body()
        fault = self.server.fault(self.command, self.path)
        time.sleep(self.server.delay_s)
        if callable(fault):
            fault()
        if fault == "hang":
            self.server.ended.wait()
        if fault in ("hang", "reset"):
            self._reset()
            return
        if isinstance(fault, Answer):
            self._answer(fault.status, {"Content-Type": "application/xml", **fault.headers}, fault.body())
            return
        if fault == "flip" and body:
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        status, headers, content = self._ask(body)
        if fault == "lost":
            self._reset()
            return
        self._answer(status, headers, content)

    def __getattr__(self, name: str) -> Callable[[], None]:
        """The standard library asks for do_GET, do_PUT, ...: all are passed on alike."""
        if name.startswith("do_"):
            return self._pass
        raise AttributeError(name)

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _body(self) -> bytes:
        """As it was sent: chunks of HTTP are joined, those within the content stay."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.server.behind, timeout=120)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {*_HOP, "content-length", "expect"}:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        except (OSError, http.client.HTTPException):
            self._reset()  # the server behind is gone
            raise
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(status)
        given = {name: value for name, value in headers.items() if name.lower() not in _HOP}
        if self.command != "HEAD" or "Content-Length" not in given:
            given["Content-Length"] = str(len(content))
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _reset(self) -> None:
        """Ends the connection with RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


@contextmanager
def fault_proxy(address: str, rule: Callable[[Request], Fault] = lambda request: None) -> Iterator[FaultProxy]:
    """A proxy that runs within a block.

    Args:
        address: host and port of the server behind it.
        rule: fault of a request.
    """
    with serving(FaultProxy(address, rule)) as proxy:
        yield proxy


ProxyT = TypeVar("ProxyT", bound=FaultProxy)


@contextmanager
def serving(proxy: ProxyT) -> Iterator[ProxyT]:
    """A proxy that takes requests within a block."""
    thread = threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.ended.set()
        proxy.shutdown()
        proxy.server_close()
        thread.join()
