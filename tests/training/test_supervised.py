"""Supervised training: two workers learn what one does, gradient by gradient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from coevo_ray.config import TrainConfig
from coevo_ray.pool.pool import Pool
from coevo_ray.store.artifact import finish, load_manifest, write_table
from coevo_ray.store.location import Location
from coevo_ray.training.supervised import train_policy
from tests.training import png

ROWS = 120


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_two_workers_learn_what_one_does(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    place, ids = Location.parse(str(tmp_path / "pool")), np.arange(ROWS)
    images = [png(random.integers(0, 100 + 50 * (i % 3), (16, 16, 3), np.uint8)) for i in ids]
    columns = {"row_id": ids, "image": pa.array(images, pa.binary()), "label": ids % 3}
    rows = pa.table({**columns, "split": (ids % 5 == 0).astype(np.int8)})
    finish(place, "pool", {}, {}, [write_table(place, "a.parquet", rows)], {"classes": 3})
    pool, weights, figures = Pool(place), [], []
    for actors in (1, 2):
        settings = {
            "model": "tests.training.networks_for_tests:plain",  # without batch norm, which sees a worker's own rows
            "image_size": 16,
            "epochs": 2,
            "batch_rows": 17,
            "compute": {"actors": actors, "cpus": 0.5},
        }
        config = TrainConfig.model_validate(settings)
        out = train_policy(config, "full", pool, pool.labels(), None, str(tmp_path / str(actors)))
        weights.append(load_file(tmp_path / str(actors) / "model.safetensors"))
        figures.append(load_manifest(out, "model").summary)
    for name, tensor in weights[0].items():
        # SGD's steps are as long as its gradients: a wrong factor between workers would show.
        assert torch.allclose(tensor, weights[1][name], atol=1e-5), name
    assert figures[0]["samples"] == figures[1]["samples"] == 2 * 96
    assert [h["epoch"] for h in figures[0]["history"]] == [0, 1]
