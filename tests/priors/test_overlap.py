"""Forward passes batch by batch: order, and what is under way at once."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from coevo_ray.priors.overlap import Overlap


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_features_come_in_order_from_any_memory(device: str) -> None:
    frozen = np.arange(12, dtype=np.float32).reshape(4, 3)
    frozen.setflags(write=False)
    parts = [frozen, frozen[::-1], np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::-1], frozen[:1]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch warns of read-only memory
        found = list(Overlap(torch.device(device)).run(parts, lambda rows: rows * 2))
    for part, (features, seconds) in zip(parts, found, strict=True):
        assert features.tolist() == (part * 2).tolist()
        assert seconds > 0


@pytest.mark.parametrize(("device", "most"), [("cpu", 1), pytest.param("cuda", 2, marks=pytest.mark.gpu)])
def test_few_batches_are_under_way_at_once(device: str, most: int) -> None:
    begun, taken, ahead = 0, 0, []

    def forward(rows: torch.Tensor) -> torch.Tensor:
        nonlocal begun
        begun += 1
        ahead.append(begun - taken)
        return rows

    parts = (np.full((2, 1), i, dtype=np.float32) for i in range(6))
    for features, _ in Overlap(torch.device(device)).run(parts, forward):
        assert features[0, 0] == taken
        taken += 1
    assert (begun, taken, max(ahead)) == (6, 6, most)
