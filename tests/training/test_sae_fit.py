"""The SAE's fit on several Ray Train workers."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch

from coevo_ray.config import SaeConfig
from coevo_ray.core.factors.sae import TopKSAE
from coevo_ray.errors import InputError
from coevo_ray.pool.pool import Pool
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import load_manifest
from coevo_ray.store.row_table import RowTable, vector_column
from coevo_ray.store.sae_files import load_sae
from coevo_ray.training.sae_fit import fit_sae

ROWS, DIM = 301, 12


def make_tables(folder: Path, targets: npt.NDArray[np.float32]) -> tuple[Pool, RowTable]:
    """A pool without images, and targets."""
    ids = np.arange(ROWS)
    pool, table = Location.parse(str(folder / "pool")), Location.parse(str(folder / "targets"))
    rows = {"row_id": ids, "label": ids % 3, "split": (ids % 5 == 0).astype(np.int8)}
    finish(pool, "pool", {}, {}, [write_table(pool, "a.parquet", pa.table(rows))], {"classes": 3})
    columns = pa.table({"row_id": ids, "target": vector_column(targets)})
    finish(table, "targets", {}, {}, [write_table(table, "a.parquet", columns, group_rows=50)], {})
    return Pool(pool), RowTable(table, "targets")


def planted(seed: int) -> npt.NDArray[np.float32]:
    """Sparse combinations of a few directions."""
    random = np.random.default_rng(seed)
    directions = random.normal(size=(20, DIM))
    weights = random.random((ROWS, 20)) * (random.random((ROWS, 20)) < 0.1)
    return (weights @ directions + 1.0).astype(np.float32)


def fit(folder: Path, name: str, **settings: Any) -> tuple[TopKSAE, dict[str, Any]]:
    """A small fit, of odd batches, on threads whose sums do not vary; its model and summary."""
    if not (folder / "pool").exists():
        make_tables(folder, planted(0))
    pool = Pool(Location.parse(str(folder / "pool")))
    targets = RowTable(Location.parse(str(folder / "targets")), "targets")
    config = {"latents": 48, "k": 3, "batch_rows": 17, "patience": None, "compute": {"cpus": 0.5}, **settings}
    place = fit_sae(SaeConfig.model_validate(config), pool, targets, str(folder / name))
    return load_sae(place), load_manifest(place, "sae").summary


def workers() -> list[int]:
    """Ray Train's workers below this process, which has started Ray."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"RayTrainWorker" in (folder / "cmdline").read_bytes() and os.getpid() in ancestors(int(folder.name)):
                found.append(int(folder.name))
        except OSError:
            continue  # it ended
    return found


def ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        pid = int((Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[1])
        yield pid


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_the_model_does_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 7, "latents": 300, "k": 2}
    one, alone = fit(tmp_path, "one", **settings)
    two, joined = fit(tmp_path, "two", **settings, compute={"actors": 2, "cpus": 0.5})
    for (name, tensor), (_, other) in zip(one.state_dict().items(), two.state_dict().items(), strict=True):
        assert torch.allclose(tensor, other, atol=2e-4), name
    assert torch.equal(one.silent, two.silent)
    assert (one.silent >= one.config.dead_after_samples).any()  # so that the auxiliary loss was joined too
    assert np.allclose(alone["history"], joined["history"], atol=1e-5)
    assert alone["l0"] == pytest.approx(joined["l0"], abs=1e-2)
    assert not alone["stopped_early"] and alone["samples"] == 7 * alone["rows"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_fit_whose_worker_is_killed_within_a_pass_ends_as_one_that_was_not(tmp_path: Path) -> None:
    # 240 rows in batches of 17: looks come after 102 rows, 204 rows and at the end of each pass.
    settings: dict[str, Any] = {"epochs": 12, "window_rows": 100}
    whole, undisturbed = fit(tmp_path, "whole", **settings)
    killed: list[int] = []

    def kill() -> None:
        while not killed and not (tmp_path / "part" / "manifest.json").exists():
            if list((tmp_path / "part" / "training").glob("**/state.pt")):
                killed.extend(workers())
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    watch = threading.Thread(target=kill)
    watch.start()
    part, summary = fit(tmp_path, "part", **settings)
    watch.join()
    assert killed
    for (name, tensor), (_, other) in zip(whole.state_dict().items(), part.state_dict().items(), strict=True):
        assert torch.equal(tensor, other), name
    assert summary["history"] == undisturbed["history"]
    assert len(summary["history"]) == 12 * 3


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_fit_that_no_longer_improves_ends_early_with_its_decay(tmp_path: Path) -> None:
    _, summary = fit(tmp_path, "sae", epochs=20, patience=4, min_improvement=1.0)
    assert summary["stopped_early"]
    rows, seen = summary["rows"], [samples for samples, _ in summary["history"]]
    # Four passes after the first without an improvement by 1, and then the last fifth of the fit.
    assert seen[:5] == [rows * epoch for epoch in range(1, 6)]
    assert seen[-1] == summary["samples"]
    assert 5 * rows / 0.8 <= summary["samples"] < 5 * rows / 0.8 + 17


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_two_workers_fit_one_model(tmp_path: Path) -> None:
    pool, targets = make_tables(tmp_path, planted(0))
    settings: dict[str, Any] = {"latents": 32, "k": 4, "epochs": 30, "batch_rows": 64, "patience": None}
    settings["compute"] = {"actors": 2, "cpus": 0.5}
    place = fit_sae(SaeConfig.model_validate(settings), pool, targets, str(tmp_path / "sae"))
    summary = load_manifest(place, "sae").summary
    assert summary["rows"] == (np.arange(ROWS) % 5 != 0).sum()
    assert len(summary["history"]) == 30
    assert summary["history"][-1][0] == 30 * summary["rows"]
    assert 0 < summary["l0"] <= 4  # counted once, not once for each worker
    assert summary["explained_variance"] > 0.6
    assert summary["history"][0][1] < summary["explained_variance"]
    sae = load_sae(place)
    x = torch.from_numpy(planted(0)[pool.train_ids()])
    with torch.inference_mode():
        residual = (sae.decode(sae.encode(x)) - x).square().sum() / (x - x.mean(dim=0)).square().sum()
    # The figure of the last pass was taken while the model still moved a little.
    assert abs(1 - float(residual) - summary["explained_variance"]) < 0.05


@pytest.mark.usefixtures("ray_local")
def test_constant_targets_are_refused(tmp_path: Path) -> None:
    pool, targets = make_tables(tmp_path, np.ones((ROWS, DIM), dtype=np.float32))
    with pytest.raises(InputError, match="constant"):
        fit_sae(SaeConfig.model_validate({"latents": 8, "k": 2, "epochs": 1}), pool, targets, str(tmp_path / "sae"))


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    pool, targets = make_tables(tmp_path, planted(0))
    with pytest.raises(InputError, match=r"240 training rows for k = 400"):
        fit_sae(SaeConfig.model_validate({"latents": 500, "k": 400}), pool, targets, str(tmp_path / "sae"))
