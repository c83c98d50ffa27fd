"""Checks an address before Ray connects to it: Ray itself would try for minutes, and not say why."""

from __future__ import annotations

import os
import socket

_WAIT_S = 10.0
# The opening of HTTP/2, which both GCS and Ray Client speak: the preface and an empty SETTINGS frame (RFC 9113, 3.4).
_OPENING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4
_NAMES = {"auto", "local"}


def check_address(address: str) -> None:
    """Fails within seconds if no Ray listens at an address.

    Args:
        address: host:port, ray://host:port, or a name that Ray resolves itself (auto, local).

    Raises:
        ValueError: it is no address.
        OSError: no connection, or what listens there is not Ray.
    """
    if address in _NAMES:
        return
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError(f"{address!r} names no port: give host:port (6379 unless it was started with another)")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_WAIT_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return  # it answers only to a certificate
        connection.sendall(_OPENING)
        answer = _read(connection, 9)
    if len(answer) < 9 or answer[3] != _SETTINGS:
        raise OSError(f"the server at {address} is not Ray")


def _read(connection: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer where the other side ends or says nothing for long."""
    found = b""
    try:
        while len(found) < size and (more := connection.recv(size - len(found))):
            found += more
    except (TimeoutError, ConnectionError):
        pass
    return found
