from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from coevo_ray.errors import InputError
from coevo_ray.priors.weights import check_download, load_into, local_file, read_state


class Runs:
    """A pickle that runs a command when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_state_dicts_are_read_from_pickle_and_safetensors(tmp_path: Path) -> None:
    state = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "wrapped.pth")
    save_file(state, tmp_path / "safe.safetensors")
    for name in ("plain.pt", "wrapped.pth", "safe.safetensors"):
        read = read_state(tmp_path / name)
        assert set(read) == {"a", "b"}
        assert torch.equal(read["a"], state["a"])


def test_a_pickle_cannot_run_code(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1), "b": Runs(tmp_path / "was_run")}, tmp_path / "bad.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Runs(tmp_path / "was_run")))
    for name in ("bad.pt", "raw.pt"):
        with pytest.raises(InputError, match="cannot read the weights"):
            read_state(tmp_path / name)
    assert not (tmp_path / "was_run").exists()


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    good = tmp_path / "good.pt"
    torch.save(nn.Linear(3, 2).state_dict(), good)
    for name, content in (
        ("short.pt", good.read_bytes()[:300]),
        ("empty.pt", b""),
        ("text.safetensors", b"<html></html>"),
        ("empty.safetensors", b""),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            read_state(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="holds no state dict"):
        read_state(tmp_path / "list.pt")
    load_into(nn.Linear(3, 2), good, "x:y")
    load_into(nn.BatchNorm1d(2), _without_counters(tmp_path), "x:y")
    for other in (nn.Linear(4, 2), nn.Sequential(nn.Linear(3, 2))):
        with pytest.raises(InputError, match="does not fit x:y"):
            load_into(other, good, "x:y")


def _without_counters(folder: Path) -> Path:
    """A file of PyTorch before 0.4.1."""
    state = nn.BatchNorm1d(2).state_dict()
    del state["num_batches_tracked"]
    torch.save(state, folder / "old.pt")
    return folder / "old.pt"


def test_prefixes_are_taken_off_only_where_the_names_fit_without(tmp_path: Path) -> None:
    path = tmp_path / "wrapped.pt"
    torch.save({f"module.{key}": value for key, value in nn.Linear(3, 2).state_dict().items()}, path)
    load_into(nn.Linear(3, 2), path, "x:y")
    load_into(nn.ModuleDict({"module": nn.Linear(3, 2)}), path, "x:y")
    with pytest.raises(
        InputError, match=r"of 2 weights 2 missing \(0\.weight, 0\.bias\); 2 unexpected \(weight, bias\)"
    ):
        load_into(nn.Sequential(nn.Linear(3, 2)), path, "x:y")


def test_files_are_told_from_names(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.touch()
    assert local_file(str(path)) == path
    assert local_file("IMAGENET1K_V1") is None
    assert local_file("random") is None
    with pytest.raises(InputError, match="relative"):
        local_file("w.pt")
    with pytest.raises(InputError, match="no weights at"):
        local_file(str(tmp_path / "none.pt"))


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        allowed = self.path == "/there" or self.headers.get("Authorization") == "Bearer t"
        self.send_response(200 if allowed else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    http = HTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


def test_downloads_are_looked_for_before_any_work(server: str) -> None:
    check_download(f"{server}/there", "x:y", "do this")
    check_download(f"{server}/gated", "x:y", "do this", {"Authorization": "Bearer t"})
    with pytest.raises(InputError, match=r"weights of x:y are not in the cache.*404") as caught:
        check_download(f"{server}/gone", "x:y", "do this")
    assert caught.value.remedy == "do this"
    with pytest.raises(InputError, match="cannot be downloaded"):
        check_download("http://127.0.0.1:1/closed", "x:y", "do this")
