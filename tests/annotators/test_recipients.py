"""The token of Label Studio goes only to servers that somebody on this machine named; nothing else learns of it."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jwt
import pytest

import coevo_ray as package
from coevo_ray.annotators import label_studio_recipients as module
from coevo_ray.annotators.label_studio_connection import TOKEN, Connection
from coevo_ray.annotators.label_studio_recipients import ADDRESS, allow, require, same_server
from coevo_ray.annotators.opening import open_stored
from coevo_ray.config import GateSettings, make_config
from coevo_ray.errors import CoevoError, UsageError
from coevo_ray.pipelines.gate.session import GateSession
from tests.annotators.pools import make_pool
from tests.command_line import Command
from tests.pipelines.gate.helpers import inputs

SECRET = "0123456789abcdef-secret"
THEIRS = """
from pathlib import Path
from typing import Literal
from coevo_ray.annotators.opening import register_annotator
from coevo_ray.config.annotators import BaseAnnotatorSettings
from tests.annotators.all_ones import AllOnes
Path(__file__).with_name("ran").touch()
class Settings(BaseAnnotatorSettings):
    kind: Literal["{name}:A"] = "{name}:A"
    patience: int = 3
register_annotator(Settings, lambda settings, pool, names: AllOnes())
"""


class Server(ThreadingHTTPServer):
    """Records the requests that reach it, and redirects or answers that there is nothing."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.to, self.status = "", 307
        self.seen: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        self.server.seen.append(f"{self.command} {self.path}\n{self.headers}\n{body}")
        self.send_response(self.server.status if self.server.to else 404)
        if self.server.to:
            self.send_header("location", self.server.to + self.path)
        content = b'{"detail": "nothing here"}'
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Serves in the block."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    with running(Server()) as one, running(Server()) as other:
        yield one, other


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine on which no server was named."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(ADDRESS, raising=False)
    monkeypatch.setenv(TOKEN, SECRET)
    monkeypatch.setattr(module, "_named", set())
    return tmp_path / "config/coevo-ray/label_studio_servers"


def forgotten() -> None:
    """As in another process."""
    module._named.clear()


def ask(url: str) -> CoevoError:
    with pytest.raises(CoevoError) as caught:
        Connection(url, attempts=1).call(lambda client: list(client.projects.list(title="x")))
    return caught.value


def test_a_server_is_named_once_on_a_machine(nobody: Path) -> None:
    with pytest.raises(UsageError) as caught:
        require("https://label.example.org", None, "/gate")
    assert "the gate /gate names the Label Studio server https://label.example.org" in caught.value.cause
    assert "--url https://label.example.org" in caught.value.remedy and SECRET not in str(caught.value)
    with pytest.raises(UsageError, match=r"at https://label\.example\.org, not at https://evil\.example"):
        require("https://label.example.org", "https://evil.example", "/gate")
    require("https://label.example.org", "https://Label.example.org:443/", "/gate")
    forgotten()
    require("https://label.example.org/", None, "/gate")
    for other in (
        "http://label.example.org",
        "https://label.example.org:444",
        "https://label.example.org.evil.example",
    ):
        with pytest.raises(UsageError):
            require(other, None, "/gate")
    assert nobody.read_text() == "https://label.example.org:443\n" and nobody.stat().st_mode & 0o077 == 0


