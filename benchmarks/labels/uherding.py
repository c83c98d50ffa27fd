"""Uncertainty herding with a kernel between all rows (Bae et al. 2024, arXiv 2412.20644): a peer of the gate."""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

from benchmarks.labels.data import Ids, LabelPool
from benchmarks.labels.method import Labelled, Method
from coevo_ray.core.graph.unit_rows import unit_rows
from coevo_ray.core.probes.calibration import apply_temperature, fit_temperature
from coevo_ray.core.probes.probe import cross_fitted_predictions

_FOLDS = 5
_LEAST_WIDTH = 1e-3  # of near-copies with labels


class UHerding(Method):
    """Rows that cover the most uncertainty (1 - margin at the fitted temperature) by a Gaussian kernel, greedily.

    The paper shrinks its kernel as labels come; here the width is the smallest distance between labelled rows of length
    1, so that with many labels rows cover themselves alone. It holds N x N numbers.

    Args:
        pool, seed: see `Method`.
    """

    def __init__(self, pool: LabelPool, seed: int) -> None:
        super().__init__(pool, seed)
        unit = unit_rows(pool.features)
        self._squares = np.maximum(2.0 - 2.0 * (unit @ unit.T), 0.0)

    def choose(self, now: Labelled, count: int) -> Ids:
        """See `Method`."""
        between = self._squares[np.ix_(now.rows, now.rows)] + np.diag(np.full(len(now.rows), np.inf))
        kernel = np.exp(-self._squares / max(float(between.min()), _LEAST_WIDTH**2))
        top = np.sort(apply_temperature(now.probabilities, self._temperature(now)), axis=1)[:, -2:]
        weight, cover = 1.0 - (top[:, 1] - top[:, 0]), kernel[now.rows].max(axis=0)
        free = self.unlabelled(now)
        heap = [(-self._worth(kernel, weight, cover, row), row) for row in free.tolist()]
        heapq.heapify(heap)
        drawn: list[int] = []
        while len(drawn) < count:
            row = heapq.heappop(heap)[1]
            worth = self._worth(kernel, weight, cover, row)
            if heap and -worth > heap[0][0]:
                heapq.heappush(heap, (-worth, row))
            else:
                drawn.append(row)
                cover = np.maximum(cover, kernel[row])
        return np.array(drawn, dtype=np.int64)

    @staticmethod
    def _worth(
        kernel: npt.NDArray[np.float32], weight: npt.NDArray[np.float32], cover: npt.NDArray[np.float32], row: int
    ) -> float:
        return float((weight * np.maximum(kernel[row] - cover, 0.0)).sum())

    def _temperature(self, now: Labelled) -> float:
        first = np.arange(len(now.rows)) < now.first
        features = self.pool.features[now.rows]
        predicted = cross_fitted_predictions(features, now.labels, self.pool.classes, _FOLDS, first, now.decay)
        return fit_temperature(predicted, now.labels[: now.first])
