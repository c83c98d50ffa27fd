from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coevo_ray.errors import InputError, UsageError
from coevo_ray.priors.encoder import Encoder
from coevo_ray.priors.registry import check_prior, load_prior

IMAGES = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
# A real CLIP, only small: OpenCLIP builds it as it builds its own.
_CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module", autouse=True)
def _small_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import open_clip

    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("models") / "tiny-test-clip.json"
    path.write_text(json.dumps(_CONFIG))
    open_clip.add_model_config(path)
    yield


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, and a network that refuses at once."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("https_proxy", "http_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")


def whole_model(seed: int) -> Any:
    import open_clip

    torch.manual_seed(seed)
    return open_clip.create_model("tiny-test-clip", pretrained=None)


def test_random_weights_are_seeded_and_leave_the_global_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    check_prior("open_clip:tiny-test-clip/random")
    one = load_prior("open_clip:tiny-test-clip/random")
    assert torch.equal(torch.rand(1), expected)
    assert one.info == load_prior("open_clip:tiny-test-clip/random").info
    assert (one.info.input_size, one.info.dim) == (32, 24)
    assert "random initialisation" in one.info.licence
    features = Encoder(one, "cpu").encode(IMAGES)
    assert features.shape == (3, 24)
    assert np.isfinite(features).all()


def test_features_are_those_of_encode_image(tmp_path: Path) -> None:
    import open_clip

    network = whole_model(3).eval()
    path = tmp_path / "mine.pt"
    torch.save({"state_dict": network.state_dict()}, path)
    check_prior(f"open_clip:tiny-test-clip/{path}")
    prior = load_prior(f"open_clip:tiny-test-clip/{path}")
    mean, std = torch.tensor(open_clip.OPENAI_DATASET_MEAN), torch.tensor(open_clip.OPENAI_DATASET_STD)
    inputs = ((torch.tensor(IMAGES).float() / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = network.encode_image(inputs)
    np.testing.assert_allclose(Encoder(prior, "cpu").encode(IMAGES), expected, atol=1e-4)
    assert not any("transformer.resblocks" in name and "visual" not in name for name in prior.module.state_dict())


def test_another_input_size_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    torch.save(whole_model(3).state_dict(), path)
    prior = load_prior(f"open_clip:tiny-test-clip/{path}", 64)
    assert prior.info.input_size == 64
    assert Encoder(prior, "cpu").encode(np.zeros((1, 64, 64, 3), np.uint8)).shape == (1, 24)


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    for name, content in (("empty.pt", b""), ("text.pt", b"<html>"), ("text.safetensors", b"<html>")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            load_prior(f"open_clip:tiny-test-clip/{tmp_path / name}")
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt"):
        load_prior(f"open_clip:tiny-test-clip/{tmp_path / 'other.pt'}")


def test_weights_that_cannot_be_downloaded_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    spec = "open_clip:ViT-B-32/laion2b_s34b_b79k"
    with pytest.raises(InputError, match="cannot be downloaded") as caught:
        check_prior(spec)
    assert "HF_HOME" in caught.value.remedy
    assert "open_clip:ViT-B-32/ABSOLUTE_PATH" in caught.value.remedy
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        check_prior(spec)
    with pytest.raises(InputError, match="cannot be downloaded"):
        check_prior("open_clip:RN50/yfcc15m")  # these are not on the Hub


def test_cached_weights_need_no_network(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--laion--CLIP-ViT-B-32-laion2B-s34B-b79K"
    (snapshot / "refs").mkdir(parents=True)
    (snapshot / "refs" / "main").write_text("0" * 40)
    folder = snapshot / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"damaged")
    check_prior("open_clip:ViT-B-32/laion2b_s34b_b79k")
    with pytest.raises(InputError, match=r"cannot read the weights .*open_clip_pytorch_model\.bin"):
        load_prior("open_clip:ViT-B-32/laion2b_s34b_b79k")


@pytest.mark.parametrize(
    ("spec", "cause"),
    [
        ("open_clip:vit-b-32/openai", "did you mean ViT-B-32"),
        ("open_clip:ViT-B-32", "names no weights"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79", "did you mean laion2b_s34b_b79k"),
    ],
)
def test_unknown_models_and_tags_are_refused(spec: str, cause: str) -> None:
    with pytest.raises(UsageError, match=cause):
        check_prior(spec)
