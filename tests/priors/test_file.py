from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from coevo_ray.errors import InputError, UsageError
from coevo_ray.priors.base import Prior
from coevo_ray.priors.encoder import Encoder
from coevo_ray.priors.inputs import Samples
from coevo_ray.priors.registry import check_prior, load_prior

IMAGES = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
_MODULE = """
import torch
from torch import nn

class Encoder:
    mean, std = (127.5,) * 3, (127.5,) * 3
    def __init__(self, input_size=64):
        torch.manual_seed(99)
        self.module = nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.dim, self.input_size = 6, input_size
"""


@pytest.fixture(autouse=True)
def _setting(offline: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    (tmp_path / "my_architecture_for_test.py").write_text(_MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))


def saved(state: Any, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def trained(name: str) -> Any:
    import timm
    from torchvision.models import get_model

    torch.manual_seed(7)
    return (timm.create_model(name) if name.startswith("test_") else get_model(name, num_classes=5)).eval()


def loaded(spec: str, input_size: int | None = 64) -> Prior:
    check_prior(spec, input_size)
    return load_prior(spec, input_size)


def expected(prior: Prior, network: Any) -> Any:
    """The network's features, normalised as the prior says."""
    rows = (torch.tensor(IMAGES).float() - torch.tensor(prior.mean)) / torch.tensor(prior.std)
    with torch.inference_mode():
        return network(rows.permute(0, 3, 1, 2)).numpy()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize(("library", "name"), [("torchvision", "resnet18"), ("timm", "test_resnet")])
def test_a_file_with_a_librarys_architecture(library: str, name: str, suffix: str, tmp_path: Path) -> None:
    network = trained(name)
    path = saved(network.state_dict(), tmp_path / f"mine.{suffix}")
    prior = loaded(f"file:{path}#{library}:{name}")
    network.fc = torch.nn.Identity()
    np.testing.assert_allclose(Encoder(prior, "cpu").encode(IMAGES), expected(prior, network), atol=1e-4)
    assert prior.info.name == f"file:{path}#{library}:{name}"
    assert prior.info.weights == load_prior(f"{library}:{name}/{path}", 64).info.weights
    assert prior.info.licence == "as stated by who made the weights' file"


def test_a_file_with_an_open_clip_architecture_serves_images_and_texts(tmp_path: Path) -> None:
    import open_clip

    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    (tmp_path / "tiny-test-clip-2.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-test-clip-2.json")
    network = open_clip.create_model("tiny-test-clip-2", pretrained=None).eval()
    spec = f"file:{saved(network.state_dict(), tmp_path / 'mine.safetensors')}#open_clip:tiny-test-clip-2"
    prior = loaded(spec, None)
    np.testing.assert_allclose(Encoder(prior, "cpu").encode(IMAGES), expected(prior, network.encode_image), atol=1e-4)
    texts = load_prior(spec, None, Samples("text"))
    assert (texts.info.name, texts.info.modality) == (spec, "text")


def test_a_file_with_the_users_architecture(tmp_path: Path) -> None:
    network = import_module("my_architecture_for_test").Encoder().module.eval()
    state = {key: value + 1 for key, value in network.state_dict().items()}
    network.load_state_dict(state)
    spec = f"file:{saved(state, tmp_path / 'mine.pt')}#my_architecture_for_test:Encoder"
    prior = loaded(spec)
    np.testing.assert_allclose(Encoder(prior, "cpu").encode(IMAGES), expected(prior, network), atol=1e-4)
    assert (prior.info.name, prior.info.licence) == (spec, "as stated by who made the weights' file")
    assert prior.info.weights != load_prior("callable:my_architecture_for_test:Encoder").info.weights
    with pytest.raises(UsageError, match="encodes images, and the pool holds texts"):
        load_prior(spec, None, Samples("text"))


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model.", "_orig_mod.", "backbone."])
def test_wrappers_prefixes_and_containers_are_taken_off(prefix: str, tmp_path: Path) -> None:
    state = trained("test_resnet").state_dict()
    plain = loaded(f"file:{saved(state, tmp_path / 'plain.pt')}#timm:test_resnet")
    wrapped = {"model": {prefix + key: value for key, value in state.items()}, "epoch": 3}
    prior = loaded(f"file:{saved(wrapped, tmp_path / 'wrapped.pt')}#timm:test_resnet")
    assert prior.info.weights == plain.info.weights


@pytest.mark.parametrize(("library", "name"), [("torchvision", "resnet18"), ("timm", "test_resnet")])
def test_missing_unexpected_and_misshapen_weights_are_named(library: str, name: str, tmp_path: Path) -> None:
    state = trained(name).state_dict()
    first, last = "bn1.weight", next(key for key in state if key.startswith("layer2"))
    for change, cause in (
        ({first: None}, rf"1 missing \({first}\)"),
        ({"extra.weight": torch.ones(1)}, r"1 unexpected \(extra\.weight\)"),
        ({last: torch.ones(2, 2)}, rf"1 of another shape \({last} \[2, 2\], need "),
    ):
        wrong = {key: value for key, value in {**state, **change}.items() if value is not None}
        with pytest.raises(InputError, match=rf"mine\.pt does not fit {library}:{name}: .*{cause}"):
            load_prior(f"file:{saved(wrong, tmp_path / 'mine.pt')}#{library}:{name}", 64)


def test_what_names_no_file_or_architecture_is_refused(tmp_path: Path) -> None:
    path = saved(trained("test_resnet").state_dict(), tmp_path / "mine.pt")
    for spec, error, cause in (
        (f"file:{path}", UsageError, "names no architecture"),
        (f"file:{path}#", UsageError, "names no architecture"),
        (f"file:{path}#resnet18", UsageError, "resnet18 is no architecture"),
        (f"file:{path}#torchvison:resnet18", UsageError, "did you mean torchvision"),
        (f"file:{path}#torchvision:resnet8", UsageError, "did you mean resnet18"),
        (f"file:{path}#my_architecture_for_test:Nothing", UsageError, "has no attribute 'Nothing'"),
        ("file:mine.pt#timm:test_resnet", InputError, "is relative"),
        ("file:/none/mine.pt#timm:test_resnet", InputError, "no weights at /none/mine.pt"),
    ):
        with pytest.raises(error, match=cause):
            check_prior(spec)
