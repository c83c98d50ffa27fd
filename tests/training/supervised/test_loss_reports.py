"""What the selection actor is told about rows: against slow loops, in batches, without padding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from coevo_ray.training.feed.feed import Batch
from coevo_ray.training.supervised.loss_reports import LossReports


class Told:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]] = []

    def report_losses(self, epoch: int, *arrays: npt.NDArray[Any]) -> None:
        row_ids, losses, entropies = arrays
        self.reports.append((epoch, row_ids, losses, entropies))


def batch(first: int, weights: list[float]) -> Batch:
    row_ids = np.arange(first, first + len(weights))
    return Batch({}, row_ids, torch.tensor(weights), first + len(weights), len(weights))


def test_losses_and_entropies_are_those_of_slow_loops() -> None:
    told = Told()
    reports = LossReports(told.report_losses)
    reports.begin(3)
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(5, 4)).astype(np.float32) * 3, np.array([0, 3, 1, 1, 2])
    weights = [1.0, 0.5, 2.0, 1.0, 0.0]  # the last is padding
    reports.add(batch(10, weights), torch.from_numpy(logits), torch.from_numpy(labels))
    reports.flush()
    ((epoch, row_ids, losses, entropies),) = told.reports
    assert (epoch, row_ids.tolist()) == (3, [10, 11, 12, 13])
    for i in range(4):
        total = sum(math.exp(z) for z in logits[i])
        p = [math.exp(z) / total for z in logits[i]]
        assert losses[i] == np.float32(losses[i])
        assert abs(losses[i] + math.log(p[labels[i]])) < 1e-5
        assert abs(entropies[i] + sum(q * math.log(q) for q in p)) < 1e-5


def test_rows_are_reported_in_batches_once_each_under_their_own_epoch() -> None:
    told = Told()
    reports = LossReports(told.report_losses, rows=8)
    for epoch in (0, 1):
        reports.begin(epoch)
        for first in range(0, 20, 5):
            reports.add(batch(first, [1.0] * 5), torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64))
    reports.flush()
    reports.flush()
    assert [(epoch, len(ids)) for epoch, ids, _, _ in told.reports] == [(0, 10), (0, 10), (1, 10), (1, 10)]
    for epoch in (0, 1):
        ids = np.concatenate([ids for e, ids, _, _ in told.reports if e == epoch])
        assert ids.tolist() == list(range(20))


def test_half_precision_logits_are_taken() -> None:
    told = Told()
    reports = LossReports(told.report_losses, rows=1)
    reports.begin(0)
    reports.add(batch(0, [1.0]), torch.tensor([[9.0, -9.0]], dtype=torch.bfloat16), torch.tensor([1]))
    assert abs(told.reports[0][2][0] - 18) < 0.1
    assert told.reports[0][2].dtype == np.float32
