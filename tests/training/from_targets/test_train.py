"""The objective `targets`: its loss, what it reads, that it learns, resumes and does not depend on workers."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from sklearn.datasets import load_digits

from coevo_ray.core.alignment.projection import project, projection_matrix
from coevo_ray.core.feed.epoch_plan import Subset
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.pool import Pool
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vector_column
from coevo_ray.training.feed.feed import Feed
from coevo_ray.training.feed.views import Decode
from coevo_ray.training.from_targets.network import Keys, PoolWithTargets, TargetNetwork, contrast_loss, cosine_loss
from coevo_ray.training.from_targets.probes import ProbeRows, evaluate
from coevo_ray.training.from_targets.train import load_target_network, train_targets
from coevo_ray.training.inputs.choose import images_of
from coevo_ray.training.models import make_backbone
from tests.training import png
from tests.training.networks_for_tests import faulty

ROWS, DIM, SIZE = 900, 24, 16
NETWORKS = "tests.training.networks_for_tests"
SETTINGS: dict[str, Any] = {"image_size": SIZE, "flip": False, "min_crop": 0.6, "batch_rows": 50}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pool, RowTable]:
    """Digits on noisy, coloured ground, and what their clean pixels say as targets.

    Every fifth row is held out, the last 20 rows have no target, and every seventh no label.
    """
    folder = tmp_path_factory.mktemp("targets")
    ids = np.arange(ROWS)
    digits = load_digits()
    clean = digits.images[:ROWS].reshape(ROWS, -1).astype(np.float32)
    vectors = project(clean - clean.mean(axis=0) + 2, projection_matrix(clean.shape[1], DIM, 0))
    pool, targets = (Location.parse(str(folder / name)) for name in ("pool", "targets"))
    rows = {
        "row_id": ids,
        "image": pa.array([picture(image, i) for i, image in enumerate(digits.images[:ROWS])], pa.binary()),
        "label": pa.array(digits.target[:ROWS].astype(np.int64), mask=ids % 7 == 0),
        "split": (ids % 5 == 0).astype(np.int8),
    }
    finish(pool, "pool", {}, {}, [write_table(pool, "a.parquet", pa.table(rows), group_rows=128)], {"classes": 10})
    write_targets(targets, ids[:-20], vectors[:-20])
    return Pool(pool), RowTable(targets, "targets")


def write_targets(
    place: Location, ids: npt.NDArray[np.int64], vectors: npt.NDArray[np.float32], **summary: Any
) -> None:
    table = pa.table({"row_id": ids, "target": vector_column(vectors)})
    finish(place, "targets", {}, {}, [write_table(place, "a.parquet", table, group_rows=100)], summary)


def picture(digit: npt.NDArray[np.float64], seed: int) -> bytes:
    random = np.random.default_rng(seed)
    ink, ground = random.uniform(120, 255, 3), random.uniform(0, 100, 3)
    large = np.kron(digit / 16, np.ones((2, 2)))[:, :, None]
    pixels = large * ink + (1 - large) * ground + random.normal(0, 20, (SIZE, SIZE, 3))
    return png(pixels.clip(0, 255).astype(np.uint8))


def test_the_loss_is_that_of_slow_loops_with_its_gradient() -> None:
    random = np.random.default_rng(0)
    predicted = torch.from_numpy(random.normal(size=(6, 5)).astype(np.float32)).requires_grad_()
    targets, mean = random.normal(size=(3, 5)).astype(np.float32), random.normal(size=5).astype(np.float32)
    losses = cosine_loss(predicted, torch.from_numpy(targets), torch.from_numpy(mean))
    p = predicted.detach().numpy().astype(np.float64)
    for row in range(3):
        t = targets[row] - mean
        cosines = [p[v] @ t / np.linalg.norm(p[v]) / np.linalg.norm(t) for v in (row, row + 3)]
        assert abs(losses[row].item() - (1 - sum(cosines) / 2)) < 1e-6
    losses.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves this method untyped
    assert predicted.grad is not None
    for v in range(6):
        t = (targets[v % 3] - mean).astype(np.float64)
        t /= np.linalg.norm(t)
        length = np.linalg.norm(p[v])
        u = p[v] / length
        # d(1 - u.t)/dp = -(t - (u.t) u) / |p|, half of it for each of two views
        expected = -(t - (u @ t) * u) / length / 2
        assert np.allclose(predicted.grad[v].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("views", [1, 2])
def test_contrast_is_that_of_slow_loops(views: int) -> None:
    random = np.random.default_rng(1)
    predicted = random.normal(size=(3 * views, 5)).astype(np.float32)
    targets, mean = random.normal(size=(3, 5)).astype(np.float32), random.normal(size=5).astype(np.float32)
    found = contrast_loss(torch.from_numpy(predicted), torch.from_numpy(targets), torch.from_numpy(mean))
    assert found.shape == (3,)
    for row in range(3):
        losses = []
        for p in predicted[row::3]:
            cosines = [p @ (t - mean) / np.linalg.norm(p) / np.linalg.norm(t - mean) for t in targets]
            shares = np.exp(np.array(cosines) / 0.1)
            losses.append(-np.log(shares[row] / shares.sum()))
        assert found[row].item() == pytest.approx(np.mean(losses), abs=1e-4)


def test_parts_of_a_batch_contrast_with_all_of_it_and_not_with_padding() -> None:
    random = torch.Generator().manual_seed(0)
    predicted, targets, mean = (torch.randn(size, generator=random) for size in ((5, 6), (5, 6), (6,)))
    whole = contrast_loss(predicted, targets, mean)
    for rows in ([0, 1, 2], [3, 4]):
        keys = Keys(targets, torch.tensor(rows))
        assert torch.allclose(contrast_loss(predicted[rows], targets[rows], mean, keys), whole[rows], atol=1e-6)
    # A worker whose last row is padding: that is no key, and the others are found.
    padded = torch.cat([targets, targets[:1]])
    keys = Keys.gather(padded, torch.tensor([1.0, 1, 1, 1, 1, 0]), 0, 1)
    assert torch.equal(keys.targets, targets) and keys.own[:5].tolist() == [0, 1, 2, 3, 4]
    both = torch.cat([predicted, predicted[:1]])
    assert torch.allclose(contrast_loss(both, padded, mean, keys)[:5], whole, atol=1e-6)


def test_the_loss_is_zero_for_the_target_and_two_for_its_opposite() -> None:
    targets, mean = torch.randn(4, 8), torch.randn(8)
    right = (targets - mean).repeat(2, 1) * 3
    assert torch.allclose(cosine_loss(right, targets, mean), torch.zeros(4), atol=1e-6)
    assert torch.allclose(cosine_loss(-right, targets, mean), torch.full((4,), 2.0), atol=1e-6)


def test_rows_are_joined_with_their_targets_by_id(tables: tuple[Pool, RowTable]) -> None:
    pool, targets = tables
    joined = PoolWithTargets(pool.location, targets.location)
    again = pickle.loads(pickle.dumps(joined))
    wanted = np.array([3, 99, 100, 128, 400])
    feed = Feed(again, ["image", "target"], Decode(SIZE), global_batch=3, seed=0, prefetch=0)
    found: dict[int, npt.NDArray[np.float32]] = {}
    for batch in feed.epoch(Subset(0, wanted, None)):
        found |= {int(row): batch.tensors["target"][i].numpy() for i, row in enumerate(batch.row_ids)}
    alone = targets.read(wanted, ["target"]).column("target").to_pylist()
    assert sorted(found) == wanted.tolist()
    assert all(
        np.array_equal(found[row], np.float32(vector)) for row, vector in zip(wanted.tolist(), alone, strict=True)
    )
    with pytest.raises(InputError, match="has 0 of 1 wanted rows"):
        joined.read(np.array([ROWS - 1]), ["target"])


def test_targets_of_several_pools_are_found_from_where_this_pool_begins(
    tables: tuple[Pool, RowTable], tmp_path: Path
) -> None:
    pool, _ = tables
    vectors = np.random.default_rng(0).normal(size=(50, DIM)).astype(np.float32)
    both, other = (Location.parse(str(tmp_path / name)) for name in ("both", "other"))
    pools = [{"identity": "of another", "first_row_id": 0, "rows": 40}]
    write_targets(other, np.arange(50), vectors, pools=pools)
    pools.append({"identity": pool.manifest.identity, "first_row_id": 40, "rows": ROWS})
    write_targets(both, np.arange(50), vectors, pools=pools)
    joined = PoolWithTargets(pool.location, both)
    assert joined.target_rows.tolist() == list(range(10))
    found = joined.read(np.array([2, 9]), ["target"]).column("target").to_pylist()
    assert np.array_equal(np.float16(found), vectors[[42, 49]].astype(np.float16))
    with pytest.raises(InputError, match="were not made from the pool"):
        PoolWithTargets(pool.location, other)


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_the_classifier_is_taken_off_and_a_head_put_on(head: str) -> None:
    for name, features in (("small_cnn", 128), ("torchvision:resnet18", 512), (f"{NETWORKS}:plain", 128)):
        network = TargetNetwork.of_images(name, 32, head, 7)
        assert network.training
        assert network.backbone(torch.zeros(2, 3, 32, 32)).shape == (2, features)
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        (f"{NETWORKS}:no_classifier", 16, "no linear layer"),
        (f"{NETWORKS}:more_after_classifier", 16, "without its classifier gives"),
        ("torchvision:alexnet", 16, "does not take images of 16 pixels"),
        ("huge_cnn", 16, "unknown model"),
    ],
)
def test_networks_that_cannot_be_used_are_named(name: str, size: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_backbone(name, size)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_network_learns_from_targets_without_labels(tables: tuple[Pool, RowTable], tmp_path: Path) -> None:
    pool, targets = tables
    rows = ProbeRows.choose(pool, targets.row_ids(), 10_000, 0)
    assert rows is not None
    torch.manual_seed(0)
    device = torch.device("cpu")
    floor = evaluate(make_backbone(f"{NETWORKS}:normed", SIZE)[0], images_of(pool, SIZE), rows, device)
    # Measured: kNN from 0.71 to 0.94, linear probe from 0.84 to 0.97.
    config = {**SETTINGS, "model": f"{NETWORKS}:normed", "learning_rate": 0.01, "epochs": 6, "evaluate_every": 3}
    summary = train_targets(config, pool, targets, tmp_path / "out")
    assert summary["knn"] > floor["knn"] + 0.15
    assert summary["linear_probe"] > floor["linear_probe"] + 0.05
    history = summary["history"]
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]
    assert [h["epoch"] for h in history if "knn" in h] == [2, 5]
    trained = int((np.arange(ROWS - 20) % 5 != 0).sum())
    assert (summary["rows"], summary["samples"], summary["dim"]) == (trained, 6 * trained, DIM)
    # Rows without a label or without a target are in neither part of the probe.
    labelled = (np.arange(ROWS - 20) % 7 != 0) & (np.arange(ROWS - 20) % 5 != 0)
    assert summary["probe_rows"][0] == labelled.sum()
    network = load_target_network(Location.parse(str(tmp_path / "out")), trust=[f"{NETWORKS}:normed"])
    assert evaluate(network.backbone, images_of(pool, SIZE), rows, device)["knn"] == pytest.approx(
        summary["knn"], abs=0.011
    )
    # The same settings again are the same result, without work; other ones are refused.
    assert train_targets(config, pool, targets, tmp_path / "out") == summary
    with pytest.raises(UsageError, match=r"epochs: there 6, asked for 9"):
        train_targets({**config, "epochs": 9}, pool, targets, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_training_that_failed_goes_on_to_the_same_weights(tables: tuple[Pool, RowTable], tmp_path: Path) -> None:
    config = {**SETTINGS, "model": faulty(tmp_path / "fault"), "epochs": 3, "compute": {"cpus": 1}}
    whole = train_targets(config, *tables, tmp_path / "whole")
    (tmp_path / "fault").write_text("22")  # in the second epoch of 15 steps
    broken = train_targets(config, *tables, tmp_path / "broken")
    assert not (tmp_path / "fault").exists(), "the fault did not happen"
    times = ("seconds", "wall_seconds", "history")
    assert {k: v for k, v in whole.items() if k not in times} == {k: v for k, v in broken.items() if k not in times}
    assert [h["loss"] for h in whole["history"]] == [h["loss"] for h in broken["history"]]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_two_workers_learn_what_one_does(tables: tuple[Pool, RowTable], tmp_path: Path) -> None:
    # The network has no batch norm: that sees only a worker's own rows.
    config = {**SETTINGS, "model": f"{NETWORKS}:plain", "epochs": 2, "batch_rows": 37}
    networks, found = [], []
    for actors in (1, 2):
        place = tmp_path / str(actors)
        found.append(train_targets({**config, "compute": {"actors": actors, "cpus": 0.5}}, *tables, place))
        trained = load_target_network(Location.parse(str(place)), trust=[f"{NETWORKS}:plain"])
        networks.append(trained.state_dict())
    for name, tensor in networks[0].items():
        assert torch.allclose(tensor, networks[1][name], atol=1e-4), name
    assert found[0]["samples"] == found[1]["samples"]
    assert found[0]["probe_rows"] == found[1]["probe_rows"]
    assert abs(found[0]["knn"] - found[1]["knn"]) < 0.03


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_pool_without_labels_is_trained_on_and_not_judged(
    tables: tuple[Pool, RowTable], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool, targets = tables
    bare = Location.parse(str(tmp_path / "pool"))
    rows = pool.scan(["row_id", "image", "split"]).append_column("label", pa.nulls(ROWS, pa.int64()))
    finish(bare, "pool", {}, {}, [write_table(bare, "a.parquet", rows)], {"classes": 0})
    config = {**SETTINGS, "model": f"{NETWORKS}:plain", "epochs": 1, "centre": False}
    summary = train_targets(config, str(bare), str(targets.location), tmp_path / "out")
    assert (summary["linear_probe"], summary["knn"], summary["probe_rows"]) == (None, None, None)
    assert math.isfinite(summary["loss"])
    assert "no evaluation" in capsys.readouterr().err
    network = load_target_network(Location.parse(str(tmp_path / "out")), trust=[f"{NETWORKS}:plain"])
    assert not network.mean.any()


def test_what_cannot_be_trained_on_is_refused_before_any_work(tables: tuple[Pool, RowTable], tmp_path: Path) -> None:
    pool, targets = tables
    beyond, held_out, empty = (Location.parse(str(tmp_path / name)) for name in ("beyond", "held_out", "empty"))
    vectors = np.eye(DIM, dtype=np.float32)
    write_targets(beyond, np.arange(DIM) + ROWS - DIM + 1, vectors)
    write_targets(held_out, np.arange(DIM) * 5, vectors)
    write_targets(empty, np.arange(0), vectors[:0])
    for place, message in (
        (beyond, rf"up to row_id {ROWS}, the pool .* has {ROWS} rows"),
        (held_out, "0 training rows have a target"),
        (empty, "no rows"),
        (pool.location, "holds a pool, a targets is needed"),
    ):
        with pytest.raises(InputError, match=message):
            train_targets(SETTINGS, pool, str(place), tmp_path / "out")
    for settings, message in (
        ({"head": "deep"}, "train: head"),
        ({"epoch": 3}, "unknown key epoch"),
        ({"model": "huge_cnn"}, "unknown model"),
    ):
        with pytest.raises(UsageError, match=message):
            train_targets({**SETTINGS, **settings}, pool, targets, tmp_path / "out")
    with pytest.raises(InputError, match="no finished model"):
        load_target_network(Location.parse(str(tmp_path / "nothing")))
