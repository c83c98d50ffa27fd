"""Forecast of the accuracy that further labels bring (docs/design.md#gate-forecast).

Of a gate that has labelled the share s of its rows, and whose other rows have the mean gain m, the potential is

    M = m / (1 - s) (-log s - 1 + s)

which is the integral over log(labels), from now to all rows, of a mean gain that falls in proportion to the rows that
are left. Accuracy that is still to come is kappa M, with a kappa that stays about the same from the first round to the
last: the gain says how much there is to learn, the accuracy on rows that teach nothing (`validation`) what it is worth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float64Array
from coevo_ray.errors import UsageError

_KAPPAS = np.exp(np.linspace(math.log(0.005), math.log(3.0), 81))
_NODES, _FACTOR_NODES = 21, 9  # of a normal distribution, each as likely
_LOW, _HIGH = 0.05, 0.95


class Interval(NamedTuple):
    """A forecast: its 5 %, 50 % and 95 % quantiles."""

    low: float
    middle: float
    high: float


class Usual(NamedTuple):
    """Numbers that are right of most pools; the defaults were chosen on all of the battery's.

    Attributes:
        kappa: its middle before anything was measured.
        spread: standard deviation of its logarithm.
        later: kappa of what is to come over that of what was: late gains fall less than in proportion to rows left.
        factor: standard deviation of the logarithm of what came over kappa M.
        points: standard deviation, as a share of rows, of what came beside that.
    """

    kappa: float = 0.18
    spread: float = 0.55
    later: float = 1.4
    factor: float = 0.3
    points: float = 0.005


_USUAL = Usual()


class Measured(NamedTuple):
    """Measurements after a round.

    Attributes:
        labels: that the model had learned from.
        potential: M of then.
        right: bool[v], validation rows that were predicted rightly; the same rows for all rounds.
    """

    labels: int
    potential: float
    right: BoolArray


def potential(share: float, mean_gain: float) -> float:
    """M, see above; 0 once every row has a label.

    Args:
        share: s, of the rows, 0 excluded.
        mean_gain: m, of the rows without a label.
    """
    return 0.0 if share >= 1.0 else mean_gain / (1.0 - share) * _left(share)


def _left(share: float) -> float:
    return -math.log(share) - 1.0 + share


@dataclass(frozen=True, eq=False)
class Forecast:
    """Accuracy with further labels, as far as it is known.

    Attributes:
        labels: that the model has learned from.
        total: rows that it may learn from.
        scale: m / (1 - s), with which potentials go down.
        accuracy: mean and standard deviation of the present accuracy; None before any validation row was predicted.
        validation_rows: from how many rows that is.
        kappa: float64[k], values.
        weight: float64[k], their probabilities.
        usual: numbers that are right of most pools.
    """

    labels: int
    total: int
    scale: float
    accuracy: tuple[float, float] | None
    validation_rows: int
    kappa: Float64Array
    weight: Float64Array
    usual: Usual

    @classmethod
    def of(cls, measured: Sequence[Measured], total: int, usual: Usual = _USUAL) -> Forecast:
        """Forecast from what was measured after each round.

        Kappa is the slope of the accuracy on validation rows against the potential, with the error of a sample of rows;
        it is weighed against what is usual.

        Args:
            measured: in the order of rounds, one or more; the last is the present.
            total: rows that may be learned from, those with labels included.
            usual: numbers that are right of most pools.

        Raises:
            UsageError: nothing was measured.
        """
        if not measured:
            raise UsageError("a forecast of a gate that has learned nothing", "label its first round, then call next")
        now = measured[-1]
        share = now.labels / total
        scale = 0.0 if share >= 1.0 else now.potential / _left(share)
        log_weight = -0.5 * (np.log(_KAPPAS / usual.kappa) / usual.spread) ** 2
        if (slope := _slope(measured)) is not None:
            kappa, error = usual.later * slope[0], usual.later * slope[1]
            variance = error**2 + (usual.factor * _KAPPAS) ** 2
            log_weight -= 0.5 * (_KAPPAS - kappa) ** 2 / variance + 0.5 * np.log(variance)
        weight = np.exp(log_weight - log_weight.max())
        level = _level(now.right)
        return cls(now.labels, total, scale, level, len(now.right), _KAPPAS, weight / weight.sum(), usual)

    def gain(self, labels: float) -> Interval:
        """Accuracy that labels up to so many add to the present one, as a share of rows.

        Args:
            labels: that the model will have learned from, from the present number to `total`.

        Raises:
            UsageError: they are fewer than now, or more than there are rows.
        """
        return self._added(labels, 0.0, 0.0)

    def accuracy_at(self, labels: float) -> Interval | None:
        """The accuracy with so many labels; None where the present one is not known. Arguments as for `gain`."""
        if self.accuracy is None:
            self._check(labels)
            return None
        return Interval(*(min(max(value, 0.0), 1.0) for value in self._added(labels, *self.accuracy)))

    def labels_until(self, left: float) -> int:
        """Labels, that the model will have learned from, after which all others add less than `left` (its middle).

        Args:
            left: share of rows, above 0.
        """
        middle = float(np.interp(0.5, np.cumsum(self.weight) - self.weight / 2, self.kappa))
        low, high = self.labels, self.total
        while low < high:
            labels = (low + high) // 2
            low, high = (low, labels) if middle * self.scale * _left(labels / self.total) < left else (labels + 1, high)
        return low

    def _added(self, labels: float, level: float, spread: float) -> Interval:
        """Quantiles of a level of that standard deviation and what labels add to it."""
        self._check(labels)
        left = self.scale * _left(self.labels / self.total)
        gone = left - self.scale * _left(labels / self.total)
        nodes = _standard_normal(_NODES)
        factor = np.exp(self.usual.factor * _standard_normal(_FACTOR_NODES))
        middle = level + gone * self.kappa[:, None] * factor
        # For the present labels nothing is foretold; what is off by a few points grows with what is.
        off = math.sqrt(spread**2 + (self.usual.points**2 * gone / left if gone > 0 else 0.0))
        points = middle[:, :, None] + off * nodes
        weight = np.broadcast_to(self.weight[:, None, None], points.shape)
        return _quantiles(points.ravel(), weight.ravel())

    def _check(self, labels: float) -> None:
        if not self.labels <= labels <= self.total:
            raise UsageError(
                f"a forecast for {labels:g} labels", f"ask for {self.labels} to {self.total}, the available rows"
            )


def _standard_normal(nodes: int) -> Float64Array:
    """Values of a standard normal distribution, each as likely."""
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / nodes) for i in range(nodes)])


def _quantiles(points: Float64Array, weight: Float64Array) -> Interval:
    order = np.argsort(points)
    below = np.cumsum(weight[order])
    places = np.searchsorted(below, np.array([_LOW, 0.5, _HIGH]) * below[-1])
    return Interval(*(float(value) for value in points[order][np.minimum(places, len(points) - 1)]))


def _level(right: BoolArray) -> tuple[float, float] | None:
    """Mean and standard deviation of the accuracy, one right and one wrong row added; None without a row."""
    if len(right) == 0:
        return None
    mean = (int(right.sum()) + 1) / (len(right) + 2)
    return mean, math.sqrt(mean * (1 - mean) / (len(right) + 3))


def _slope(measured: Sequence[Measured]) -> tuple[float, float] | None:
    """Slope of accuracy against -M over the rounds, and its standard error over validation rows; None without either.

    The slope is the mean of the rows' own slopes, whose scatter is that of a sample. Few rows that all changed alike,
    or not at all, would look certain: so one more, which went from right to wrong.
    """
    potentials = np.array([each.potential for each in measured])
    right = np.stack([each.right for each in measured]).astype(np.float64)
    rows, spread = right.shape[1], float(((potentials - potentials.mean()) ** 2).sum())
    if rows == 0 or spread <= 0.0:
        return None
    weight = (potentials.mean() - potentials) / spread
    slopes = np.append(weight @ right, -np.abs(weight).sum() / 2)
    return float(slopes[:-1].mean()), float(slopes.std() / math.sqrt(rows))
