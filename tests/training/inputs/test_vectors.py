"""Training on vectors: heads on a pool's vectors, a feature column or targets, for each objective."""

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
from coevo_ray.config import SemiTrainConfig, TargetTrainConfig, TrainConfig, make_config
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.pool import Pool
from coevo_ray.store.row_table import RowTable, vector_column, vectors
from coevo_ray.training.feed.batch import joined, laid_out
from coevo_ray.training.feed.vectors import VectorTransform
from coevo_ray.training.inputs.choose import open_input, settled
from coevo_ray.training.inputs.vectors import VectorNetwork, VectorShape, VectorViews
from coevo_ray.training.networks import VectorPreprocess
from tests.training import trained_folder
from tests.training.inputs import DIM, ROWS, clouds, pool_of, targets_of


@pytest.fixture(scope="module")
def vector_pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    matrix, labels = clouds()
    return pool_of(tmp_path_factory.mktemp("v") / "pool", "vector", labels, vector=vector_column(matrix, np.float32))


@pytest.fixture(scope="module")
def text_pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    _, labels = clouds()
    return pool_of(tmp_path_factory.mktemp("t") / "pool", "text", labels, text=pa.array([f"{i}" for i in labels]))


@pytest.fixture(scope="module")
def text_targets(text_pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> RowTable:
    """Row 3, a training row, and row 5, a held-out one, have none."""
    rows = np.setdiff1d(np.arange(ROWS), [3, 5])
    return targets_of(tmp_path_factory.mktemp("tt") / "targets", text_pool, clouds()[0], rows)


@pytest.mark.parametrize("hidden", [0, 5])
def test_a_network_is_its_formula_on_centred_vectors_of_one_mean_length(hidden: int) -> None:
    torch.manual_seed(0)
    matrix, _ = clouds()
    network = VectorNetwork(DIM, 3, hidden)
    mean = matrix.mean(axis=0)
    network.normalise(torch.from_numpy(mean), float(((matrix - mean) ** 2).mean()))
    x = (matrix - mean) / np.sqrt(np.square(matrix - mean).sum(axis=1).mean() / 256)
    assert np.square(x).sum(axis=1).mean() == pytest.approx(256, rel=1e-4)
    weights = {name: value.double().numpy() for name, value in network.state_dict().items()}
    if hidden:
        x = np.maximum(0, x @ weights["hidden.0.weight"].T + weights["hidden.0.bias"])
    expected = x @ weights["head.weight"].T + weights["head.bias"]
    assert np.allclose(network(torch.from_numpy(matrix)).detach().numpy(), expected, atol=1e-4)


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**31), st.floats(0, 2))
def test_strong_views_cut_what_lies_below_the_bound_to_the_mean(
    rows: int, dim: int, seed: int, strength: float
) -> None:
    random = torch.Generator().manual_seed(seed)
    samples, numbers, mean = (torch.rand(size, generator=random) for size in ((rows, dim), (rows, dim), (dim,)))
    views = VectorViews(mean, strength)
    assert views.numbers(samples) == dim
    assert torch.equal(views.weak(samples, numbers), samples)
    strong = views.strong(samples, numbers)
    for row in range(rows):
        for place in range(dim):
            cut = numbers[row, place] < 0.3 * strength
            assert strong[row, place] == (mean[place] if cut else samples[row, place])


def test_tokens_of_two_batches_join_with_padding_behind_the_shorter_ones() -> None:
    short, long = torch.tensor([[7, 8]], dtype=torch.int32), torch.tensor([[1, 2, 3], [4, -1, -1]], dtype=torch.int32)
    assert joined(short, long).tolist() == [[7, 8, -1], [1, 2, 3], [4, -1, -1]]
    assert joined(long, short).tolist() == [[1, 2, 3], [4, -1, -1], [7, 8, -1]]
    with pytest.raises(RuntimeError):
        joined(torch.zeros(1, 2), torch.zeros(1, 3))  # vectors are not padded
    assert laid_out(torch.zeros(2, 3)).is_contiguous()
    assert laid_out(torch.zeros(2, 3, 4, 4)).is_contiguous(memory_format=torch.channels_last)


def test_half_precision_columns_become_floats_with_labels_and_targets() -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(3, 2)
    rows = pa.table({"row_id": [0, 1, 2], "v": vector_column(matrix), "label": pa.array([1, None, 0])})
    made = VectorTransform("v")(rows, np.zeros(3, np.uint64))
    assert made["v"].dtype == torch.float32 and torch.equal(made["v"], torch.from_numpy(matrix))
    assert made["label"].tolist() == [1, -1, 0]


