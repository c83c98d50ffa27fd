"""Layers of networks, their learning rates, and a frozen backbone, without Ray."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from coevo_ray.config import TrainConfig
from coevo_ray.training.loop.descent import Descent
from coevo_ray.training.loop.fine_tuning import FineTuning, layers_of, thaw
from coevo_ray.training.models import classifier_of, make_model

CPU = torch.device("cpu")


def firsts(name: str, image_size: int = 64) -> list[str]:
    """The first parameter of each layer, after checking that every parameter is in one layer."""
    network = make_model(name, 7, image_size=image_size)
    layers = layers_of(network, classifier_of(name, network, 7)[0])
    names = {id(p): path for path, p in network.named_parameters()}
    assert sorted(id(p) for layer in layers for p in layer) == sorted(names)
    return [names[id(layer[0])] for layer in layers]


def test_layers_of_networks_are_their_convolutions_and_blocks() -> None:
    small = ["features.0.weight", "features.3.weight", "features.7.weight", "features.11.weight", "head.weight"]
    assert firsts("small_cnn") == small
    blocks = [f"layer{stage}.{block}.conv1.weight" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert firsts("torchvision:resnet18") == ["conv1.weight", *blocks, "fc.weight"]
    blocks = [f"blocks.{i}.norm1.weight" for i in range(12)]
    assert firsts("timm:vit_tiny_patch16_224") == ["cls_token", *blocks, "head.weight"]
    found = firsts("torchvision:efficientnet_b0")
    assert len(found) == 1 + 16 + 1 + 1  # the stem, the blocks, the last convolution, the classifier
    assert found[-2:] == ["features.8.0.weight", "classifier.1.weight"]


@pytest.mark.parametrize("name", ["torchvision:densenet121", "torchvision:shufflenet_v2_x0_5", "timm:convnext_atto"])
def test_every_parameter_is_in_one_layer(name: str) -> None:
    assert len(firsts(name)) > 5


def test_a_network_in_a_wrapper_has_the_same_layers() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = make_model("torchvision:resnet18", 7)

    bare, wrapped = make_model("torchvision:resnet18", 7), Wrapped()
    sizes = [[len(layer) for layer in layers_of(n, path)] for n, path in ((bare, "fc"), (wrapped, "inner.fc"))]
    assert sizes[0] == sizes[1]


def test_rates_fall_from_the_classifier_downward() -> None:
    network = make_model("small_cnn", 7)
    config = TrainConfig(learning_rate=0.1, layer_decay=0.5)
    descent = Descent(config, network, network, CPU, FineTuning("head", layer_decay=0.5))
    descent.set_rate(0.2)
    rates = {id(p): group["lr"] for group in descent.optimizer.param_groups for p in group["params"]}
    found = {path: rates[id(p)] for path, p in network.named_parameters()}
    layers = ("head", "features.11", "features.7", "features.3", "features.0")
    for depth, layer in enumerate(layers):
        assert found[f"{layer}.weight"] == pytest.approx(0.02 * 0.5**depth), layer
    assert found["features.12.weight"] == found["features.11.weight"]  # a norm learns as the convolution before it
    assert descent.learning_rate == pytest.approx(0.02)
    # Off, it is one group, as checkpoints of earlier trainings have it.
    alone = Descent(TrainConfig(), network, network, CPU, FineTuning("head"))
    assert len(alone.optimizer.param_groups) == 1
    assert "rate_share" not in alone.optimizer.state_dict()["param_groups"][0]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_a_frozen_backbone_keeps_every_bit_and_then_learns(
    optimizer: Literal["sgd", "adamw"], layer_decay: float
) -> None:
    torch.manual_seed(0)
    network, tuning = make_model("small_cnn", 3), FineTuning("head", 1, layer_decay)
    never = network.get_parameter("features.0.weight").requires_grad_(False)  # as a network of somebody else's may have
    frozen = tuning.freeze(network, 0)
    config = TrainConfig(ema=0.5, weight_decay=0.1, clip_norm=1.0, optimizer=optimizer)
    descent = Descent(config, network, network, CPU, tuning)
    assert descent.average is not None
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    def step() -> None:
        descent.set_rate(1.0)
        loss = nn.functional.cross_entropy(network(torch.randn(8, 3, 8, 8)), torch.arange(8) % 3)
        descent.step(loss)

    network.train(not tuning.is_frozen(0))
    for _ in range(3):
        step()
    for state in (network.state_dict(), descent.average.module.state_dict()):
        same = {name: torch.equal(tensor, before[name]) for name, tensor in state.items()}
        assert {name for name in same if not same[name]} == {"head.weight", "head.bias"}
    thaw(frozen)
    assert not frozen and not tuning.freeze(network, 1) and not never.requires_grad
    network.train(not tuning.is_frozen(1))
    step()
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == before.keys() - {"features.0.weight"}
