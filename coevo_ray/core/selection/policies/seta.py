"""SeTa: random pruning, clusters of losses, and a window over them that slides from easy to hard."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Float64Array, FloatArray, Int64Array
from coevo_ray.core.rows.row_set import Rows
from coevo_ray.core.selection.policies.base import Policy, SelectionContext, require
from coevo_ray.core.selection.rotation import draw, highest, stream_seed
from coevo_ray.errors import UsageError

_STEPS = 100  # of Lloyd's algorithm, at most


class SeTa(Policy):
    """SeTa: random rows of a window over clusters of losses (Zhou et al. 2025, arXiv 2503.13385, CVPR 2025).

    The rows are clustered by their last losses (k-means), the clusters are ordered by loss, and a window of a share of
    the clusters moves on by one with every epoch, from the easiest to the hardest and then from the easiest again: in
    epoch t of clusters 0..k-1 it begins at t mod (k - w + 1). Rows are drawn at random from within it. The last epochs
    take random rows of all ("partial annealing"), as does an epoch before which no loss is known. Weights are 1.

    The published rule prunes a fixed share at random, then clusters what is left, and takes the whole window: how many
    rows that makes depends on the losses. Here the kept share is given. All rows with a loss are clustered, and so many
    random rows of the window are taken that the budget is met; pruning before clustering draws the same rows in
    expectation. If the window has too few, the rows whose losses are nearest to it come in, too. Rows without a loss
    count as within every window. Clusters are found by Lloyd's algorithm from evenly spaced quantiles, so that they
    depend on the losses alone; where losses have fewer values than clusters, there are as many clusters as values.

    Args:
        clusters: k; 10 as published.
        window: w / k, in (0, 1]; 0.5 as published.
        annealing: share of the epochs, at the end, with random rows of all; 0.125 as published.

    Raises:
        UsageError: a number is out of bounds.
    """

    name = "seta"
    needs = frozenset({"loss"})
    equal_visits = False

    def __init__(self, clusters: int = 10, window: float = 0.5, annealing: float = 0.125) -> None:
        if clusters < 1 or not 0 < window <= 1 or not 0 <= annealing <= 1:
            raise UsageError(
                f"seta: clusters {clusters}, window {window}, annealing {annealing}",
                "need clusters >= 1, 0 < window <= 1 and 0 <= annealing <= 1",
            )
        self.clusters, self.share, self.annealing = clusters, window, annealing

    def select(self, context: SelectionContext) -> Rows:
        """Selects random rows of the window: int64[budget] or a set.

        Raises:
            InputError: there are no losses.
        """
        require(context, self)
        losses = context.loss
        assert losses is not None
        seed = stream_seed(context.seed, context.epoch + 1)
        edges = self.window(context)
        if edges is None:
            return draw(context.candidates, context.budget, seed)
        low, high = edges

        def nearness(rows: Int64Array) -> Float64Array:
            own = losses[rows].astype(np.float64)
            near: Float64Array = -np.nan_to_num(np.maximum(0.0, np.maximum(low - own, own - high)), nan=0.0)
            return near

        # Rows within the window tie at 0, and the hash that breaks ties draws at random among them.
        return highest(context.candidates, nearness, context.budget, seed)

    def window(self, context: SelectionContext) -> tuple[float, float] | None:
        """Returns the smallest and largest loss, in nats, of the epoch's window; None where all rows are drawn from."""
        assert context.loss is not None
        if context.epoch >= context.epochs - round(self.annealing * context.epochs):
            return None
        known = context.loss[context.rows]
        known = known[~np.isnan(known)]
        if len(known) == 0:
            return None
        ranges = loss_clusters(known, self.clusters)
        width = max(1, round(self.share * len(ranges)))
        start = context.epoch % (len(ranges) - width + 1)
        return float(ranges[start, 0]), float(ranges[start + width - 1, 1])


def loss_clusters(losses: FloatArray, clusters: int) -> Float64Array:
    """Clusters losses by k-means in one dimension.

    Args:
        losses: float[n] without NaN.
        clusters: number of clusters, 1 or more.

    Returns:
        float64[k, 2]: the smallest and largest loss of each cluster, from the easiest; k is at most `clusters`.
    """
    values, counts = np.unique(losses.astype(np.float64), return_counts=True)
    quantiles = (np.arange(clusters) + 0.5) / clusters * counts.sum()
    centres = np.unique(values[np.searchsorted(np.cumsum(counts), quantiles)])
    if len(centres) < clusters:  # many rows of one loss: evenly spaced values in place of quantiles
        centres = np.unique(values[np.linspace(0, len(values) - 1, clusters).round().astype(np.int64)])
    for _ in range(_STEPS):
        of = np.searchsorted((centres[1:] + centres[:-1]) / 2, values, side="right")
        rows = np.bincount(of, weights=counts, minlength=len(centres))
        there = rows > 0
        moved = np.bincount(of, weights=counts * values, minlength=len(centres))[there] / rows[there]
        if np.array_equal(moved, centres):
            break
        centres = moved
    first = np.flatnonzero(np.diff(of, prepend=-1))
    ends = np.append(first[1:], len(values)) - 1
    return np.column_stack([values[first], values[ends]])
