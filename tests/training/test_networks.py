"""Trained networks for other programs: cards, preprocessing, and loading with torch and safetensors alone."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import coevo_ray
from coevo_ray.errors import InputError
from coevo_ray.pool.pool import Pool
from coevo_ray.store.artifact import finish
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import load_manifest
from coevo_ray.store.verification import verify
from coevo_ray.training.from_targets.network import TargetNetwork
from coevo_ray.training.loop.weights import write_weights
from coevo_ray.training.models import make_model
from coevo_ray.training.networks import NETWORK_CARD
from coevo_ray.training.supervised.train import load_classifier
from tests.training import digits_pool, trained_folder
from tests.training.networks_for_tests import stirred

NETWORKS = "tests.training.networks_for_tests"
SIZE = 32
# Runs cards' lines where neither this package nor Ray can be imported, and writes what the networks give.
ALONE = """
import json, os, sys
sys.modules.update(dict.fromkeys(("coevo_ray", "ray")))  # None: importing them fails
import torch
for folder in sys.argv[1:]:
    os.chdir(folder)
    exec("\\n".join(json.load(open("network.json"))["load"]))
    with torch.inference_mode():
        torch.save(network(torch.load("given.pt", weights_only=True)), "found.pt")
"""
# Model, stem, and the head of a network that is trained on targets; None for a classifier.
CASES = [
    ("torchvision:resnet18", "small", None),
    ("torchvision:resnet18", "standard", "linear"),
    ("torchvision:densenet121", "small", "linear"),
    ("torchvision:mobilenet_v2", "standard", "mlp"),
    ("timm:vit_tiny_patch16_224", "standard", None),
    ("timm:resnet10t", "standard", "linear"),
    ("small_cnn", "standard", None),
    ("small_cnn", "standard", "linear"),
]


def settings_of(model: str, stem: str = "standard", **more: Any) -> dict[str, Any]:
    return {"model": model, "stem": stem, "image_size": SIZE, **more}


def outputs(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = network(images)
    return found


def make(model: str, stem: str, head: str | None, place: Path) -> torch.nn.Module:
    """Writes a training's output; returns the network that the card is about."""
    if head is None:
        network = stirred(make_model(model, 7, stem=stem, image_size=SIZE))
        trained_folder(place, settings_of(model, stem, classes=7), network)
        return network.eval()
    whole = stirred(TargetNetwork.of_images(model, SIZE, head, 5, stem))
    trained_folder(place, settings_of(model, stem, head=head, dim=5), whole)
    return whole.get_submodule("backbone").eval()


@pytest.mark.slow
def test_cards_load_networks_without_this_package(tmp_path: Path) -> None:
    torch.manual_seed(0)
    wanted: dict[Path, torch.Tensor] = {}
    images = torch.randn(3, 3, SIZE, SIZE)
    for number, (model, stem, head) in enumerate(CASES):
        place = tmp_path / str(number)
        wanted[place] = outputs(make(model, stem, head, place), images)
        torch.save(images, place / "given.pt")
        loaded = coevo_ray.load_network(place)
        assert not loaded.module.training
        assert torch.equal(outputs(loaded.module, images), wanted[place])
        assert loaded.card["outputs"] == ("logits" if head is None else "features")
        assert loaded.card["dim"] == wanted[place].shape[1]
        assert len(loaded.card["load"]) <= 9
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *map(str, wanted)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    for place, outcome in wanted.items():
        found = torch.load(place / "found.pt", weights_only=True)
        # Other threads round otherwise, relative to the size of all outputs, which an untrained network may make large.
        near = torch.allclose(found, outcome, rtol=1e-4, atol=1e-5 * max(1.0, float(outcome.std())))
        assert outcome.std() > 1e-4 and near, CASES[int(place.name)]


def test_averaged_weights_are_loaded_on_demand(tmp_path: Path) -> None:
    images = torch.randn(2, 3, SIZE, SIZE)
    cases: list[tuple[str, torch.nn.Module, dict[str, Any]]] = [
        ("targets", TargetNetwork.of_images(f"{NETWORKS}:plain", SIZE, "linear", 4), {"head": "linear", "dim": 4}),
        ("classifier", make_model(f"{NETWORKS}:plain", 4), {"classes": 4, "class_names": ["a", "b", "c", "d"]}),
    ]
    for name, network, settings in cases:
        place = trained_folder(tmp_path / name, settings_of(f"{NETWORKS}:plain", **settings), network, ema=True)
        own, average = (
            coevo_ray.load_network(place, average=average, trust=(f"{NETWORKS}:plain",)) for average in (False, True)
        )
        whole = dict(own.module.named_parameters())
        assert all(torch.allclose(half, whole[path] / 2) for path, half in average.module.named_parameters())
        assert not torch.equal(outputs(own.module, images), outputs(average.module, images))
        assert own.card.get("class_names") == settings.get("class_names")
        assert verify(place, load_manifest(place)) == []
    without = trained_folder(tmp_path / "without", settings_of("small_cnn", classes=4), make_model("small_cnn", 4))
    with pytest.raises(InputError, match="has no averaged weights"):
        coevo_ray.load_network(without, average=True)


