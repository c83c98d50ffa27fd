from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import ray

from coevo_ray.runtime import address as module
from coevo_ray.runtime.address import check_address


@contextmanager
def listener(answer: bytes | None) -> Iterator[str]:
    """Something that listens, and answers a connection with some bytes, or never."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []

        def serve() -> None:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            kept.append(connection)
            if answer is not None:
                connection.recv(100)
                connection.sendall(answer)
                connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.usefixtures("ray_local")
def test_a_cluster_is_known() -> None:
    check_address(ray.get_runtime_context().gcs_address)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"\x00\x00\x00"])
def test_something_else_that_listens_is_no_cluster(answer: bytes) -> None:
    with listener(answer) as address, pytest.raises(OSError, match="is not Ray"):
        check_address(address)


def test_who_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAIT_S", 0.5)
    started = time.monotonic()
    with listener(None) as address, pytest.raises(OSError, match="is not Ray"):
        check_address(address)
    assert time.monotonic() - started < 5


def test_http_2_is_enough() -> None:
    with listener(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])) as address:
        check_address(f"ray://{address}")


@pytest.mark.parametrize("address", ["myhost", "127.0.0.1", "ray://myhost", "myhost:", "myhost:http"])
def test_an_address_without_a_port_is_told_so(address: str) -> None:
    with pytest.raises(ValueError, match="names no port"):
        check_address(address)


def test_names_that_ray_resolves_are_left_to_it() -> None:
    check_address("auto")
    check_address("local")
