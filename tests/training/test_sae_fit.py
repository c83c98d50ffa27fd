"""The SAE's fit on several Ray Train workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch

from coevo_ray.config import SaeConfig
from coevo_ray.errors import InputError
from coevo_ray.pool.pool import Pool
from coevo_ray.store.artifact import finish, load_manifest, write_table
from coevo_ray.store.location import Location
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


@pytest.mark.usefixtures("ray_local")
def test_two_workers_fit_one_model(tmp_path: Path) -> None:
    pool, targets = make_tables(tmp_path, planted(0))
    settings = {"latents": 32, "k": 4, "epochs": 30, "batch_rows": 64, "compute": {"actors": 2, "cpus": 0.5}}
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