def test_folders_of_before_there_were_cards_load_too(tmp_path: Path) -> None:
    images = torch.randn(2, 3, SIZE, SIZE)
    for name, network, settings in (
        ("targets", TargetNetwork.of_images("small_cnn", SIZE, "linear", 4), {"head": "linear", "dim": 4}),
        ("classifier", make_model("small_cnn", 4), {"classes": 4}),
    ):
        place = Location.parse(tmp_path / name)
        files = write_weights(place, {"model": network.state_dict()}, settings_of("small_cnn", **settings))
        finish(place, "model", {}, {}, files, {})
        loaded = coevo_ray.load_network(place)
        module = network.get_submodule("backbone") if name == "targets" else network
        assert torch.equal(outputs(loaded.module, images), outputs(module.eval(), images))
        assert "load" not in loaded.card


def test_card_and_weights_alone_are_enough(tmp_path: Path) -> None:
    network = make_model("small_cnn", 4).eval()
    trained_folder(tmp_path / "out", settings_of("small_cnn", classes=4), network)
    (tmp_path / "sent").mkdir()
    for name in (NETWORK_CARD, "model.safetensors"):
        (tmp_path / "out" / name).rename(tmp_path / "sent" / name)
    images = torch.randn(2, 3, SIZE, SIZE)
    assert torch.equal(outputs(coevo_ray.load_network(tmp_path / "sent").module, images), outputs(network, images))


def test_what_is_no_trained_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished model at"):
        coevo_ray.load_network(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds a pool, a model is needed"):
        coevo_ray.load_network(digits_pool(tmp_path / "pool", 20))
    place = trained_folder(tmp_path / "out", settings_of("small_cnn", classes=4), make_model("small_cnn", 4))
    (tmp_path / "out/manifest.json").unlink()  # with it, its checksum is refused first
    weights = load_file(tmp_path / "out/model.safetensors")
    save_file({**weights, "head.weight": torch.zeros(5, 128)}, tmp_path / "out/model.safetensors")
    with pytest.raises(InputError, match=r"has head.weight \[5, 128\], need \[4, 128\]"):
        coevo_ray.load_network(place)
    weights.pop("head.bias")
    save_file(weights, tmp_path / "out/model.safetensors")
    with pytest.raises(InputError, match=r"has head.bias not, need \[4\]"):
        coevo_ray.load_network(place)
    (tmp_path / "out/model.safetensors").write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"cannot read .*model\.safetensors"):
        coevo_ray.load_network(place)
    card = json.loads((tmp_path / "out" / NETWORK_CARD).read_text())
    (tmp_path / "out" / NETWORK_CARD).write_text(json.dumps({**card, "format": 9}))
    with pytest.raises(InputError, match="format 9, this package reads up to 2"):
        coevo_ray.load_network(place)


def test_the_preprocessing_is_that_of_training(tmp_path: Path) -> None:
    pool = digits_pool(tmp_path / "pool", 20)
    place = trained_folder(tmp_path / "out", settings_of("small_cnn", classes=4), make_model("small_cnn", 4))
    preprocess = pickle.loads(pickle.dumps(coevo_ray.load_network(place).preprocess))
    encoded = Pool(pool.location).read(np.arange(3), ["image"]).column("image").to_pylist()
    feed = coevo_ray.Feed(pool, ["image"], _transform(), global_batch=3, seed=0, prefetch=0)
    (batch,) = feed.epoch(coevo_ray.Subset(epoch=0, rows=np.arange(3)))
    wanted = batch["image"][np.argsort(batch.row_ids)]
    for given in (encoded, [Image.open(io.BytesIO(data)) for data in encoded]):
        found = torch.stack([preprocess(image) for image in given])
        assert found.dtype == torch.float32 and torch.equal(found, wanted)
    # Not square, with transparency and in grey: as the pool's images are read.
    wide = Image.effect_noise((80, 40), 60)
    buffer = io.BytesIO()
    wide.convert("LA").save(buffer, "PNG")
    assert torch.equal(preprocess(wide.convert("LA")), preprocess(buffer.getvalue()))
    assert preprocess(wide).shape == (3, SIZE, SIZE)


def _transform() -> Any:
    from coevo_ray.training.feed.images import ImageTransform

    return ImageTransform(SIZE, "none")


def test_a_classifier_is_the_same_by_either_way(tmp_path: Path) -> None:
    place = trained_folder(tmp_path, settings_of("small_cnn", classes=4), make_model("small_cnn", 4))
    images = torch.randn(2, 3, SIZE, SIZE)
    assert torch.equal(outputs(coevo_ray.load_network(place).module, images), outputs(load_classifier(place), images))
