from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from coevo_ray.errors import InputError, UsageError
from coevo_ray.priors.encoder import Encoder
from coevo_ray.priors.inputs import ImageInput, Samples, TextInput
from coevo_ray.priors.open_clip import _common_preset
from coevo_ray.priors.registry import check_prior, load_prior
from tests.priors.conftest import put_in_hub

IMAGES = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
TEXTS = Samples("text")
# A real CLIP, only small: OpenCLIP builds it as it builds its own.
_CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module", autouse=True)
def _small_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import open_clip

    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("models") / "tiny-test-clip.json"
    path.write_text(json.dumps(_CONFIG))
    open_clip.add_model_config(path)
    yield


pytestmark = pytest.mark.usefixtures("offline")


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


@pytest.mark.parametrize("context", [None, 6])
def test_features_of_texts_are_those_of_encode_text(context: int | None, tmp_path: Path) -> None:
    import open_clip

    network = whole_model(3).eval()
    path = tmp_path / "mine.pt"
    torch.save(network.state_dict(), path)
    if context:
        network = open_clip.create_model("tiny-test-clip", pretrained=str(path), force_context_length=context).eval()
    check_prior(f"open_clip:tiny-test-clip/{path}", context, TEXTS)
    prior = load_prior(f"open_clip:tiny-test-clip/{path}", context, TEXTS)
    assert (prior.info.modality, prior.info.input_size, prior.info.dim) == ("text", context or 8, 24)
    source = pickle.loads(pickle.dumps(prior.input))
    assert isinstance(source, TextInput)
    assert source.context == (context or 8)
    sentences = ["a photo of a cat", "", "words " * 40, "naïve café, 東京"]
    tokens = source.tokenize(sentences)
    assert tokens.dtype == np.int32
    expected_tokens = open_clip.get_tokenizer("tiny-test-clip", context_length=context)(sentences)
    assert np.array_equal(tokens, expected_tokens)
    with torch.inference_mode():
        expected = network.encode_text(expected_tokens)
    np.testing.assert_allclose(Encoder(prior, "cpu", batch_rows=3).encode(tokens), expected, atol=1e-5)
    assert not any("visual" in name for name in prior.module.state_dict())


@pytest.mark.slow
def test_tokens_are_made_where_the_input_travels(tmp_path: Path) -> None:
    """Another process, which knows the model by its name only."""
    prior = load_prior("open_clip:tiny-test-clip/random", None, TEXTS)
    (tmp_path / "input.pickle").write_bytes(pickle.dumps(prior.input))
    code = (
        "import pickle, sys; i = pickle.load(open(sys.argv[1], 'rb'));"
        "assert 'open_clip' not in sys.modules; print(i.tokenize(['two words']).tolist())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "input.pickle")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert isinstance(prior.input, TextInput)
    assert json.loads(done.stdout.splitlines()[-1]) == prior.input.tokenize(["two words"]).tolist()


def test_a_contrastive_captioner_gives_its_plain_text_features(tmp_path: Path) -> None:
    import open_clip

    path = tmp_path / "tiny-test-coca.json"
    decoder = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    # Its text tower adds a token of its own, so its texts are one token shorter.
    text = {**decoder, "context_length": 7, "embed_cls": True, "output_tokens": True}
    path.write_text(json.dumps({**_CONFIG, "text_cfg": text, "multimodal_cfg": decoder, "custom_text": True}))
    open_clip.add_model_config(path)
    torch.manual_seed(2)
    network = open_clip.create_model("tiny-test-coca", pretrained=None).eval()
    torch.save(network.state_dict(), tmp_path / "mine.pt")
    prior = load_prior(f"open_clip:tiny-test-coca/{tmp_path / 'mine.pt'}", None, TEXTS)
    assert isinstance(prior.input, TextInput)
    tokens = prior.input.tokenize(["a photo of a cat"])
    with torch.inference_mode():
        expected = network.encode_text(torch.tensor(tokens), normalize=False)
    np.testing.assert_allclose(Encoder(prior, "cpu").encode(tokens), expected, atol=1e-5)


def test_squashed_models_say_so() -> None:
    assert _common_preset("ViT-B-16-SigLIP")["resize_mode"] == "squash"
    assert _common_preset("ViT-B-16-SigLIP")["mean"] == (0.5, 0.5, 0.5)
    assert _common_preset("tiny-test-clip") == {}
    assert _common_preset("ViT-B-32")["mean"] == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-4)
    assert _common_preset("ViT-L-14") == {}  # its tags differ


def test_a_checkpoint_is_prepared_as_the_models_tags_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import open_clip

    tag = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "resize_mode": "squash", "url": "none"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-test-clip", {"one": tag, "two": {**tag}})
    torch.save(whole_model(3).state_dict(), tmp_path / "mine.pt")
    prior = load_prior(f"open_clip:tiny-test-clip/{tmp_path / 'mine.pt'}")
    assert prior.input == ImageInput(32, "squash")
    assert (prior.mean, prior.std) == ((127.5,) * 3, (127.5,) * 3)


def test_tokenizers_of_the_hub_are_looked_for_before_any_work(monkeypatch: pytest.MonkeyPatch, offline: Path) -> None:
    spec = "open_clip:ViT-B-16-SigLIP/random"
    check_prior(spec)  # its image tower needs none
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match="needs the package transformers"):
        check_prior(spec, None, TEXTS)
    monkeypatch.setitem(sys.modules, "transformers", ModuleType("transformers"))
    with pytest.raises(InputError, match="its tokenizer timm/ViT-B-16-SigLIP") as caught:
        check_prior(spec, None, TEXTS)
    assert "HF_HOME" in caught.value.remedy
    put_in_hub(offline, "timm/ViT-B-16-SigLIP", "tokenizer.json").write_text("{}")
    check_prior(spec, None, TEXTS)


def test_text_towers_of_the_hub_are_looked_for_even_for_images(monkeypatch: pytest.MonkeyPatch, offline: Path) -> None:
    monkeypatch.setitem(sys.modules, "transformers", ModuleType("transformers"))
    spec = "open_clip:roberta-ViT-B-32/random"
    with pytest.raises(InputError, match="its text tower roberta-base"):
        check_prior(spec)
    put_in_hub(offline, "roberta-base", "config.json").write_text("{}")
    check_prior(spec)
    with pytest.raises(InputError, match="its tokenizer roberta-base"):
        check_prior(spec, None, TEXTS)


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
    from huggingface_hub import constants

    spec = "open_clip:ViT-B-32/laion2b_s34b_b79k"
    with pytest.raises(InputError, match="cannot be downloaded") as caught:
        check_prior(spec)
    assert "HF_HOME" in caught.value.remedy
    assert "open_clip:ViT-B-32/ABSOLUTE_PATH" in caught.value.remedy
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        check_prior(spec)
    with pytest.raises(InputError, match="cannot be downloaded"):
        check_prior("open_clip:RN50/yfcc15m")  # these are not on the Hub


def test_cached_weights_need_no_network(offline: Path) -> None:
    put_in_hub(offline, "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "open_clip_pytorch_model.bin").write_bytes(b"damaged")
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
