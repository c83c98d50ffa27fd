"""Trainings that start from a trained network: what it changes, what stays frozen, restarts, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits

import coevo_ray as package
from coevo_ray.config import SemiTrainConfig, TrainConfig
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.pool import Pool
from coevo_ray.store.artifact import Artifact, finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vector_column
from coevo_ray.training.from_targets.network import TargetNetwork
from coevo_ray.training.models import make_model
from coevo_ray.training.semi_supervised.on_arrays import fit_images
from coevo_ray.training.start import make_classifier, starting_from
from tests.command_line import Command
from tests.training import digits_pool, trained_folder
from tests.training.networks_for_tests import faulty, steps_made, stirred

ROWS, SIZE = 300, 16
NETWORKS = "tests.training.networks_for_tests"
NORMED = f"{NETWORKS}:normed"
SETTINGS: dict[str, Any] = {"batch_rows": 20, "policies": ["full"], "labels": "pool", "compute": {"cpus": 0.5}}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return digits_pool(tmp_path_factory.mktemp("start") / "pool", ROWS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a network as if trained on targets."""
    folder = tmp_path_factory.mktemp("start") / "trained"
    write(folder, NORMED)
    return folder


def write(folder: Path, model: str, seed: int = 7, stem: str = "standard") -> Location:
    torch.manual_seed(seed)
    network = stirred(TargetNetwork.of_images(model, SIZE, "linear", 5, stem))
    return trained_folder(
        folder, {"model": model, "stem": stem, "image_size": SIZE, "head": "linear", "dim": 5}, network
    )


def backbone(folder: Path, file: str = "network.safetensors") -> dict[str, torch.Tensor]:
    return {
        name: tensor for name, tensor in load_file(folder / file).items() if name != "8.weight" and name != "8.bias"
    }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys() and len(one) == 12
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def targets_of(pool: Pool, place: Path) -> RowTable:
    """What the digits' clean pixels say."""
    vectors = load_digits().data[:ROWS].astype(np.float32)
    location = Location.parse(place)
    table = pa.table({"row_id": np.arange(ROWS), "target": vector_column(vectors - vectors.mean(axis=0))})
    finish(location, "targets", {}, {}, [write_table(location, "a.parquet", table)], {})
    return RowTable(location, "targets")


