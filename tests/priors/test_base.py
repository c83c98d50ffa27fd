from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from coevo_ray.errors import UsageError
from coevo_ray.priors.base import (
    LoadedPrior,
    Prior,
    channels,
    feature_dim,
    known,
    make_prior,
    make_text_prior,
    require_modality,
    weights_hash,
)
from coevo_ray.priors.encoder import Encoder
from coevo_ray.priors.inputs import Samples, TextInput


class Means(nn.Module):
    """Features that can be computed by hand: the mean of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3)) * self.scale


class Maps(Means):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


def prior(module: nn.Module | None = None, dim: int = 3) -> LoadedPrior:
    return make_prior("test:means", module or Means(), 4, dim, (10.0, 20.0, 30.0), (2.0, 4.0, 5.0), "none")


def images(rows: int, size: int = 4) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.Generator(np.random.PCG64(0)).integers(0, 256, (rows, size, size, 3), dtype=np.uint8)


def test_a_prior_is_in_evaluation_mode_frozen_and_travels() -> None:
    module = nn.Sequential(Means(), nn.Dropout())
    made: Prior = prior(module)
    assert not any(m.training for m in module.modules())
    assert not any(p.requires_grad for p in module.parameters())
    copy = pickle.loads(pickle.dumps(made))
    assert copy.info == made.info
    assert np.array_equal(Encoder(copy, "cpu").encode(images(2)), Encoder(made, "cpu").encode(images(2)))
    assert "4 (bicubic)" in made.info.preprocessing
    assert "10 20 30" in made.info.preprocessing


def test_weights_hash_is_that_of_names_types_shapes_and_bytes() -> None:
    def linear(value: float, dtype: torch.dtype = torch.float32, columns: int = 6) -> nn.Linear:
        module = nn.Linear(columns, 12 // columns, bias=False).to(dtype)
        nn.init.constant_(module.weight, value)
        return module

    same = weights_hash(linear(1.0))
    assert same == weights_hash(linear(1.0))
    assert len(same) == 64
    for other in (linear(2.0), linear(1.0, torch.bfloat16), linear(1.0, columns=3), nn.Sequential(linear(1.0))):
        assert weights_hash(other) != same
    strided = linear(1.0)
    strided.weight = nn.Parameter(torch.ones(6, 2).T)
    assert weights_hash(strided) == same
    assert weights_hash(nn.BatchNorm1d(2)) != weights_hash(nn.BatchNorm1d(2, momentum=None, affine=False))


def test_feature_dim_is_found_or_explained() -> None:
    assert feature_dim("x:y", Means(), 8) == 3
    with pytest.raises(UsageError, match=r"x:y cannot take 2 pixels"):
        feature_dim("x:y", nn.Conv2d(3, 3, 5), 2)
    with pytest.raises(UsageError, match=r"x:y gives \[1, 3, 4, 4\]"):
        feature_dim("x:y", Maps(), 4)


def test_known_names_pass_and_others_get_the_nearest() -> None:
    names = [f"ViT-B-{i}" for i in range(20)]
    known("model", "ViT-B-7", names, "x:MODEL")
    with pytest.raises(UsageError, match=r"unknown model 'vit-b-7'; did you mean ViT-B-7") as caught:
        known("model", "vit-b-7", names, "x:MODEL")
    assert "and 8 more" in caught.value.remedy
    with pytest.raises(UsageError) as caught:
        known("model", "zzz", ["a", "b"], "x:MODEL")
    assert "did you mean" not in caught.value.cause
    assert caught.value.remedy == "write x:MODEL; known: a, b"


def test_channels_are_three() -> None:
    assert channels((0.0, 0.5, 1.0)) == (0.0, 127.5, 255.0)
    with pytest.raises(UsageError, match="2 values"):
        channels((0.5, 0.5))


class Counts(nn.Module):
    """Features that can be computed by hand: how often each of four tokens is in a text."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(tokens, 4).float().sum(dim=1)


def test_a_text_prior_says_how_texts_are_prepared() -> None:
    assert feature_dim("x:y", Counts(), 3, "text") == 4
    with pytest.raises(UsageError, match=r"x:y cannot take 3 tokens"):
        feature_dim("x:y", nn.Conv2d(3, 3, 5), 3, "text")
    made = make_text_prior("x:y", Counts(), 3, 4, lambda texts: np.zeros((len(texts), 3), np.int32), "none")
    assert (made.info.modality, made.info.input_size, made.info.dim) == ("text", 3, 4)
    assert "cut to 3" in made.info.preprocessing
    assert isinstance(made.input, TextInput)
    tokens = np.array([[0, 1, 1], [3, 3, 3]], np.int32)
    assert Encoder(made, "cpu").encode(tokens).tolist() == [[1, 2, 0, 0], [0, 0, 0, 3]]


def test_other_samples_are_refused_with_what_fits() -> None:
    require_modality("x:y", "image", Samples())
    require_modality("x:y", "text", Samples("text"))
    with pytest.raises(UsageError, match="x:y encodes texts, and the pool holds images") as caught:
        require_modality("x:y", "text", Samples())
    assert "efficientnet_lite:0|1|2" in caught.value.remedy
    with pytest.raises(UsageError, match="x:y encodes images, and the pool holds texts") as caught:
        require_modality("x:y", "image", Samples("text"))
    assert "open_clip:MODEL/PRETRAINED (its text tower)" in caught.value.remedy
