"""A real Label Studio server on a free loopback port, from an environment of its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.processes import Marked

BINARY = "COEVO_LABEL_STUDIO"
_DEFAULT = Path(__file__).parents[2] / ".venv-labelstudio" / "bin" / "label-studio"
_READY_S, _END_S = 400, 30  # it makes its database first: 25 s on a quiet machine


@dataclass(frozen=True)
class User:
    """Somebody with an account: an e-mail address, and a token of each kind."""

    email: str
    legacy_token: str
    access_token: str


@dataclass(frozen=True)
class Server:
    """A running server with two users of one organisation; `start` and `stop` are for tests of what happens without."""

    url: str
    anna: User
    ben: User
    start: Callable[[], None]
    stop: Callable[[], None]


@contextmanager
def label_studio(folder: Path) -> Iterator[Server]:
    """Runs the server while the context is open; afterwards no process of it is left."""
    binary = Path(os.environ.get(BINARY) or _DEFAULT)
    if not binary.is_file():
        raise AssertionError(
            f"there is no Label Studio at {binary}: run `make .venv-labelstudio`, or set {BINARY} to the label-studio "
            "command of an environment of its own"
        )
    port, token = _free_port(), os.urandom(20).hex()
    url = f"http://127.0.0.1:{port}"
    arguments = ["start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)]
    user = ["--username", "anna@example.org", "--password", os.urandom(12).hex(), "--user-token", token]
    # Its pins are not ours, it is to look for no newer version, and it writes nothing but here.
    environment = {"PYTHONPATH": "", "LATEST_VERSION_CHECK": "0", "HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    command = [str(binary), *arguments, *user, "--data-dir", str(folder / "data"), "--enable-legacy-api-token"]
    running: list[Marked] = []

    def start() -> None:
        running.append(Marked(command, folder, environment))
        running[-1].until(lambda: _healthy(url), _READY_S)

    def stop() -> None:
        while running:
            _end(running.pop())

    try:
        start()
        yield Server(url, _anna(url, token), _ben(url, token), start, stop)
    finally:
        stop()


def _end(server: Marked) -> None:
    server.process.terminate()
    if not server.gone(_END_S):
        server.end()
    server.process.wait(_END_S)
    assert not server.left(), "Label Studio left processes behind"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=10).is_success
    except httpx.HTTPError:
        return False


def _anna(url: str, token: str) -> User:
    made = httpx.post(f"{url}/api/token/", headers={"Authorization": f"Token {token}"}, timeout=60).raise_for_status()
    return User("anna@example.org", token, made.json()["token"])


def _ben(url: str, token: str) -> User:
    """Signs up with anna's invitation, as a person does in the browser."""
    header = {"Authorization": f"Token {token}"}
    page = httpx.get(f"{url}/api/invite", headers=header, timeout=60).raise_for_status().json()["invite_url"]
    with httpx.Client(base_url=url, follow_redirects=True, timeout=60) as browser:
        browser.get(page).raise_for_status()
        form = {"email": "ben@example.org", "password": os.urandom(12).hex()}
        form["csrfmiddlewaretoken"] = browser.cookies["csrftoken"]
        browser.post(page, data=form, headers={"Referer": url}).raise_for_status()
        legacy = browser.get("/api/current-user/token").raise_for_status().json()["token"]
        made = browser.post("/api/token/", headers={"X-CSRFToken": browser.cookies["csrftoken"]}).raise_for_status()
        return User("ben@example.org", legacy, made.json()["token"])