CHOICES: list[tuple[str, dict[str, Any], tuple[str, str | None]]] = [
    ("image", {}, ("small_cnn", None)),
    ("image", {"features": "targets"}, ("linear", "targets")),
    ("image", {"model": "mlp"}, ("mlp", "targets")),
    ("image", {"features": "clip", "model": "my.module:net"}, ("my.module:net", "clip")),
    ("vector", {}, ("linear", "vector")),
    ("vector", {"model": "mlp", "features": "clip"}, ("mlp", "clip")),
    ("text", {}, ("linear", "targets")),
    ("text", {"features": "tfidf"}, ("linear", "tfidf")),
]


@pytest.mark.parametrize(("modality", "given_settings", "expected"), CHOICES)
@pytest.mark.parametrize("kind", [TrainConfig, SemiTrainConfig, TargetTrainConfig])
def test_what_a_training_takes_follows_from_the_pool(
    kind: type[TrainConfig], modality: str, given_settings: dict[str, Any], expected: tuple[str, str | None]
) -> None:
    found = settled(kind.model_validate(given_settings), modality)
    assert (found.model, found.features) == expected


@pytest.mark.parametrize(
    ("modality", "given_settings", "actors"),
    [
        ("vector", {}, 1),
        ("text", {}, 1),
        ("image", {"features": "targets"}, 1),
        ("vector", {"compute": {"actors": 3}}, 3),
        ("image", {}, 2),
        ("text", {"model": "hf:tiny#mean"}, 2),
    ],
)
def test_a_head_has_one_worker_unless_the_settings_say(
    modality: str, given_settings: dict[str, Any], actors: int
) -> None:
    given = TrainConfig.model_validate(given_settings)
    assert settled(given, modality).compute.actors == actors
    assert settled(settled(given, modality), modality).compute.actors == actors


