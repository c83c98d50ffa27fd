"""The parts of the targets benchmark: its peers do what they are named for, its tables are what they say."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch

from benchmarks.networks import resnet18, strided
from benchmarks.parts import Parts
from benchmarks.targets import tables as tables
from benchmarks.targets.learners import BYOL, Supervised, Training, one_cycle, train_peer
from benchmarks.targets.measure import NAMES, _figures, _names
from coevo_ray.core.alignment.projection import normalise
from coevo_ray.pool.pool import Pool
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import vector_column

_ROOT = Path(__file__).parents[2]
ROWS, DIM = 60, 6


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the benchmark's own small pool, made without Ray."""
    from benchmarks.targets.tables import digits_images

    folder = tmp_path_factory.mktemp("benchmark")
    parts = [table.slice(0, rows) for table, rows in zip(digits_images().values(), (300, 100), strict=True)]
    rows = pa.concat_tables(parts)
    split = np.repeat(np.array([0, 1], dtype=np.int8), [300, 100])
    whole = rows.append_column("row_id", pa.array(np.arange(400))).append_column("split", pa.array(split))
    place = Location.parse(str(folder / "pool"))
    finish(place, "pool", {}, {}, [write_table(place, "a.parquet", whole)], {"classes": 10})
    return folder


def training(folder: Path) -> Training:
    rates = {"byol": 0.002, "supervised": 0.01, "targets": 0.01}
    network = "benchmarks.networks:strided"
    return Training(str(folder / "pool"), network, 16, 50, rates, 0.05, "float32", 1, 0, 0)


def test_networks_take_small_images() -> None:
    for network in (strided(10), resnet18(10)):
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_the_schedule_is_torchs() -> None:
    steps = 2000
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    for step in range(steps):
        assert abs(one_cycle(step / (steps - 1)) - optimizer.param_groups[0]["lr"]) < 0.005
        optimizer.step()
        schedule.step()


def test_supervised_training_learns(digits: Path) -> None:
    floor = train_peer(training(digits), "random", 0)
    found = train_peer(training(digits), "supervised", 8)
    assert floor["epochs"] == 0
    assert found["epochs"] == 8
    assert found["linear_probe"] > floor["linear_probe"] + 0.05
    assert found["seconds"] > 0


def test_a_peer_can_be_trained_by_the_clock(digits: Path) -> None:
    started = time.monotonic()
    found = train_peer(training(digits), "supervised", 1, seconds=1.5)
    assert 1.5 <= found["seconds"] <= time.monotonic() - started
    assert found["epochs"] > 0


def test_supervised_labels_follow_their_rows(digits: Path) -> None:
    pool = Pool.open(str(digits / "pool"))
    labels = torch.from_numpy(pool.labels())
    objective = Supervised(torch.nn.Flatten(), 3 * 4 * 4, pool)
    views, rows = torch.randn(6, 3, 4, 4), torch.tensor([5, 9, 2])
    logits = objective.head(views.flatten(1))
    expected = sum(torch.nn.functional.cross_entropy(logits[v], labels[rows[v % 3]]) for v in range(6)) / 6
    assert torch.allclose(objective(views, rows), torch.as_tensor(expected), atol=1e-6)


@pytest.mark.slow  # it takes seconds, but needs the extra bench
def test_byol_predicts_the_other_view_and_its_target_follows() -> None:
    torch.manual_seed(0)
    objective = BYOL(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 8)), 8)
    views = torch.randn(8, 3, 2, 2)
    loss = objective(views, torch.arange(4))
    with torch.no_grad():
        p = torch.nn.functional.normalize(objective.prediction(objective.online(views)), dim=1)
        z = torch.nn.functional.normalize(objective.target(views), dim=1)
        expected = -sum(float(p[i] @ z[(i + 4) % 8]) for i in range(8)) / 8
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    loss.backward()
    assert all(q.grad is None for q in objective.target.parameters())
    for done, step in ((0.0, 0.01), (1.0, 0.0)):
        before = [q.clone() for q in objective.target.parameters()]
        with torch.no_grad():
            for q, t in zip(objective.online.parameters(), before, strict=True):
                q.copy_(t + 1.0)
        objective.after_step(done)
        for old, new in zip(before, objective.target.parameters(), strict=True):
            assert torch.allclose(new - old, torch.full_like(new, step), atol=1e-5)


