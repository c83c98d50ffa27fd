"""Reports of each row's loss and entropy to the selection actor, in batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from coevo_ray.core.arrays import Float32Array, Int64Array
from coevo_ray.training.feed.feed import Batch

Report = Callable[[int, Int64Array, Float32Array, Float32Array], object]
_ROWS = 65_536


class LossReports:
    """Gathers one worker's per-row losses of an epoch and reports them now and then, not step by step.

    Args:
        report: takes an epoch, int64[n] row_ids, and float32[n] losses and entropies; may be repeated.
        rows: rows of a report.
    """

    def __init__(self, report: Report, rows: int = _ROWS) -> None:
        self._report, self._rows = report, rows
        self._epoch, self._held = 0, 0
        self._ids: list[Int64Array] = []
        self._real: list[torch.Tensor] = []
        self._figures: list[torch.Tensor] = []

    def begin(self, epoch: int) -> None:
        """Begins an epoch; reports what is left of the one before."""
        self.flush()
        self._epoch = epoch

    @torch.no_grad()
    def add(self, batch: Batch, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Takes a batch: its rows' cross-entropy (in nats, without smoothing or weights) and prediction entropy.

        Args:
            batch: rows; padding is left out.
            logits: float[rows, classes].
            labels: int64[rows].
        """
        logs = logits.detach().float().log_softmax(dim=1)
        losses = -logs.gather(1, labels[:, None])[:, 0]
        entropies = -(logs.exp() * logs).sum(dim=1)
        # They stay on the device until they are reported: fetching them in each step would wait for it.
        self._figures.append(torch.stack([losses, entropies]))
        self._real.append(batch.weights > 0)
        self._ids.append(batch.row_ids)
        self._held += len(batch.row_ids)
        if self._held >= self._rows:
            self.flush()

    def flush(self) -> None:
        """Reports what is held; when it returns, it is journalled."""
        if self._held:
            real = torch.cat(self._real).cpu().numpy()
            losses, entropies = torch.cat(self._figures, dim=1).cpu().numpy()[:, real]
            self._report(self._epoch, np.concatenate(self._ids)[real], losses, entropies)
        self._ids, self._real, self._figures, self._held = [], [], [], 0