@pytest.mark.parametrize(
    ("modality", "given_settings", "message"),
    [
        ("vector", {"model": "small_cnn"}, "small_cnn does not take the vectors of vector"),
        ("text", {"model": "torchvision:resnet18"}, "torchvision:resnet18 does not take texts"),
        ("image", {"model": "timm:resnet10t", "features": "targets"}, "does not take the vectors of targets"),
        ("vector", {"image_size": 16, "stem": "small"}, "stem, image_size is set"),
    ],
)
def test_what_does_not_fit_is_refused(modality: str, given_settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settled(TrainConfig.model_validate(given_settings), modality)


def test_inputs_that_are_not_there_are_named(vector_pool: Pool, text_pool: Pool, text_targets: RowTable) -> None:
    with pytest.raises(UsageError, match="takes the pool's targets, but none are given"):
        open_input(settled(TrainConfig(), "text"), text_pool, None)
    with pytest.raises(InputError, match=r"no column 'clip' of vectors \(have vector\)"):
        open_input(settled(TrainConfig(features="clip"), "vector"), vector_pool, None)
    with pytest.raises(InputError, match="were not made from the pool"):
        open_input(settled(TrainConfig(features="targets"), "vector"), vector_pool, text_targets)
    source = open_input(settled(TrainConfig(), "text"), text_pool, text_targets)
    assert source.shape == VectorShape(DIM) and source.column == "target"


def test_a_head_for_vectors_that_its_weights_cannot_take_is_refused(tmp_path: Path) -> None:
    settings = {"model": "mlp", "input": {"kind": "vector", "dim": DIM}, "classes": 4}
    trained_folder(tmp_path, settings, VectorShape(DIM).network("mlp", 4))
    card = json.loads((tmp_path / "network.json").read_text())
    assert coevo_ray.load_network(tmp_path).module(torch.zeros(2, DIM)).shape == (2, 4)
    for said, message in (
        ({"kind": "vector", "dim": 10**12}, "states 1000000000000 outputs, its weights are"),
        ({"kind": "vector", "dim": 0}, "sizes are 1 or more"),
        ({"kind": "vector"}, "dim"),
        ({"kind": "sound"}, "is for 'sound'"),
    ):
        (tmp_path / "network.json").write_text(json.dumps({**card, "input": said}))
        with pytest.raises(InputError, match=message):
            coevo_ray.load_network(tmp_path)


SETTINGS: dict[str, Any] = {"batch_rows": 16, "epochs": 3, "compute": {"cpus": 0.5}}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_head_on_vectors_learns_under_a_policy_and_is_loaded_elsewhere(vector_pool: Pool, tmp_path: Path) -> None:
    made = coevo_ray.train_supervised({**SETTINGS, "policies": ["random"]}, vector_pool, tmp_path / "out")
    assert made["accuracy"] > 0.95 and made["samples"] == 3 * 96
    network = coevo_ray.load_network(tmp_path / "out")
    assert isinstance(network.preprocess, VectorPreprocess)
    assert network.card["format"] == 2 and network.card["input"] == {"kind": "vector", "dim": DIM}
    test = vector_pool.test_ids()
    matrix = vectors(vector_pool.read(test, ["vector"]).column("vector"))
    shown = torch.stack([network.preprocess(row) for row in matrix])
    with torch.inference_mode():
        right = network.module(shown).argmax(dim=1).numpy() == vector_pool.labels()[test]
    assert right.mean() == pytest.approx(made["accuracy"])
    with pytest.raises(InputError, match=r"has shape \[3\], need \[12\]"):
        network.preprocess(np.zeros(3))
    scope: dict[str, Any] = {}
    lines = [
        line.replace('"model.safetensors"', repr(str(tmp_path / "out" / "model.safetensors")))
        for line in network.card["load"]
    ]
    exec("\n".join(lines), scope)
    with torch.inference_mode():
        assert torch.allclose(scope["network"](shown), network.module(shown), atol=1e-5)
    # It is the start of another training, on vectors of its own size alone.
    again = coevo_ray.train_supervised(
        {**SETTINGS, "epochs": 1, "policies": ["full"], "model": "mlp"}, vector_pool, tmp_path / "mlp"
    )
    begun = coevo_ray.train_supervised(
        {**SETTINGS, "epochs": 1, "policies": ["full"]}, vector_pool, tmp_path / "on", init=again
    )
    assert begun.manifest.inputs["init"] == again.manifest.identity
    assert coevo_ray.load_network(begun).card["model"] == "mlp"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_texts_train_on_their_targets_with_every_objective(
    text_pool: Pool, text_targets: RowTable, tmp_path: Path
) -> None:
    """Rows without a target take no part, in training or in evaluation."""
    with pytest.raises(UsageError, match="none are given"):
        coevo_ray.train_supervised({**SETTINGS, "policies": ["full"]}, text_pool, tmp_path / "out")
    made = coevo_ray.train_supervised(
        {**SETTINGS, "policies": ["full"]}, text_pool, tmp_path / "out", targets=text_targets
    )
    assert made["accuracy"] > 0.95 and made["samples"] == 3 * (192 - 1)
    assert made.manifest.inputs["targets"] == text_targets.manifest.identity
    few = text_pool.labels().copy()
    few[(np.arange(ROWS) % 6 > 0) & (text_pool.splits() == 0)] = -1
    poor = pool_of(tmp_path / "poor", "text", few, text=pa.array([f"{i}" for i in range(ROWS)]))
    targets = targets_of(tmp_path / "targets", poor, clouds()[0], np.setdiff1d(np.arange(ROWS), [3, 5]))
    semi = coevo_ray.train_semi_supervised(
        {**SETTINGS, "epochs": 2, "least_steps": 0, "model": "mlp"}, poor, tmp_path / "semi", targets=targets
    )
    assert semi["accuracy"] > 0.9 and semi["unlabelled"] > 100 and semi["pseudo_labelled"] == 0
    with pytest.raises(UsageError, match="targets cannot be learned from themselves"):
        coevo_ray.train_targets(SETTINGS, text_pool, text_targets, tmp_path / "no")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_network_learns_targets_from_vectors(vector_pool: Pool, tmp_path: Path) -> None:
    matrix, _ = clouds()
    turned = (matrix @ np.linalg.qr(np.random.default_rng(1).standard_normal((DIM, DIM)))[0]).astype(np.float32)
    targets = targets_of(tmp_path / "targets", vector_pool, turned, np.arange(ROWS))
    with pytest.raises(UsageError, match="views is 2, and views of vectors are all the same"):
        coevo_ray.train_targets({**SETTINGS, "views": 2}, vector_pool, targets, tmp_path / "no")
    made = coevo_ray.train_targets({**SETTINGS, "model": "mlp", "epochs": 8}, vector_pool, targets, tmp_path / "out")
    assert made["history"][-1]["loss"] < 0.6 * made["history"][0]["loss"]
    assert made["linear_probe"] > 0.95
    head = coevo_ray.train_supervised({**SETTINGS, "policies": ["full"]}, vector_pool, tmp_path / "head", init=made)
    assert head["accuracy"] > 0.95
    assert coevo_ray.load_network(made).card["outputs"] == "features"


def test_settings_of_one_objective_reach_the_manifest_only_where_they_are_on() -> None:
    assert "features" not in make_config(TrainConfig, {}, "train").content()
    assert make_config(TrainConfig, {"features": "targets"}, "train").content()["features"] == "targets"