def test_where_no_file_can_be_written_this_process_knows(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody.parent.parent.write_text("a file in the place of the folder")
    allow("http://one")
    require("http://one", None, "/gate")
    forgotten()
    with pytest.raises(UsageError):
        require("http://one", None, "/gate")
    monkeypatch.setenv(ADDRESS, "http://one/")
    require("http://one", None, "/gate")


def test_one_server_and_another() -> None:
    assert same_server("http://x:80/a", "http://X/b") and same_server("http://x", "https://x/b")
    for one, other in (
        ("https://x", "http://x"),
        ("http://x", "http://y"),
        ("http://x:8080", "https://x"),
        ("http://x", "http://x.evil"),
        ("http://x", "http://x@evil"),
    ):
        assert not same_server(one, other), (one, other)


def refresh_token() -> str:
    claims = {"exp": int(time.time()) + 3600, "token_type": "refresh"}
    return jwt.encode(claims, "0" * 32, algorithm="HS256")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("kind", ["legacy", "refresh"])
def test_a_redirect_to_another_server_gets_no_token(
    servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch, status: int, kind: str
) -> None:
    token = SECRET if kind == "legacy" else refresh_token()
    monkeypatch.setenv(TOKEN, token)
    ours, theirs = servers
    ours.to, ours.status = theirs.url, status
    error = ask(ours.url)
    assert isinstance(error, UsageError) and "redirects to http://127.0.0.1, where the token is not sent" in error.cause
    assert theirs.seen == [] and len(ours.seen) == 1 and token in ours.seen[0]
    assert token not in str(error)


def test_a_redirect_on_the_same_server_is_followed(servers: tuple[Server, Server]) -> None:
    ours, _ = servers

    class Once(str):
        """Redirects the first request alone."""

        def __bool__(self) -> bool:
            return len(ours.seen) < 2

    ours.to = Once(ours.url + "/moved")
    error = ask(ours.url)
    assert not isinstance(error, UsageError) and len(ours.seen) == 2 and "GET /moved/api/projects" in ours.seen[1]


@pytest.mark.usefixtures("ray_local")
def test_a_gate_of_somebody_else_gets_neither_token_nor_import(
    servers: tuple[Server, Server],
    nobody: Path,
    tmp_path: Path,
    coevo_ray: Command,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    ours, theirs = servers
    inputs(tmp_path, labelled=False)
    places = [part for name in ("pool", "targets") for part in (f"--{name}", str(tmp_path / name))]
    gate = str(tmp_path / "gate")
    opened = ["gate", "open", *places, "--out", gate, "--classes", "3", "--annotator", "label_studio"]
    result = coevo_ray(*opened, "--url", ours.url, "--project", "title", "--json")
    assert result.returncode == 0, result.stderr
    # Here it was named.
    forgotten()
    assert coevo_ray("gate", "next", "--gate", gate).returncode == 3 and SECRET in ours.seen[0]
    # Of somebody else: another server in the folder.
    file = tmp_path / "gate/gate.json"
    content = json.loads(file.read_text())
    content["settings"]["annotator"]["url"] = theirs.url
    file.write_text(json.dumps(content))
    for name in ("next", "submit"):
        result = coevo_ray("gate", name, "--gate", gate)
        assert result.returncode == 2 and f"--url {theirs.url}" in result.stderr, result.stderr
        result = coevo_ray("gate", name, "--gate", gate, "--url", ours.url)
        assert result.returncode == 2 and "not at" in result.stderr
    assert theirs.seen == []
    assert coevo_ray("gate", "next", "--gate", gate, "--url", theirs.url).returncode == 3
    assert SECRET in theirs.seen[0]
    _check_import(file, gate, tmp_path, coevo_ray, monkeypatch)
    # Nothing that was written or said has the token.
    found = [str(f) for f in tmp_path.rglob("*") if f.is_file() and SECRET.encode() in f.read_bytes()]
    assert found == [] and nobody.is_file()


def _check_import(file: Path, gate: str, folder: Path, coevo_ray: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate names an annotator of a module that is there."""
    name = "their_annotator"
    (folder / f"{name}.py").write_text(THEIRS.format(name=name))
    monkeypatch.syspath_prepend(folder)
    content = json.loads(file.read_text())
    content["settings"]["annotator"] = {"kind": f"{name}:A", "patience": 7}
    file.write_text(json.dumps(content))
    for arguments in (["status"], ["set", "--max-rounds", "5"], ["export", "--out", str(folder / "labels")]):
        assert coevo_ray("gate", *arguments, "--gate", gate).returncode == 0
    assert json.loads(file.read_text())["settings"]["annotator"] == {"kind": f"{name}:A", "patience": 7}
    for command in ("next", "submit"):
        result = coevo_ray("gate", command, "--gate", gate)
        assert result.returncode == 2 and f"--trust {name}:A" in result.stderr
    with pytest.raises(UsageError, match="would be imported and run"):
        package.gate_next(gate, trust=(f"{name}:B",))
    assert name not in sys.modules and not (folder / "ran").exists()
    result = coevo_ray("gate", "submit", "--gate", gate, "--trust", f"{name}:A")
    assert result.returncode == 0 and (folder / "ran").exists(), result.stderr
    assert GateSession(gate).settings.annotator.content() == {"kind": f"{name}:A", "patience": 7}


def test_settings_of_a_folder_are_checked_once_they_are_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "their_other_annotator"
    (tmp_path / f"{name}.py").write_text(THEIRS.format(name=name))
    monkeypatch.syspath_prepend(tmp_path)
    content = {"annotator": {"kind": f"{name}:A", "patience": "long"}}
    settings = make_config(GateSettings, content, "gate", of_folder=True).annotator
    assert not (tmp_path / "ran").exists() and settings.model_dump() == content["annotator"]
    with pytest.raises(UsageError, match="patience"):
        open_stored(settings, "/gate", make_pool(tmp_path / "pool"), (), (f"{name}:A",))
