"""The objectives benchmark: losses against slow loops, and a training in memory that learns."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.objectives import measure
from benchmarks.objectives.variants import DEFAULT, VARIANTS, Variant, huber_loss, relational_loss
from benchmarks.targets.tables import digits_images
from coevo_ray.config import TargetTrainConfig
from coevo_ray.training.feed.images import decode_square

_ROOT = Path(__file__).parents[2]


def test_the_default_is_the_packages() -> None:
    config, ours = TargetTrainConfig(), VARIANTS[DEFAULT]
    for name in ("contrast", "views", "min_crop", "colour", "head", "centre", "learning_rate"):
        assert getattr(ours, name) == getattr(config, name)
    assert ours.loss == "cosine"


@pytest.mark.parametrize("views", [1, 2])
def test_losses_are_those_of_slow_loops(views: int) -> None:
    random = np.random.default_rng(0)
    predicted, targets = random.normal(size=(4 * views, 5)), random.normal(size=(4, 5))
    mean = random.normal(size=5)
    unit = [(t - mean) / np.linalg.norm(t - mean) for t in targets]
    given = [torch.from_numpy(a.astype(np.float32)) for a in (predicted, targets, mean)]
    huber, relational = huber_loss(*given), relational_loss(*given)
    for row in range(4):
        apart, divergences = [], []
        for view in range(views):
            away = np.abs(predicted[4 * view + row] - unit[row] * 5**0.5)
            apart.append(np.where(away < 1, away**2 / 2, away - 0.5).mean())
            seen = [p / np.linalg.norm(p) for p in predicted[4 * view : 4 * view + 4]]
            others = [i for i in range(4) if i != row]
            p, q = (np.exp(np.array([u[row] @ u[i] for i in others]) / 0.1) for u in (unit, seen))
            p, q = p / p.sum(), q / q.sum()
            divergences.append(float((p * np.log(p / q)).sum()))
        assert huber[row].item() == pytest.approx(np.mean(apart), abs=1e-5)
        assert relational[row].item() == pytest.approx(np.mean(divergences), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("variant", [VARIANTS[DEFAULT], VARIANTS["version_0.1.0"]])
def test_a_network_learns_its_targets(variant: Variant) -> None:
    table = digits_images()["train"].slice(0, 300)
    images = torch.from_numpy(np.stack([decode_square(i.as_py(), 16) for i in table.column("image")]))
    labels = table.column("label").to_numpy()
    targets = (np.eye(10)[labels] + 0.1).astype(np.float32)
    material = measure.Material(images[:240], images[240:], labels[:240], labels[240:], {"coverage_all": targets[:240]})
    a = Namespace(model="benchmarks.networks:small_resnet", image_size=16, epochs=0)
    floor = measure._trained(Namespace(**{**vars(a), "epochs": 1}), variant, material, 0)
    found = measure._trained(Namespace(**{**vars(a), "epochs": 12}), variant, material, 0)
    assert found["linear"] > floor["linear"] and found["linear"] > 0.7
    assert found.keys() == {"linear", "linear_tenth", "knn", "seconds"}


@pytest.mark.slow
def test_the_command_gives_its_keys(tmp_path: Path) -> None:
    only = ("default", "two_views", "whitened", "one_prior")
    command = [sys.executable, "-m", "benchmarks.objectives", "--json", "--quick", "--only", ",".join(only)]
    done = subprocess.run(
        [*command, "--cache", str(tmp_path)], cwd=_ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert tuple(result["table"]["digits"]) == only
    assert result["table"]["digits"]["default"]["linear"]["mean"] > 0.2
