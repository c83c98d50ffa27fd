"""Secrets that the environment holds are in no file and no log of a run, Ray's among them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from coevo_ray.annotators.label_studio_connection import TOKEN
from tests.annotators.test_recipients import Server, running
from tests.pipelines.gate.helpers import inputs

SECRETS = {TOKEN: "planted-token-0123456789", "AWS_SECRET_ACCESS_KEY": "planted-key-0123456789"}
IN_ADDRESS = "planted-password-0123456789"


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Ray's own; paths of its sockets have to be short."""
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as folder:
        yield Path(folder)


def test_no_file_and_no_log_of_a_run_has_a_secret(tmp_path: Path, ray_folder: Path) -> None:
    inputs(tmp_path, labelled=False)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {**SECRETS, "RAY_TMPDIR": str(ray_folder), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    said = []

    def run(*arguments: str) -> int:
        command = [sys.executable, "-m", "coevo_ray", "gate", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        said.append(done.stdout + done.stderr)
        return done.returncode

    places = [part for name in ("pool", "targets") for part in (f"--{name}", str(tmp_path / name))]
    places += ["--out", str(tmp_path / "gate"), "--classes", "3", "--project", "title", "--annotator", "label_studio"]
    with running(Server()) as server:
        assert run("open", *places, "--url", server.url) == 0, said
        assert run("next", "--gate", str(tmp_path / "gate")) == 3, said  # the server has no projects
        assert SECRETS[TOKEN] in server.seen[0]  # which got the token, as it should
        with_secret = server.url.replace("://", f"://eva:{IN_ADDRESS}@")
        assert run("set", "--gate", str(tmp_path / "gate"), "--annotator", "label_studio", "--url", with_secret) == 2
        (tmp_path / "gate.yaml").write_text(f"annotator: {{kind: label_studio, project: title, url: '{with_secret}'}}")
        assert run("open", *places[:6], "--settings", str(tmp_path / "gate.yaml")) == 2
        (tmp_path / "gate.yaml").unlink()
    logs = [file for file in ray_folder.rglob("*.log") if file.is_file()]
    assert logs, "Ray wrote no logs here"
    searched = [file for folder in (tmp_path, ray_folder) for file in folder.rglob("*") if file.is_file()]
    for secret in (*SECRETS.values(), IN_ADDRESS):
        assert all(secret not in text for text in said), said
        assert [str(file) for file in searched if secret.encode() in file.read_bytes()] == []
