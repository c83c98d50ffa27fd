from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from coevo_ray.errors import UsageError
from coevo_ray.training.images import ImageTransform, shift
from coevo_ray.training.models import make_model
from tests.training import png


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


def test_images_become_scaled_tensors() -> None:
    rows = pa.table({"image": [png(np.full((8, 8), v, np.uint8)) for v in (0, 255)]})
    images = ImageTransform(16, "none")(rows, np.random.default_rng(0))["image"]
    assert images.shape == (2, 3, 16, 16)
    assert images.dtype == torch.float32
    assert torch.allclose(images[0, 0], torch.tensor(-123.7 / 58.4), atol=1e-4)
    assert torch.allclose(images[1, 0], torch.tensor((255 - 123.7) / 58.4), atol=1e-4)


def test_shift_moves_every_image_by_at_most_its_bound() -> None:
    images = np.zeros((50, 9, 9, 3), dtype=np.uint8)
    images[:, 4, 4] = 255
    moved = shift(images, np.random.default_rng(0), 2)
    places = np.argwhere(moved[..., 0] == 255)
    assert len(places) == 50
    assert np.abs(places[:, 1:] - 4).max() == 2
    assert len(np.unique(places[:, 1:], axis=0)) > 10


def test_augmentation_is_a_function_of_its_generator() -> None:
    rows = pa.table({"image": [png(np.random.default_rng(i).integers(0, 255, (8, 8), np.uint8)) for i in range(6)]})
    transform = ImageTransform(8, "shift_flip")
    one, two, other = (transform(rows, np.random.default_rng(s))["image"] for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
