from __future__ import annotations

import pytest
import torch

from coevo_ray.errors import UsageError
from coevo_ray.training.models import check_network, make_backbone, make_model, sample_image


@pytest.mark.parametrize("size", [8, 16, 33])
def test_the_small_network_takes_small_images(size: int) -> None:
    assert make_model("small_cnn", 7)(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_models_by_name() -> None:
    assert make_model("torchvision:resnet18", 5)(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    assert make_model("torchvision.models:resnet18", 5)(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize("name", ["torchvision:densenet121", "timm:resnet10t.c3_in1k", "timm:resnet18"])
def test_models_of_libraries_take_images_of_the_given_size(name: str) -> None:
    check_network(name, make_model(name, 7, image_size=48), sample_image(48), 7)


@pytest.mark.parametrize(
    "name", ["torchvision:resnet18", "torchvision:resnext50_32x4d", "torchvision:densenet121", "timm:resnet18"]
)
def test_the_small_stem_keeps_the_resolution_of_small_images(name: str) -> None:
    torch.manual_seed(0)
    sizes = {}
    for stem in ("standard", "small"):
        network = make_model(name, 5, stem=stem).eval()
        last = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)][-1]
        last.register_forward_hook(lambda _, __, out, stem=stem: sizes.update({stem: tuple(out.shape[2:])}))
        assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
        first = next(layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d))
        expected = ((7, 7), (2, 2)) if stem == "standard" else ((3, 3), (1, 1))
        assert (first.kernel_size, first.stride) == expected
        assert any(isinstance(layer, torch.nn.MaxPool2d) for layer in network.modules()) == (stem == "standard")
    # He et al. 2016: 32 pixels leave 4 x 4 behind three halvings, where the standard stem leaves 1 x 1.
    assert sizes == {"standard": (1, 1), "small": (4, 4)}


@pytest.mark.parametrize(
    "name", ["small_cnn", "torchvision:mobilenet_v2", "torchvision:vgg11", "timm:resnet26t", "timm:convnext_atto"]
)
def test_networks_without_such_a_stem_are_named(name: str) -> None:
    with pytest.raises(UsageError, match="has no stem to make small") as caught:
        make_model(name, 5, stem="small")
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["torchvision:vit_b_32", "timm:vit_tiny_patch16_224"])
def test_transformers_are_made_for_the_size_of_images(name: str) -> None:
    assert make_model(name, 5, image_size=64)(torch.zeros(2, 3, 64, 64)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:fasterrcnn_resnet50_fpn", "no classifier"),
        ("timm:no_such", "timm has no model"),
        ("torchvision:vit_b_32", "cannot be made for images of 8 pixels"),
        ("torchvision:alexnet", "does not take images of 8 pixels"),
        ("tests.training.networks_for_tests:no_classifier", r"gives \[1, 5, 6, 6\] for one sample, need \[1, 5\]"),
    ],
)
def test_networks_that_cannot_classify_are_named(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_network(name, make_model(name, 5, image_size=8), sample_image(8), 5)


def test_backbones_have_the_small_stem_too() -> None:
    backbone, features = make_backbone("torchvision:resnet18", 32, "small")
    assert features == 512
    assert backbone.get_submodule("conv1").get_parameter("weight").shape == (64, 3, 3, 3)


@pytest.mark.parametrize("name", ["big_cnn", "torchvision:no_such", "no.such:thing", "tests.training:png"])
def test_unknown_models_are_named(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_model(name, 5)
    assert name.split(":")[-1] in str(caught.value)