@pytest.mark.usefixtures("ray_local")
def test_a_network_trained_on_targets_is_the_start(pool: Pool, tmp_path: Path) -> None:
    config = {"model": NORMED, "image_size": SIZE, "flip": False, "min_crop": 0.6, "batch_rows": 40, "epochs": 4}
    network = package.train_targets(
        {**config, "learning_rate": 0.01, "compute": {"cpus": 1}},
        pool,
        targets_of(pool, tmp_path / "targets"),
        tmp_path / "network",
    )
    assert package.load_network(network, trust=(NORMED,)).card["dim"] == 256
    settings = {**SETTINGS, "epochs": 1, "learning_rate": 0.05, "freeze_epochs": 1, "ema": 0.9}
    chosen = {"model": NORMED, "image_size": SIZE}
    started = package.train_supervised(settings, pool, tmp_path / "started", init=network, trust=[NORMED])
    # Only the classifier learns, in 12 steps. Measured: 0.35 on random features, 0.8 on those of the targets.
    assert started["accuracy"] > 0.6
    # Model and image_size are the network's; every bit of its backbone is, also of the averaged one.
    found = started.manifest.config
    assert (found["model"], found["image_size"], found["freeze_epochs"]) == (NORMED, SIZE, 1)
    assert "init" not in found and "layer_decay" not in found
    assert started.manifest.inputs["init"] == network.manifest.identity
    before = backbone(tmp_path / "network")
    assert same(backbone(tmp_path / "started", "model.safetensors"), before)
    average = backbone(tmp_path / "started", "ema.safetensors")
    assert all(torch.equal(average[name], tensor) for name, tensor in before.items() if tensor.is_floating_point())
    # The same again is no work, by its path too; another network is refused, and none is.
    by_path = {**settings, "init": str(tmp_path / "network")}
    again = package.train_supervised(by_path, pool, tmp_path / "started", trust=[NORMED])
    assert again == started
    with pytest.raises(UsageError, match=r"inputs\.init"):
        other = write(tmp_path / "other", NORMED)
        package.train_supervised({**settings, **chosen}, pool, tmp_path / "started", init=other)
    with pytest.raises(UsageError, match=r"inputs\.init: there '\w+', asked for '\(nothing\)'"):
        package.train_supervised({**settings, **chosen}, pool, tmp_path / "started")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_the_command_starts_semi_supervised_training(
    pool: Pool, trained: Path, tmp_path: Path, coevo_ray: Command
) -> None:
    command = ["train", "--objective", "semi_supervised", "--pool", str(pool.location), "--out", str(tmp_path / "out")]
    command += ["--init", str(trained), "--freeze-epochs", "1", "--layer-decay", "0.7", "--epochs", "1"]
    command += ["--ema", "0.9", "--teacher", "ema", "--batch-rows", "40", "--threshold", "0.12", "--cpus", "0.5"]
    command += ["--no-flip", "--trust", NORMED]
    result = coevo_ray(*command, "--json")
    assert result.returncode == 0, result.stderr
    for file in ("model.safetensors", "ema.safetensors"):
        assert same(backbone(tmp_path / "out", file), backbone(trained)), file
    assert Artifact.open(Location.parse(tmp_path / "out"), "model").manifest.config["layer_decay"] == 0.7


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("step", [19, 29])  # of 12 an epoch: in the second frozen epoch, and in the first free one
def test_a_killed_worker_goes_on_to_the_same_weights(pool: Pool, tmp_path: Path, step: int) -> None:
    model = faulty(tmp_path / "fault")
    init = write(tmp_path / "init", model)
    settings = {**SETTINGS, "model": model, "epochs": 3, "freeze_epochs": 2, "layer_decay": 0.8, "ema": 0.9}
    settings["compute"] = {"cpus": 0.5, "checkpoint_steps": 5}
    whole = package.train_supervised(settings, pool, tmp_path / "whole", init=init)
    assert steps_made(tmp_path / "fault") == 36
    (tmp_path / "fault").write_text(f"{step} killed")
    broken = package.train_supervised(settings, pool, tmp_path / "broken", init=init)
    assert not (tmp_path / "fault").exists(), "nothing was killed"
    for one, other in zip(whole["history"], broken["history"], strict=True):
        assert (one["loss"], one["accuracy"], one["ema_accuracy"]) == (
            other["loss"],
            other["accuracy"],
            other["ema_accuracy"],
        )
    for file in ("model.safetensors", "ema.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "broken" / file).read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_two_workers_learn_what_one_does_frozen_and_freed(pool: Pool, tmp_path: Path) -> None:
    init = write(tmp_path / "init", f"{NETWORKS}:plain")
    settings = {**SETTINGS, "batch_rows": 17, "epochs": 2, "freeze_epochs": 1, "layer_decay": 0.7}
    settings["model"] = f"{NETWORKS}:plain"
    found = []
    for actors in (1, 2):
        compute = {"actors": actors, "cpus": 0.5}
        package.train_supervised({**settings, "compute": compute}, pool, tmp_path / str(actors), init=init)
        found.append(load_file(tmp_path / str(actors) / "model.safetensors"))
    start = load_file(tmp_path / "init" / "network.safetensors")
    for name, tensor in found[0].items():
        assert torch.allclose(tensor, found[1][name], atol=1e-5), name
        assert name not in start or not torch.equal(tensor, start[name]), name


def test_teachers_and_frozen_backbones_start_from_it_without_ray(pool: Pool, trained: Path) -> None:
    digits = load_digits()
    images = np.kron(digits.images[:200] * 15.9, np.ones((2, 2))).astype(np.uint8)[..., None].repeat(3, axis=3)
    labels = np.where(np.arange(200) % 4 == 0, digits.target[:200], -1)
    config = {"init": str(trained), "batch_rows": 20, "mu": 2, "least_steps": 0, "flip": False, "threshold": 0.2}
    config |= {"ema": 0.5, "teacher": "ema", "model": NORMED}
    weights = {}
    for epochs, frozen in ((1, 1), (2, 1), (1, 0)):
        settings = {**config, "epochs": epochs, "freeze_epochs": frozen}
        network, history = fit_images(settings, images, labels, 10, (images, digits.target[:200]))
        weights[epochs, frozen] = {k: v for k, v in network.state_dict().items() if not k.startswith("8.")}
        assert np.isfinite(history[-1]["loss"])
    start = backbone(trained)
    assert same(weights[1, 1], start)
    for name, tensor in start.items():  # freed they learn, from there
        if tensor.dim() > 1:
            assert not torch.equal(weights[2, 1][name], tensor) and not torch.equal(weights[1, 0][name], tensor)


@pytest.mark.parametrize(
    "model", ["torchvision:resnet18", "torchvision:efficientnet_b0", "timm:resnet10t", "small_cnn"]
)
@pytest.mark.parametrize("kind", ["targets", "classifier"])
def test_any_model_starts_from_its_like_beneath_a_fresh_classifier(tmp_path: Path, model: str, kind: str) -> None:
    if kind == "targets":
        init = write(tmp_path, model)
    else:
        network = make_model(model, 4, image_size=SIZE)
        init = trained_folder(tmp_path, {"model": model, "stem": "standard", "image_size": SIZE, "classes": 4}, network)
    config, start = starting_from(TrainConfig(), init)
    assert start is not None and (config.model, config.image_size) == (model, SIZE)
    torch.manual_seed(0)
    fresh = make_model(model, 7, image_size=SIZE).state_dict()
    torch.manual_seed(0)
    network, tuning = make_classifier(config, start.shape, 7, start)
    given = package.load_network(init).module.state_dict()
    for name, tensor in network.state_dict().items():
        origin = fresh if name.startswith(f"{tuning.classifier}.") else given
        assert torch.equal(tensor, origin[name]), name


def test_what_does_not_fit_is_refused(trained: Path, tmp_path: Path) -> None:
    remedy = "leave {0} out, or give as init a network that was trained with {0}"
    for settings, message in (
        ({"model": "small_cnn"}, rf"model is small_cnn, the network at {trained} has {NORMED}"),
        ({"image_size": 32}, "image_size is 32, the network at .* has 16"),
        ({"stem": "small"}, "stem is small, the network at .* has standard"),
    ):
        for kind in (TrainConfig, SemiTrainConfig):
            with pytest.raises(UsageError, match=message) as caught:
                starting_from(kind.model_validate(settings), trained)
            assert remedy.format(*settings) in str(caught.value)
    with pytest.raises(UsageError, match="init is given twice"):
        starting_from(TrainConfig(init="elsewhere"), trained)
    with pytest.raises(UsageError, match="freeze_epochs is 2 and small_cnn starts from random weights"):
        starting_from(TrainConfig(freeze_epochs=2))
    for tuned in ({"layer_decay": 0.5}, {"freeze_epochs": 1}):
        with pytest.raises(UsageError, match="no linear layer"):
            starting_from(TrainConfig.model_validate({"model": f"{NETWORKS}:no_classifier", **tuned}))
    # A function of one's own may bring weights.
    assert starting_from(TrainConfig(freeze_epochs=2, model=NORMED))[1] is None
    card = {"model": NORMED, "stem": "standard", "image_size": SIZE, "classes": 4}
    other = trained_folder(tmp_path / "other", card, make_model(f"{NETWORKS}:plain", 4))
    with pytest.raises(InputError, match=r"the network at .*other has 0.weight \[16, 3, 3, 3\], need \[32, 3, 3, 3\]"):
        starting_from(TrainConfig(model=NORMED), other)


def test_the_commands_exit_codes(pool: Pool, trained: Path, tmp_path: Path, coevo_ray: Command) -> None:
    for objective in ("supervised", "semi_supervised"):
        command = ["train", "--objective", objective, "--pool", str(pool.location), "--out", str(tmp_path / "out")]
        for options, code, message in (
            (["--init", str(tmp_path / "nowhere")], 3, "no finished model at"),
            (["--init", str(pool.location)], 3, "holds a pool, a model is needed"),
            (["--init", str(trained), "--model", "small_cnn"], 2, "model is small_cnn, the network at"),
            (["--init", str(trained), "--stem", "small"], 2, "stem is small, the network at"),
            (["--init", str(trained), "--image-size", "32"], 2, "image_size is 32, the network at"),
            (["--layer-decay", "0"], 2, "layer_decay"),
            (["--freeze-epochs", "1"], 2, "starts from random weights"),
        ):
            result = coevo_ray(*command, *options)
            assert (result.returncode, result.stdout) == (code, ""), result.stderr
            assert message in result.stderr and "remedy: " in result.stderr
    given = ("--targets", str(tmp_path), "--init", str(trained))
    result = coevo_ray("train", "--objective", "targets", "--pool", str(pool.location), "--out", "x", *given)
    assert result.returncode == 2 and "--objective targets with --init" in result.stderr
    assert not (tmp_path / "out").exists()


def test_settings_that_are_off_leave_the_content_as_it_was() -> None:
    for kind in (TrainConfig, SemiTrainConfig):
        assert not {"init", "freeze_epochs", "layer_decay"} & kind().content().keys()
        on = kind(init="x", freeze_epochs=1, layer_decay=0.5).content()
        assert on == {**kind().content(), "freeze_epochs": 1, "layer_decay": 0.5}