def write_contributions(folder: Path) -> npt.NDArray[np.float32]:
    """Two participants that see the same vectors, one of them turned; returns the vectors."""
    random = np.random.default_rng(0)
    truth = normalise(random.normal(size=(ROWS, DIM)).astype(np.float32))
    turn = np.linalg.qr(random.normal(size=(DIM, DIM)))[0].astype(np.float32)
    ids = np.arange(ROWS)
    for index, seen in enumerate((truth, truth @ turn)):
        own, shared = ids % 2 == index, ids < 40
        keep = own | shared
        place = Location.parse(str(folder / "encode" / "pair" / "contributions" / f"{index:02d}"))
        columns = {"row_id": ids[keep], "own": own[keep], "shared": shared[keep], "feature": vector_column(seen[keep])}
        finish(place, "contribution", {}, {}, [write_table(place, "a.parquet", pa.table(columns))], {})
    return truth


def test_the_sweep_aligns_what_was_turned(tmp_path: Path) -> None:
    truth = write_contributions(tmp_path)
    rows = [tables._rows_of(place) for place in tables._contributions(str(tmp_path), "pair")]
    ids, aligned, unaligned, r2 = tables.targets_of(rows, DIM, 40)
    assert ids.tolist() == list(range(ROWS))
    assert r2 > 0.999
    # Cosines between rows of different participants are right again; the projection is a rotation here.
    assert np.allclose(aligned @ aligned.T, truth @ truth.T, atol=5e-3)
    assert not np.allclose(unaligned @ unaligned.T, truth @ truth.T, atol=0.1)
    assert tables.targets_of(rows, 3, 40)[1].shape == (ROWS, 3)


def test_finished_parts_are_kept_and_time_ends_a_run(tmp_path: Path) -> None:
    parts = Parts(tmp_path, None)
    assert parts.get("a", {"x": (1,)}, divmod, 7, 3) == (2, 1)
    late = Parts(tmp_path, time.monotonic() - 1)
    assert late.get("a", {"x": [1]}, divmod, 0, 0) == [2, 1]  # from the file: nothing is divided by 0
    assert late.get("b", {}, divmod, 7, 3) is None
    assert late.get("a", {"x": [2]}, divmod, 7, 3) is None
    assert late.left_out == ["b", "a"]


def test_figures_are_medians_with_their_spread() -> None:
    seeds: list[dict[str, Any]] = [
        {"linear_probe": p, "knn": 0.5, "seconds": s, "epochs": 3, "targets": {"knn": 1.0}}
        for p, s in ((0.1, 9.0), (0.3, 7.0), (0.2, 8.0))
    ]
    found = _figures(seeds)
    assert (found["linear_probe"], found["seconds"], found["epochs_run"]) == (0.2, 8.0, 3)
    assert found["spread"]["linear_probe"] == {"min": 0.1, "median": 0.2, "max": 0.3}
    assert "spread" not in _figures(seeds[:1])


@pytest.mark.slow
def test_names_are_checked_and_data_must_be_named() -> None:
    assert _names(",".join(NAMES)) == NAMES
    with pytest.raises(argparse.ArgumentTypeError, match="byoll"):
        _names("byoll")
    command = [sys.executable, "-m", "benchmarks.targets", "--json"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "--data" in done.stderr


@pytest.mark.slow
def test_a_quick_run_gives_its_keys(tmp_path: Path) -> None:
    names = "random,supervised,collaborative_aligned,collaborative_unaligned,sweep"
    command = [
        sys.executable,
        "-m",
        "benchmarks.targets",
        "--json",
        "--quick",
        "--only",
        names,
        "--work",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=690, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["table"].keys() == set(names.split(",")) - {"sweep"}
    for name, row in result["table"].items():
        (figures,) = row.values()
        assert figures.keys() >= {"linear_probe", "knn", "seconds"}
        assert 0 <= figures["knn"] <= 1
        assert ("targets" in figures) == name.startswith("collaborative")
    assert [(s["dim"], s["shared_rows"]) for s in result["sweep"]] == [(16, 96), (32, 96), (32, 48)]
    assert result["repeats"] == 1
    assert str(tmp_path) not in done.stdout
