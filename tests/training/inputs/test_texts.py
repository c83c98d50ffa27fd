"""Fine-tuning encoders of texts: tokens, views, trainings of each objective, networks that load elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import coevo_ray
from coevo_ray.config import TrainConfig
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.pool import Pool
from coevo_ray.store.location import Location
from coevo_ray.training.inputs.base import backbone_for
from coevo_ray.training.inputs.choose import open_input, settled
from coevo_ray.training.inputs.shapes import check_size, shape_of
from coevo_ray.training.inputs.texts import TOKENIZER, TextShape, TokenViews
from coevo_ray.training.networks import TextPreprocess
from tests.priors.tiny_texts import CONTEXT, SENTENCES, save_bert
from tests.training.inputs import clouds, pool_of, targets_of

WORDS = ("one", "two", "three", "four")
SETTINGS: dict[str, Any] = {"batch_rows": 16, "epochs": 6, "learning_rate": 0.01, "compute": {"cpus": 0.5}}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert") / "model")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    _, labels = clouds()
    texts = [f"plain text about {WORDS[label]} and {'x ' * (row % 7)}" for row, label in enumerate(labels)]
    return pool_of(tmp_path_factory.mktemp("texts") / "pool", "text", labels, text=pa.array(texts))


@given(st.integers(0, 2**31), st.lists(st.integers(0, 8), min_size=1, max_size=5), st.floats(0, 3))
def test_strong_views_leave_tokens_out_and_keep_the_order_of_the_others(
    seed: int, lengths: list[int], strength: float
) -> None:
    widest = max(1, *lengths)
    tokens = torch.full((len(lengths), widest), -1, dtype=torch.int32)
    for row, length in enumerate(lengths):
        tokens[row, :length] = torch.arange(10, 10 + length)
    numbers = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(seed))
    views = TokenViews(strength)
    assert views.numbers(tokens) == widest and torch.equal(views.weak(tokens, numbers), tokens)
    for row, (length, strong) in enumerate(zip(lengths, views.strong(tokens, numbers).tolist(), strict=True)):
        kept = [10 + i for i in range(length) if i in (0, length - 1) or numbers[row, i] >= 0.15 * strength]
        assert strong == kept + [-1] * (widest - len(kept))


def test_tokens_are_those_of_the_library_with_padding_behind(bert: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    shape = TextShape.of_model(f"hf:{bert}#mean", None)
    assert shape.context == CONTEXT
    tokenizer = AutoTokenizer.from_pretrained(bert)
    tokens = shape.tokenize(SENTENCES)
    for row, text in zip(tokens, SENTENCES, strict=True):
        wanted = tokenizer(text, truncation=True, max_length=CONTEXT)["input_ids"]
        assert row[row >= 0].tolist() == wanted and (row[len(wanted) :] == -1).all()
    short = TextShape.of_model(f"hf:{bert}", 5)
    assert short.tokenize(SENTENCES).shape[1] == 5
    with pytest.raises(InputError, match=rf"max_tokens is 99, .* takes {CONTEXT}"):
        TextShape.of_model(f"hf:{bert}", 99)
    # The features are the mean of the library's last hidden states; weights without a part in it do not learn.
    backbone, dim = backbone_for(shape, f"hf:{bert}#mean")
    model, given = AutoModel.from_pretrained(bert).eval(), torch.from_numpy(tokens)
    with torch.inference_mode():
        hidden = model(input_ids=given.clamp(min=0).long(), attention_mask=(given >= 0).long()).last_hidden_state
        mask = (given >= 0)[:, :, None]
        expected = (hidden * mask).sum(1) / mask.sum(1)
        assert torch.allclose(backbone.eval()(given), expected, atol=1e-5) and dim == expected.shape[1]
    frozen = {name for name, p in shape.network(f"hf:{bert}#mean", 3).named_parameters() if not p.requires_grad}
    assert frozen == {"encoder.network.pooler.dense.weight", "encoder.network.pooler.dense.bias"}


def test_defaults_are_for_fine_tuning_and_settings_of_images_are_refused(bert: Path) -> None:
    found = settled(TrainConfig(model=f"hf:{bert}", clip_norm=3.0), "text")
    assert (found.optimizer, found.learning_rate, found.clip_norm) == ("adamw", 5e-5, 3.0)
    with pytest.raises(UsageError, match="augment is set, and the training takes texts"):
        settled(TrainConfig(model=f"hf:{bert}", augment="shift"), "text")
    with pytest.raises(UsageError, match="max_tokens is set, and the training takes the vectors of targets"):
        settled(TrainConfig(max_tokens=8), "text")
    with pytest.raises(UsageError, match="takes texts, the pool holds images"):
        settled(TrainConfig(model="hf:a/b"), "image")
    with pytest.raises(UsageError, match="does not take the vectors of vector"):
        settled(TrainConfig(model="hf:a/b", features=None), "vector")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_an_encoder_is_fine_tuned_and_loaded_elsewhere(
    bert: Path, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SETTINGS, "model": f"hf:{bert}#mean", "policies": ["random"], "keep": 0.6}
    made = coevo_ray.train_supervised(settings, pool, tmp_path / "out")
    assert made["accuracy"] > 0.9
    (tmp_path / "model").mkdir()
    network = coevo_ray.load_network(tmp_path / "out")
    assert isinstance(network.preprocess, TextPreprocess)
    test = pool.test_ids()
    texts = pool.read(test, ["text"]).column("text").to_pylist()
    shown = network.preprocess(texts)
    with torch.inference_mode():
        logits = network.module(shown)
    assert (logits.argmax(1).numpy() == pool.labels()[test]).mean() == pytest.approx(made["accuracy"])
    assert network.preprocess(texts[0]).tolist() == [i for i in shown[0].tolist() if i >= 0]
    # By the card's own lines, without this package.
    scope: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path / "out")
    exec("\n".join(network.card["load"]), scope)
    mask = (shown >= 0).long()
    with torch.inference_mode():
        assert torch.allclose(scope["network"](shown.clamp(min=0).long(), mask), logits, atol=1e-5)
    # Another training starts from it, with its tokenizer; another vocabulary is another network.
    begun = coevo_ray.train_supervised({**settings, "epochs": 1}, pool, tmp_path / "on", init=made)
    assert begun["accuracy"] > 0.9
    place = Location.parse(tmp_path / "out")
    (tmp_path / "out" / TOKENIZER).write_text("{")
    with pytest.raises(InputError, match=TOKENIZER):
        shape_of(network.card, place)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_the_other_objectives_take_texts_too(bert: Path, pool: Pool, tmp_path: Path) -> None:
    matrix, labels = clouds()
    few = labels.copy()
    few[(np.arange(len(few)) % 4 > 0) & (pool.splits() == 0)] = -1
    poor = pool_of(tmp_path / "poor", "text", few, text=pool.scan(["text"]).column("text").combine_chunks())
    model = {**SETTINGS, "model": f"hf:{bert}#mean", "least_steps": 150}
    semi = coevo_ray.train_semi_supervised(model, poor, tmp_path / "semi")
    assert semi["accuracy"] > 0.9 and semi["confident_share"] > 0
    targets = targets_of(tmp_path / "targets", pool, matrix, np.arange(len(labels)))
    made = coevo_ray.train_targets({**SETTINGS, "model": f"hf:{bert}#mean"}, pool, targets, tmp_path / "out")
    assert made["history"][-1]["loss"] < 0.7 * made["history"][0]["loss"] and made["linear_probe"] > 0.9
    head = coevo_ray.train_supervised({**SETTINGS, "epochs": 2, "policies": ["full"]}, pool, tmp_path / "h", init=made)
    assert head["accuracy"] > 0.9


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_two_workers_learn_what_one_does(bert: Path, pool: Pool, tmp_path: Path) -> None:
    """Dropout draws by worker, so that losses are near, not equal; nothing waits for weights without a gradient."""
    settings = {**SETTINGS, "epochs": 2, "model": f"hf:{bert}#mean", "policies": ["full"]}
    one = coevo_ray.train_supervised(settings, pool, tmp_path / "one")
    two = coevo_ray.train_supervised({**settings, "compute": {"cpus": 0.5, "actors": 2}}, pool, tmp_path / "two")
    assert two["samples"] == one["samples"]
    assert two["history"][0]["loss"] == pytest.approx(one["history"][0]["loss"], rel=0.1)


def test_an_encoder_that_its_weights_cannot_be_is_refused_before_memory_is_taken(bert: Path) -> None:
    said = TextShape.of_model(f"hf:{bert}", None).settings()
    weights = sum(p.numel() for p in TextShape.of_model(f"hf:{bert}", None).network(f"hf:{bert}", 2).parameters())
    check_size(said, 4 * weights, "network.json")
    for name, value in (("vocab_size", 10**12), ("num_hidden_layers", 10**9), ("hidden_size", 2048)):
        changed = {"input": {**said["input"], "encoder": {**said["input"]["encoder"], name: value}}}
        with pytest.raises(InputError, match=r"network.json describes an encoder with \d+ weights or more"):
            check_size(changed, 4 * weights, "network.json")
    with pytest.raises(InputError, match="cannot load"):
        check_size({"input": {"kind": "text", "encoder": {"model_type": "no such"}}}, 10**6, "network.json")
    check_size({"input": {"kind": "vector", "dim": 10**9}}, 1, "network.json")  # others are checked elsewhere


def test_a_model_that_is_not_there_is_named_before_any_work(pool: Pool, tmp_path: Path) -> None:
    config = settled(TrainConfig(model=f"hf:{tmp_path / 'none'}"), "text")
    with pytest.raises(InputError, match="there is no folder"):
        open_input(config, pool, None)
    assert json.dumps(config.content())
