"""The head start benchmark: what it compares, and that what it says follows from its trainings."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.battery.pools import Limits, Place, find_places
from benchmarks.head_start import starts
from benchmarks.head_start.measure import RATES, STARTS, Run, best_of, page, summary, untried
from benchmarks.head_start.starts import Schedule, Setup, folds_of, labels_folder, tuning_folder
from coevo_ray.config import TrainConfig
from coevo_ray.pool.pool import Pool
from coevo_ray.training.models import make_model
from coevo_ray.training.start import make_classifier, starting_from

_ROOT = Path(__file__).parents[2]
_MODEL = "benchmarks.networks:small_resnet"


def _setup(folder: Path) -> Setup:
    return Setup(str(folder), _MODEL, 16, "float32", 1, 0)


def _curve(*accuracies: float) -> list[dict[str, float]]:
    return [{"epochs": i + 1, "seconds": 2.0 * (i + 1), "accuracy": a} for i, a in enumerate(accuracies)]


def test_the_summary_follows_from_the_curves() -> None:
    before = {start: {"encode_seconds": 0.0, "train_seconds": 0.0, "inits": []} for start in STARTS}
    before["consensus"] |= {"encode_seconds": 30.0, "train_seconds": 10.0}
    curves = {
        "scratch": [_curve(0.1, 0.3, 0.5), _curve(0.3, 0.3, 0.3)],  # ends at 0.4
        "byol": [_curve(0.1, 0.2, 0.3), _curve(0.1, 0.2, 0.3)],
        "one_prior": [_curve(0.1, 0.4, 0.3), _curve(0.1, 0.4, 0.3)],
        "consensus": [_curve(0.5, 0.6, 0.7), _curve(0.3, 0.6, 0.9)],
    }
    facts = {"rows": 100, "test_rows": 20, "classes": 10, "labels": {"0.1": 10}}
    halves = {"consensus": [_curve(0.4), _curve(0.6)], "one_prior": [_curve(0.3), _curve(0.3)]}
    found = {"pool": facts, "before": before, "rates": {0.1: dict.fromkeys(STARTS, 0.1)}, "curves": {0.1: curves}}
    found["halves"] = halves
    result = {**summary({"made": found}), "repeats": 2}
    assert result["epochs_to_scratch"]["made"]["0.1"] == {"scratch": 3, "byol": None, "one_prior": 2, "consensus": 1}
    assert result["gain"]["made"]["0.1"] == {"scratch": 0.0, "byol": -10.0, "one_prior": -10.0, "consensus": 40.0}
    last = result["table"]["made"]["0.1"]["consensus"][-1]
    assert last == {"epochs": 3, "seconds": 46.0, "accuracy": 0.8, "spread": round(0.2 / 2**0.5, 5)}
    # Half of the epochs, beside the 0.4 that scratch has after all of them.
    half = result["half"]["made"]
    assert half["consensus"]["gain"] == 10.0 and half["one_prior"]["gain"] == -10.0
    assert (half["consensus"]["epochs"], half["consensus"]["seconds"]) == (1, 42.0)
    text = "\n".join(page(result))
    assert "With 1 epochs on all of these labels" in text and "consensus 50.0 +- 14.1 (+10.0)" in text
    assert "| 10% | byol | 30.0 +- 0.0 | not | 3 | 6 | 0 | 0.1 |" in text
    assert "| 10% | consensus | 80.0 +- 14.1 | 1 | 3 | 46 | 40 | 0.1 |" in text
    assert json.loads(json.dumps(result)) == result


def test_few_labels_have_small_batches(tmp_path: Path) -> None:
    arguments = Namespace(
        rows=1000, test_rows=100, shares=(1.0, 0.1, 0.01), model=_MODEL, image_size=16, precision="float32", gpus=0
    )
    run = Run(arguments, Place("digits", "image"), tmp_path, None)
    run.a = Namespace(batch_rows=128, epochs=15, few_epochs=40)
    pool = {"labels": {"1.0": 10_000, "0.1": 1000, "0.01": 100}}
    made = [run._schedule(share, pool) for share in (1.0, 0.1, 0.01)]
    assert made == [Schedule(15, 128), Schedule(40, 62), Schedule(40, 8)]


@pytest.mark.slow
def test_pools_of_labels_are_nested_and_the_rate_is_chosen_beside_test_rows(tmp_path: Path, ray_local: None) -> None:
    shares = (1.0, 0.5, 0.1)
    facts = starts.make_pools(_setup(tmp_path), find_places()[0], Limits(120, 30), shares)
    labels = {"1.0": 120, "0.5": 60, "0.1": 12}
    assert facts == {"rows": 120, "test_rows": 30, "classes": 10, "labels": labels, "folds": {"1.0": 5}}

    def keys(name: str, split: int) -> set[str]:
        pool = Pool.open(str(tmp_path / name))
        names = np.array(pool.scan(["key"]).column("key").to_pylist())
        return set(names[pool.splits() == split])

    whole, half, tenth = (keys(labels_folder(share), 0) for share in shares)
    assert tenth < half < whole == keys(starts.WHOLE, 0)
    folds = [tuning_folder(1.0, fold) for fold in range(5)]
    for fold in folds:
        assert keys(fold, 0) | keys(fold, 1) == whole and not keys(fold, 0) & keys(fold, 1)
        assert len(keys(fold, 1)) == 24
    assert frozenset().union(*(keys(fold, 1) for fold in folds)) == whole
    held_out = {frozenset(keys(name, 1)) for name in (starts.WHOLE, *map(labels_folder, shares))}
    assert len(held_out) == 1 and not held_out.pop() & whole


def test_a_share_has_rates_of_its_own_where_its_labels_can_tell() -> None:
    assert folds_of({1.0: 5000, 0.1: 500, 0.01: 50}) == {1.0: 1, 0.1: 3}
    assert folds_of({1.0: 10_000, 0.1: 1000, 0.05: 500}) == {1.0: 1, 0.1: 2, 0.05: 3}
    assert folds_of({0.5: 100, 0.1: 20}) == {0.5: 5}, "five folds are all that there are"


@pytest.mark.parametrize("best", RATES)
def test_the_rate_is_the_best_of_all_where_accuracy_has_one_peak(best: float) -> None:
    tried: dict[float, float] = {}
    while rates := untried(tried):
        tried |= {rate: -abs(math.log(rate / best)) for rate in rates}
    assert best_of(tried) == best
    beside = {RATES[i] for i in (RATES.index(best) - 1, RATES.index(best) + 1) if 0 <= i < len(RATES)}
    assert beside <= set(tried), "the best is not at an edge of what was tried"


@pytest.mark.slow  # it takes seconds, but needs the extra bench
def test_a_training_starts_from_byols_backbone(tmp_path: Path, ray_local: None) -> None:
    setup = _setup(tmp_path)
    starts.make_pools(setup, find_places()[0], Limits(100, 20), (1.0,))
    settings = {"batch_rows": 32, "learning_rate": 0.002, "weight_decay": 0.05}
    out = str(tmp_path / "byol")
    made = starts.learn_byol(setup, settings, 1.0, 0, out)
    assert made["seconds"] >= 1.0 and made["epochs"] > 0
    config, start = starting_from(TrainConfig(policies=("full",)), out, trust=(_MODEL,))
    assert start is not None and (config.model, config.image_size) == (_MODEL, 16)
    torch.manual_seed(1)
    network, _ = make_classifier(config, start.shape, 10, start)
    fresh = make_model(_MODEL, 10)
    moved = {k for k, v in network.state_dict().items() if not torch.equal(v, fresh.state_dict()[k])}
    assert "stem.0.weight" in moved and "blocks.3.layers.0.weight" in moved


@pytest.mark.slow
def test_the_command_gives_its_keys(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.head_start", "--json", "--quick", "--work", str(tmp_path)]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result["benchmark"] == "head_start" and not result["left_out"]
    for share in ("1", "0.1", "0.01"):
        rows = result["table"]["digits"][share]
        assert set(rows) == set(STARTS) == set(result["epochs_to_scratch"]["digits"][share])
        assert [entry["epochs"] for entry in rows["consensus"]] == [1, 2]
    assert set(result["half"]["digits"]) == set(STARTS) - {"scratch"}
    assert result["half"]["digits"]["consensus"]["epochs"] == 1
    before = result["before"]["digits"]
    assert before["scratch"]["encode_seconds"] == before["byol"]["encode_seconds"] == 0
    assert before["consensus"]["encode_seconds"] > before["one_prior"]["encode_seconds"] > 0
    again = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert json.loads(again.stdout.splitlines()[-1])["table"] == result["table"], "finished parts are kept"
