"""A folder with a network makes this package import nothing that the caller did not name."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import coevo_ray as package
from coevo_ray.config import SemiTrainConfig, TrainConfig
from coevo_ray.errors import InputError, UsageError
from coevo_ray.store.artifact import finish
from coevo_ray.store.location import Location
from coevo_ray.training.from_targets.network import TargetNetwork
from coevo_ray.training.from_targets.train import load_target_network
from coevo_ray.training.loop.weights import write_weights
from coevo_ray.training.models import make_model
from coevo_ray.training.networks import write_network_files
from coevo_ray.training.start import starting_from
from coevo_ray.training.supervised.train import load_classifier
from tests.command_line import Command
from tests.training import digits_pool

SIZE = 16
MODULE = """
from pathlib import Path
import torch
from coevo_ray.training.models import SmallCNN
Path(__file__).with_name("ran").touch()
def net(num_classes):
    return SmallCNN(num_classes, width=4)
"""
Load = Callable[..., Any]


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a classifier whose card names a module that is there, could be imported, and tells if it was."""
    (tmp_path / "their_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("their_module", None)
    settings = {"model": "their_module:net", "stem": "standard", "image_size": SIZE, "classes": 4}
    _write(tmp_path / "classifier", settings, make_model("their_module:net", 4))
    targets = {**{name: settings[name] for name in ("model", "stem", "image_size")}, "head": "linear", "dim": 5}
    _write(tmp_path / "targets", targets, TargetNetwork.of_images("their_module:net", SIZE, "linear", 5))
    del sys.modules["their_module"]
    (tmp_path / "ran").unlink()
    return tmp_path


def _write(folder: Path, settings: dict[str, Any], network: torch.nn.Module) -> None:
    place = Location.parse(folder)
    state = {"model": network.state_dict()}
    files = write_weights(place, state, settings) + write_network_files(place, state, settings)
    content = {"objective": "targets"} if "dim" in settings else {}
    finish(place, "model", content, {}, files, {})


def _init(config: type[TrainConfig] | type[SemiTrainConfig]) -> Load:
    return lambda place, trust=(): starting_from(config(), place, trust)


CASES: list[tuple[str, Load, bool]] = [
    ("classifier", package.load_network, True),
    ("classifier", package.load_network, False),
    ("targets", package.load_network, True),
    ("targets", package.load_network, False),
    ("classifier", load_classifier, True),
    ("targets", load_target_network, True),
    ("classifier", _init(TrainConfig), True),
    ("targets", _init(SemiTrainConfig), False),
]


@pytest.mark.parametrize(("name", "load", "with_card"), CASES)
def test_a_name_in_a_file_is_imported_only_where_the_caller_gives_it_too(
    foreign: Path, name: str, load: Load, with_card: bool
) -> None:
    place = foreign / name
    if not with_card:
        (place / "network.json").unlink()
    for trust in ((), ("their_module",), ("other:net",)):
        with pytest.raises(UsageError) as caught:
            load(place, trust=trust)
        assert "their_module:net" in caught.value.cause and str(place) in caught.value.cause
        assert "--trust their_module:net" in caught.value.remedy
        assert "trust=('their_module:net',)" in caught.value.remedy
        assert "their_module" not in sys.modules and not (foreign / "ran").exists()
    load(place, trust=("their_module:net",))
    assert (foreign / "ran").exists()


def test_ones_own_settings_with_the_same_name_ask_for_it(foreign: Path) -> None:
    config, start = starting_from(TrainConfig(model="their_module:net"), foreign / "classifier")
    assert start is not None and config.model == "their_module:net" and (foreign / "ran").exists()


@pytest.mark.parametrize("name", ["os", "os:system", "their_module", ":net", "timm.models:create_model"])
def test_no_form_of_name_gets_by(foreign: Path, name: str) -> None:
    file = foreign / "classifier/network.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model": name}))
    with pytest.raises(UsageError, match="would be imported and run"):
        package.load_network(foreign / "classifier")
    assert not (foreign / "ran").exists()


def test_the_command_names_the_option(foreign: Path, coevo_ray: Command) -> None:
    command = ["train", "--objective", "supervised", "--pool", str(foreign / "pool"), "--out", str(foreign / "out")]
    digits_pool(foreign / "pool", 40)
    command += ["--init", str(foreign / "targets")]
    result = coevo_ray(*command)
    assert result.returncode == 2 and "remedy: if you trust that module" in result.stderr
    assert "--trust their_module:net" in result.stderr and not (foreign / "ran").exists()
    result = coevo_ray(*command, "--trust", "their_module:other")
    assert result.returncode == 2 and not (foreign / "ran").exists()


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"weights": "../targets/network.safetensors"}, "names the file"),
        ({"averaged_weights": "/etc/passwd"}, "names the file"),
        ({"weights": "s3://bucket/weights"}, "names the file"),
        ({"model": 7}, "model in"),
        ({"stem": None}, "stem in"),
        ({"image_size": "16"}, "image_size in"),
        ({"image_size": 0}, "image_size"),
        ({"image_size": 10**6}, "image_size at most"),
        ({"classes": 10**12}, r"states 1000000000000 outputs, its weights are \d+ bytes"),
        ({"classes": -1}, "classes"),
        ({"classes": True}, "classes in"),
        ({"mean": [1, 2]}, "need three numbers"),
        ({"std": [1, 2, float("inf")]}, "need three numbers"),
        ({"outputs": "all"}, "neither features nor logits"),
        ({"format": "1"}, "format in"),
    ],
)
def test_a_card_with_other_fields_is_refused(foreign: Path, fields: dict[str, Any], cause: str) -> None:
    file = foreign / "classifier/network.json"
    content = {**json.loads(file.read_text()), "model": "small_cnn", **fields}
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=cause) as caught:
        package.load_network(foreign / "classifier")
    assert "network.json" in caught.value.cause


def test_weights_that_are_not_the_manifests_are_refused(foreign: Path) -> None:
    for name, load in (("network.safetensors", package.load_network), ("model.safetensors", load_target_network)):
        file = foreign / "targets" / name
        data = file.read_bytes()
        for changed in (data[:-1], data[:-1] + bytes([data[-1] ^ 1]), data + b"\0"):
            file.write_bytes(changed)
            with pytest.raises(InputError, match=r"is damaged or replaced|has the checksum"):
                load(foreign / "targets", trust=("their_module:net",))
        file.write_bytes(data)
        load(foreign / "targets", trust=("their_module:net",))
