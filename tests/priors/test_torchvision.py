from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from coevo_ray.errors import InputError, UsageError
from coevo_ray.priors.encoder import Encoder
from coevo_ray.priors.inputs import Samples
from coevo_ray.priors.registry import check_prior, load_prior
from coevo_ray.priors.torchvision import _cached, _entry, _random, _strip_head

# The same images in all tests of this file.
IMAGES = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty cache, and a network that refuses at once."""
    torch.set_num_threads(1)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("https_proxy", "http_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    yield


def cache_weights(model: str, weights: str, state: dict[str, Any] | bytes) -> Path:
    """Puts weights where torchvision looks for downloaded ones."""
    entry = _entry(model, weights)
    assert entry is not None
    path = _cached(entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(state, bytes):
        path.write_bytes(state)
    else:
        torch.save(state, path)
    return path


def test_random_weights_are_seeded_and_leave_the_global_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one = load_prior("torchvision:mobilenet_v2/random", 64)
    assert torch.equal(torch.rand(1), expected)
    two = load_prior("torchvision:mobilenet_v2/random", 64)
    assert one.info == two.info
    assert "random initialisation, seed 0" in one.info.licence
    assert np.array_equal(Encoder(one, "cpu").encode(IMAGES), Encoder(two, "cpu").encode(IMAGES))
    assert load_prior("torchvision:mobilenet_v2/random").info.input_size == 224


def test_features_are_what_the_classifier_sees() -> None:
    prior = load_prior("torchvision:resnet18/random", 64)
    assert prior.info.dim == 512
    network = _random("resnet18").eval()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    inputs = ((torch.tensor(IMAGES).float() / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        logits = network(inputs)
        features = torch.tensor(Encoder(prior, "cpu").encode(IMAGES))
        last = network.fc
        assert isinstance(last, nn.Linear)
        np.testing.assert_allclose(logits, last(features), atol=1e-4)


@pytest.mark.parametrize(
    ("model", "dim"),
    [
        ("squeezenet1_1", 512),
        ("shufflenet_v2_x0_5", 1024),
        ("mnasnet0_5", 1280),
        ("convnext_tiny", 768),
        ("swin_t", 768),
    ],
)
def test_every_kind_of_head_is_taken_off(model: str, dim: int) -> None:
    module = _random(model).eval()
    _strip_head(module, model)
    with torch.inference_mode():
        assert module(torch.zeros(2, 3, 64, 64)).shape == (2, dim)


def test_cached_weights_need_no_network() -> None:
    torch.manual_seed(1)
    from torchvision.models import resnet18

    network = resnet18().eval()
    cache_weights("resnet18", "IMAGENET1K_V1", network.state_dict())
    check_prior("torchvision:resnet18/IMAGENET1K_V1")
    prior = load_prior("torchvision:resnet18/DEFAULT", 64)
    assert "ImageNet" in prior.info.licence
    network.fc = nn.Identity()
    mean, std = torch.tensor(prior.mean), torch.tensor(prior.std)
    with torch.inference_mode():
        expected = network(((torch.tensor(IMAGES).float() - mean) / std).permute(0, 3, 1, 2))
    np.testing.assert_allclose(Encoder(prior, "cpu").encode(IMAGES), expected, atol=1e-4)


def test_weights_that_cannot_be_downloaded_name_the_remedy() -> None:
    for look in (check_prior, load_prior):
        with pytest.raises(InputError, match=r"weights of torchvision:resnet18/IMAGENET1K_V1") as caught:
            look("torchvision:resnet18/IMAGENET1K_V1")
        assert "TORCH_HOME" in caught.value.remedy
        assert "ABSOLUTE_PATH" in caught.value.remedy


def test_damaged_or_dangerous_cached_weights_are_refused(tmp_path: Path) -> None:
    cache_weights("resnet18", "DEFAULT", b"<html>")
    check_prior("torchvision:resnet18/DEFAULT")  # it is there; only reading shows that it is damaged
    with pytest.raises(InputError, match=r"cannot read the weights .*resnet18.*\.pth"):
        load_prior("torchvision:resnet18/DEFAULT")

    cache_weights("resnet18", "DEFAULT", {"a": _Touch(tmp_path / "was_run")})
    with pytest.raises(InputError, match="cannot read the weights"):
        load_prior("torchvision:resnet18/DEFAULT")
    assert not (tmp_path / "was_run").exists()


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.mkdir, (str(self.path),)


def test_a_local_file_stands_in_for_public_weights(tmp_path: Path) -> None:
    torch.manual_seed(2)
    from torchvision.models import resnet18

    path = tmp_path / "mine.pt"
    torch.save(resnet18().state_dict(), path)
    check_prior(f"torchvision:resnet18/{path}")
    prior = load_prior(f"torchvision:resnet18/{path}", 64)
    assert prior.info.weights != load_prior("torchvision:resnet18/random", 64).info.weights
    with pytest.raises(InputError, match="does not fit torchvision:resnet34"):
        load_prior(f"torchvision:resnet34/{path}", 64)
    with pytest.raises(InputError, match="no weights at"):
        check_prior(f"torchvision:resnet18/{tmp_path}/none.pt")


def test_the_classifiers_weights_may_be_absent_or_of_another_size(tmp_path: Path) -> None:
    for name, head in (("resnet18", "fc."), ("mobilenet_v2", "classifier.1."), ("squeezenet1_1", "classifier.")):
        state = _random(name).state_dict()
        whole = load_prior(f"torchvision:{name}/random", 64).info.weights
        for changed in (
            {key: value for key, value in state.items() if not key.startswith(head)},
            {key: value[:2] if key.startswith(head) else value for key, value in state.items()},
        ):
            torch.save(changed, tmp_path / "mine.pt")
            assert load_prior(f"torchvision:{name}/{tmp_path / 'mine.pt'}", 64).info.weights == whole


def test_texts_are_refused() -> None:
    for look in (check_prior, load_prior):
        with pytest.raises(UsageError, match="torchvision:resnet18/random encodes images, and the pool holds texts"):
            look("torchvision:resnet18/random", None, Samples("text"))


def test_unknown_models_weights_and_sizes_are_refused() -> None:
    for spec, cause in (
        ("torchvision:resnet8/DEFAULT", "did you mean resnet18"),
        ("torchvision:resnet18", "names no weights"),
        ("torchvision:resnet18/IMAGENET", "did you mean IMAGENET1K_V1"),
    ):
        with pytest.raises(UsageError, match=cause):
            check_prior(spec)
    with pytest.raises(UsageError, match="at 64 pixels"):
        check_prior("torchvision:vit_b_16/DEFAULT", 64)
    with pytest.raises(UsageError, match="cannot take 8 pixels"):
        load_prior("torchvision:alexnet/random", 8)
