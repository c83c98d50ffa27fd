"""Supervised training: worker counts, kills, restarts, figures and errors, on digits."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from coevo_ray.actors.ledger_inputs import LedgerInputs
from coevo_ray.config import TrainConfig, make_config
from coevo_ray.core.feed.epoch_plan import Subset
from coevo_ray.core.selection.ledger import SelectionLedger
from coevo_ray.core.selection.policies import POLICIES
from coevo_ray.errors import InputError, StoppedError, UsageError
from coevo_ray.pool.pool import Pool
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import load_manifest
from coevo_ray.store.verification import verify
from coevo_ray.training.feed.feed import Feed
from coevo_ray.training.feed.images import ImageTransform
from coevo_ray.training.models import make_model
from coevo_ray.training.supervised.train import load_classifier, planned_rows, train_policy
from tests.training import digits_pool
from tests.training.networks_for_tests import faulty, steps_made

ROWS, TRAIN = 300, 240
NETWORKS = "tests.training.networks_for_tests"
PLAIN: dict[str, Any] = {"model": f"{NETWORKS}:plain", "image_size": 16, "batch_rows": 17, "epochs": 2}

# Classes of different sizes get equal quotas, and weights that undo it.
WEIGHTED: dict[str, Any] = {"policies": ["random"], "keep": 0.9, "class_power": 0.0, "unbiased": True}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return digits_pool(tmp_path_factory.mktemp("supervised") / "pool", ROWS)


def train(pool: Pool, out: Path, policy: str = "full", **settings: Any) -> dict[str, Any]:
    config = make_config(TrainConfig, {**PLAIN, "compute": {"cpus": 0.5}, **settings}, "train")
    train_policy(config, policy, pool, pool.labels(), None, str(out))
    return load_manifest(Location.parse(str(out)), "model").summary


def timeless(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in entry.items() if k not in ("seconds", "selection_seconds")} for entry in history]


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_everything_at_once(pool: Pool, tmp_path: Path) -> None:
    """AdamW, cosine, averages, smoothing, clipping, bfloat16: it learns, and says what it did."""
    chosen = {"optimizer": "adamw", "learning_rate": 0.01, "schedule": "cosine", "warm_up": 0.1, "ema": 0.9}
    chosen |= {"label_smoothing": 0.1, "clip_norm": 1.0, "precision": "bfloat16", "epochs": 12, "keep": 0.5}
    summary = train(pool, tmp_path, "rotation", **chosen, compute={"cpus": 1, "tensorboard": True})
    history = summary["history"]
    assert summary["accuracy"] > 0.7
    assert summary["ema_accuracy"] > 0.7
    assert history[-1]["loss"] < history[0]["loss"]
    assert [h["samples"] for h in history] == [TRAIN // 2 * (epoch + 1) for epoch in range(12)]
    assert all(h["kept_share"] == 0.5 and h["selection_seconds"] > 0 for h in history)
    assert all(a["seconds"] < b["seconds"] for a, b in pairwise(history))
    assert history[-1]["learning_rate"] == pytest.approx(0, abs=1e-12)
    assert max(h["learning_rate"] for h in history) <= 0.01
    # The files say the same, are part of the artifact, and load into networks that predict.
    assert lines(tmp_path) == history
    place = Location.parse(str(tmp_path))
    manifest = load_manifest(place)
    written = {"model.safetensors", "ema.safetensors", "model.json", "network.json", "metrics.jsonl"}
    assert {f.path for f in manifest.files} == written
    assert verify(place, manifest) == []
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.value for e in events.Scalars("accuracy")] == pytest.approx([h["accuracy"] for h in history])
    for name, average in (("accuracy", False), ("ema_accuracy", True)):
        found = accuracy(load_classifier(place, average=average, trust=[PLAIN["model"]]), pool)
        assert found == pytest.approx(summary[name], abs=0.02)  # that was in bfloat16


def accuracy(network: torch.nn.Module, pool: Pool) -> float:
    feed = Feed(pool, ["image"], ImageTransform(16, "none"), global_batch=len(pool.test_ids()), seed=0)
    (batch,) = feed.epoch(Subset(0, pool.test_ids(), None))
    with torch.inference_mode():
        predicted = network(batch.tensors["image"]).argmax(dim=1).numpy()
    return float((predicted == pool.labels()[batch.row_ids]).mean())


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_two_workers_learn_what_one_does(pool: Pool, tmp_path: Path) -> None:
    # 216 rows in batches of 17 leave a last one of 12; 17 rows on two workers leave one of padding.
    found = [
        train(pool, tmp_path / str(n), "random", **WEIGHTED, ema=0.9, compute={"actors": n, "cpus": 0.5})
        for n in (1, 2)
    ]
    for file in ("model.safetensors", "ema.safetensors"):
        one, two = (load_file(tmp_path / str(n) / file) for n in (1, 2))
        for name, tensor in one.items():
            # SGD's steps are as long as its gradients: a wrong factor between workers would show.
            assert torch.allclose(tensor, two[name], atol=1e-5), name
    for one_epoch, two_epoch in zip(*(timeless(f["history"]) for f in found), strict=True):
        assert one_epoch == pytest.approx(two_epoch, abs=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("workers", [1, 2])
def test_losses_of_all_rows_reach_the_policy_also_of_a_killed_worker(pool: Pool, tmp_path: Path, workers: int) -> None:
    # The policy `loss` takes rows without a loss first: each row once in two epochs, if no report is lost.
    (tmp_path / "fault").write_text("4 killed")  # in the fifth of the first epoch's eight steps
    settings: dict[str, Any] = {"model": faulty(tmp_path / "fault", "plain"), "batch_rows": 16, "keep": 0.5}
    settings["compute"] = {"actors": workers, "cpus": 0.5, "checkpoint_steps": 2}
    summary = train(pool, tmp_path / "out", "loss", **settings)
    assert not (tmp_path / "fault").exists(), "nothing was killed"
    assert summary["usage"] == {"1": TRAIN}


def oracle(pool: Pool, config: TrainConfig) -> dict[str, npt.NDArray[np.float32]]:
    """The same training as one slow loop: plain SGD, no workers, no restarts."""
    ledger = LedgerInputs(
        "random", config, pool.labels(), pool.splits() == 0, None, pool.location.child("no journal")
    ).make_ledger()
    torch.manual_seed(config.seed)
    network = make_model(config.model, pool.classes)
    feed = Feed(pool, ["image"], ImageTransform(16, "none"), global_batch=config.batch_rows, seed=config.seed)
    velocity = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    for epoch in range(config.epochs):
        subset = ledger.select(epoch)
        ledger.commit(epoch)
        assert subset.weights is not None
        weight_of = dict(zip(subset.row_ids.tolist(), subset.weights.tolist(), strict=True))
        for batch in feed.epoch(subset):
            labels = torch.from_numpy(pool.labels()[batch.row_ids])
            logs = network(batch.tensors["image"]).log_softmax(dim=1)
            losses = [-logs[i, labels[i]] * weight_of[int(row)] for i, row in enumerate(batch.row_ids)]
            loss = torch.stack(losses).mean()
            network.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves this method untyped
            with torch.no_grad():
                for name, p in network.named_parameters():
                    assert p.grad is not None
                    gradient = p.grad + config.weight_decay * p
                    velocity[name] = config.momentum * velocity[name] + gradient
                    p.sub_(config.learning_rate * (gradient + config.momentum * velocity[name]))
    return {name: p.detach().numpy() for name, p in network.named_parameters()}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_steps_are_those_of_a_slow_loop(pool: Pool, tmp_path: Path) -> None:
    settings = {**WEIGHTED, "schedule": "constant", "warm_up": 0.0, "learning_rate": 0.02}
    train(pool, tmp_path, "random", **settings)
    expected = oracle(pool, TrainConfig.model_validate({**PLAIN, **settings}))
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        assert np.allclose(tensor.numpy(), expected[name], atol=1e-4), name


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_killed_worker_goes_on_inside_the_epoch_to_the_same_weights(pool: Pool, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": faulty(tmp_path / "fault", "dropping"), "batch_rows": 20, "ema": 0.9}
    settings["compute"] = {"cpus": 0.5, "checkpoint_steps": 5}
    whole = train(pool, tmp_path / "whole", **settings)
    steps = steps_made(tmp_path / "fault")
    assert steps == 24
    (tmp_path / "fault").write_text("19 killed")  # in the 20th step, the 8th of the second epoch
    broken = train(pool, tmp_path / "broken", **settings)
    assert not (tmp_path / "fault").exists(), "nothing was killed"
    # 20 steps were begun; the restart does those behind the checkpoint after the 5th step of the second epoch.
    assert steps_made(tmp_path / "fault") - steps == 20 + (24 - 17)
    assert timeless(whole["history"]) == timeless(broken["history"])
    assert lines(tmp_path / "broken") == broken["history"]
    assert whole["usage"] == broken["usage"]
    for file in ("model.safetensors", "ema.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "broken" / file).read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_run_that_stopped_goes_on_with_another_number_of_workers(pool: Pool, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": faulty(tmp_path / "fault", "plain"), "batch_rows": 20}
    whole = train(pool, tmp_path / "whole", **settings)
    (tmp_path / "fault").write_text("17 always")
    with pytest.raises(StoppedError, match="lost workers"):
        train(pool, tmp_path / "broken", **settings, compute={"actors": 2, "cpus": 0.5, "checkpoint_steps": 5})
    (tmp_path / "fault").unlink()
    before = steps_made(tmp_path / "fault")
    broken = train(pool, tmp_path / "broken", **settings, compute={"actors": 1, "cpus": 0.5})
    assert steps_made(tmp_path / "fault") - before == 24 - 17  # behind the checkpoint inside the second epoch
    for one, other in zip(timeless(whole["history"]), timeless(broken["history"]), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken")]
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], atol=1e-5), name


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_errors_of_the_input_end_a_training_at_once(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "fault").write_text("2 input")
    with pytest.raises(InputError, match="a planned fault of the input"):
        train(pool, tmp_path / "out", model=faulty(tmp_path / "fault"), compute={"actors": 2, "cpus": 0.5})
    assert steps_made(tmp_path / "fault") <= 2 * 3, "the workers were started again"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_training_that_diverges_says_so(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="training diverged"):
        train(pool, tmp_path, learning_rate=1e6, schedule="constant", epochs=1)


@pytest.mark.parametrize("wrapped", [{}, {"class_power": 0.5}, {"unbiased": True}])
@pytest.mark.parametrize("shares", [{"keep": 0.3}, {"keep": 0.9, "keep_last": 0.2}, {"keep": 0.4, "full_tail": 0.25}])
@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_epochs_are_planned_as_policies_draw_them(policy: str, shares: dict[str, Any], wrapped: dict[str, Any]) -> None:
    rows, random = 500, np.random.default_rng(0)
    config = TrainConfig.model_validate({"policies": [policy], "epochs": 8, **shares, **wrapped})
    ledger = SelectionLedger(
        rows=rows,
        candidates=random.random(rows) < 0.8,
        policy=config.make_policy(policy),
        keep=config.shares,
        epochs=config.epochs,
        seed=0,
    )
    ledger.set_labels(random.integers(0, 5, rows))
    ledger.set_doubt(np.zeros(rows), random.random(rows))
    ledger.set_scores(random.random(rows), random.random(rows), random.integers(0, 9, rows))
    drawn = []
    candidates = sum(ledger.usage_histogram().values())
    for epoch in range(config.make_policy(policy).epochs_to_run(config.epochs, config.shares, candidates)):
        ids = ledger.select(epoch).row_ids
        ledger.report_losses(epoch, ids, random.gamma(2, size=len(ids)), random.random(len(ids)))
        ledger.commit(epoch)
        drawn.append(len(ids))
    assert planned_rows(config, policy, candidates) == drawn


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "huge_cnn"}, "unknown model 'huge_cnn'"),
        ({"model": "torchvision:resnet999"}, "no classifier 'resnet999'"),
        ({"stem": "small"}, "has no stem to make small"),
        ({"optimizer": "lion"}, "train: optimizer"),
        ({"schedule": "step"}, "train: schedule"),
        ({"momentum": 1.0}, "train: momentum"),
        ({"learning_rate": -0.1}, "train: learning_rate"),
        ({"weight_decay": -1}, "train: weight_decay"),
        ({"label_smoothing": 1.0}, "train: label_smoothing"),
        ({"ema": 1.0}, "train: ema"),
        ({"clip_norm": 0}, "train: clip_norm"),
        ({"warm_up": 1.0}, "train: warm_up"),
        ({"precision": "float16"}, "float16 needs a GPU"),
        ({"compute": {"checkpoint_steps": -1}}, "train: compute.checkpoint_steps"),
        ({"learning_rates": 1}, "unknown key learning_rates"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(
    pool: Pool, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train(pool, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()
