from __future__ import annotations

import pytest
import torch

from coevo_ray.errors import UsageError
from coevo_ray.training.models import make_model


@pytest.mark.parametrize("size", [8, 16, 33])
def test_the_small_network_takes_small_images(size: int) -> None:
    assert make_model("small_cnn", 7)(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_models_by_name() -> None:
    assert make_model("torchvision:resnet18", 5)(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    assert make_model("torchvision.models:resnet18", 5)(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize("name", ["big_cnn", "torchvision:no_such", "no.such:thing", "tests.training:png"])
def test_unknown_models_are_named(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_model(name, 5)
    assert name.split(":")[-1] in str(caught.value)
