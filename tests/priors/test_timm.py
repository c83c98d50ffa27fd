from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from coevo_ray.errors import InputError, UsageError
from coevo_ray.priors.encoder import Encoder
from coevo_ray.priors.inputs import ImageInput, Samples
from coevo_ray.priors.registry import check_prior, load_prior
from tests.priors.conftest import put_in_hub

PIXELS = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (3, 160, 160, 3), dtype=np.uint8)


pytestmark = pytest.mark.usefixtures("offline")


def network(name: str, seed: int = 3, **options: Any) -> Any:
    import timm

    torch.manual_seed(seed)
    return timm.create_model(name, **options).eval()


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet"])
def test_features_are_those_of_timms_own_preprocessing_and_model(name: str, tmp_path: Path) -> None:
    import timm.data as timm_data

    data: Any = timm_data
    whole = network(name)  # with its classifier
    path = tmp_path / "mine.pt"
    torch.save(whole.state_dict(), path)
    spec = f"timm:{name}/{path}"
    check_prior(spec)
    prior = load_prior(spec)
    whole.reset_classifier(0)
    settings = data.resolve_model_data_config(whole)
    transform = data.create_transform(**{**settings, "crop_pct": 1.0})
    with torch.inference_mode():
        expected = whole(torch.stack([transform(Image.fromarray(image)) for image in PIXELS])).numpy()
    assert prior.info.input_size == 160
    np.testing.assert_allclose(Encoder(prior, "cpu").encode(PIXELS), expected, atol=1e-4)
    assert "as stated by who made" in prior.info.licence


def test_cached_public_weights_need_no_network(offline: Path) -> None:
    whole = network("test_vit")
    save_file(whole.state_dict(), put_in_hub(offline, "timm/test_vit.r160_in1k", "model.safetensors"))
    prior = None
    for spec in ("timm:test_vit.r160_in1k", "timm:test_vit"):
        check_prior(spec)
        prior = load_prior(spec)
        assert prior.info.name == spec
    assert prior is not None
    assert "apache-2.0, as stated by timm" in prior.info.licence
    whole.reset_classifier(0)
    rows = ((torch.tensor(PIXELS).float() - torch.tensor(prior.mean)) / torch.tensor(prior.std)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        np.testing.assert_allclose(Encoder(prior, "cpu").encode(PIXELS), whole(rows), atol=1e-4)


def test_damaged_cached_weights_are_named(offline: Path) -> None:
    put_in_hub(offline, "timm/test_vit.r160_in1k", "model.safetensors").write_bytes(b"<html>")
    check_prior("timm:test_vit")
    with pytest.raises(InputError, match=r"cannot read the weights .*model\.safetensors"):
        load_prior("timm:test_vit")


def test_random_weights_are_seeded_and_leave_the_global_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    check_prior("timm:test_resnet/random")
    one = load_prior("timm:test_resnet/random", 64)
    assert torch.equal(torch.rand(1), expected)
    assert one.info == load_prior("timm:test_resnet/random", 64).info
    assert (one.info.input_size, one.info.licence) == (64, "none: random initialisation, seed 0")


def test_a_tag_says_how_pixels_are_prepared_whatever_the_weights(tmp_path: Path) -> None:
    name = "convnext_tiny.in12k_ft_in1k_384"
    squashed = load_prior(f"timm:{name}/random", 32)
    assert squashed.input == ImageInput(32, "squash")
    assert squashed.info.preprocessing.startswith("RGB 0..255, squashed to 32,")
    assert load_prior("timm:convnext_tiny/random", 32).input == ImageInput(32, "center")
    torch.save(squashed.module.state_dict(), tmp_path / "mine.pt")
    again = load_prior(f"timm:{name}/{tmp_path / 'mine.pt'}", 32)
    assert (again.input, again.info.weights) == (squashed.input, squashed.info.weights)
    vit = load_prior("timm:test_vit/random")
    assert (vit.input, vit.mean, vit.std) == (ImageInput(160, "center"), (127.5,) * 3, (127.5,) * 3)


def test_a_model_with_positions_takes_another_size(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    torch.save(network("test_vit").state_dict(), path)
    prior = load_prior(f"timm:test_vit/{path}", 96)
    assert prior.input == ImageInput(96)
    assert Encoder(prior, "cpu").encode(np.zeros((1, 96, 96, 3), np.uint8)).shape == (1, prior.info.dim)
    with pytest.raises(UsageError, match="cannot take 90 pixels"):
        load_prior(f"timm:test_vit/{path}", 90)


def test_the_classifiers_weights_may_be_absent_or_of_another_size(tmp_path: Path) -> None:
    hashes = set()
    for classes in (1000, 7, 0):
        state = network("test_resnet").state_dict()
        if classes:
            state["fc.weight"] = torch.ones(classes, state["fc.weight"].shape[1])
        else:
            state = {key: value for key, value in state.items() if not key.startswith("fc.")}
        torch.save(state, tmp_path / "mine.pt")
        hashes.add(load_prior(f"timm:test_resnet/{tmp_path / 'mine.pt'}", 64).info.weights)
    assert len(hashes) == 1


def test_weights_that_cannot_be_downloaded_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    for look in (check_prior, load_prior):
        with pytest.raises(InputError, match=r"weights of timm:test_vit\.r160_in1k .*cannot be downloaded") as caught:
            look("timm:test_vit.r160_in1k")
        assert "HF_HOME" in caught.value.remedy
        assert "timm:test_vit.r160_in1k/ABSOLUTE_PATH" in caught.value.remedy
    with pytest.raises(InputError, match="cannot be downloaded") as caught:
        check_prior("timm:mixer_l16_224")  # not on the Hub
    assert "TORCH_HOME" in caught.value.remedy
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        check_prior("timm:test_vit")


@pytest.mark.parametrize(
    ("spec", "cause"),
    [
        ("timm:resnet18x", "did you mean resnet18"),
        ("timm:resnet18.a1_in1", "did you mean a1_in1k"),
        ("timm:resnet18/a1_in1k", "'a1_in1k' is no file"),
    ],
)
def test_unknown_models_and_tags_are_refused(spec: str, cause: str) -> None:
    with pytest.raises(UsageError, match=cause):
        check_prior(spec)


def test_models_without_public_weights_say_so() -> None:
    import timm

    name = next(n for n in timm.list_models() if not timm.models.is_model_pretrained(n))
    with pytest.raises(UsageError, match="has no public weights"):
        check_prior(f"timm:{name}")


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match="needs the package timm") as caught:
        check_prior("timm:resnet18")
    assert caught.value.remedy == "pip install 'coevo-ray[timm]'"


def test_texts_are_refused() -> None:
    for look in (check_prior, load_prior):
        with pytest.raises(UsageError, match="timm:test_vit/random encodes images, and the pool holds texts"):
            look("timm:test_vit/random", None, Samples("text"))
