"""Near-duplicates by the pool's own measure (docs/design.md#own-copies).

Which distances are too small for chance follows from the distances between neighbours all over the pool.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from coevo_ray.core.arrays import AnyArray, BoolArray, Float32Array, Float64Array, FloatArray, Int32Array
from coevo_ray.core.graph.near_duplicates import around_leaders, near_duplicates, near_pairs
from coevo_ray.core.graph.types import GraphPart, Neighbours, over_rows

# Chosen on the digits, CIFAR-10 and banking77, with and without near-copies. `python -m benchmarks.battery duplicates`
# reports these, and pools that they were not chosen on.
_BY_CHANCE = 0.05  # most of the rows called copies that may be expected by chance
_FARTHEST = 0.65  # of the local distance: beyond, the dimension alone would have to tell
_CROWD = 0.25  # of the pool's usual local distance, below which a neighbourhood consists of copies
_EXACT = 2.8e-3  # distance of the same row encoded twice, rounded to float16
_TOLD = 5e-4  # smaller distances are rounding of cosines
_DISAGREE = 2.0  # times a dimension: beyond, most rows have so many copies that they hide it
_FEWEST = 4  # neighbours from which a local distance can be told from the nearest one

# The numbers where only one is given, those of version 0.1.0; and the similarity from which the margin is not needed.
SIMILARITY, MARGIN, SAME = 0.7, 0.2, 0.95


@dataclass(frozen=True)
class Spacing:
    """Distances between neighbours in a pool.

    Attributes:
        local: float32[N], of each row to its last neighbour, but no less than a quarter of the median: a row whose
            neighbours are all copies has no distance of its own.
        usual: the median distance to the last neighbour.
        nearest: largest share of the local distance at which two rows are called copies; 0 where the pool shows none.
        exact: distance up to which rows are copies whatever their local distance: that of rounding, where the shares
            cannot tell, as rows have too few neighbours or the whole pool is one row again and again; else 0.
    """

    local: Float32Array
    usual: float
    nearest: float
    exact: float = 0.0


def copy_groups(
    graph: Neighbours, similarity: float | None = None, margin: float | None = None, same: float = SAME
) -> Int32Array:
    """Groups near-duplicates, by the pool's own measure or by numbers.

    Args:
        graph: neighbours of N rows.
        similarity, margin: see `near_duplicates`; None for both takes the pool's own measure, None for one 0.7 or 0.2.
        same: see `near_duplicates`; only with numbers.

    Returns:
        int32[N], the row of each row's leader; a leader's is its own.

    Raises:
        UsageError: a number is out of bounds.
    """
    if similarity is None and margin is None:
        return own_copies(graph)
    return near_duplicates(
        graph, SIMILARITY if similarity is None else similarity, MARGIN if margin is None else margin, same
    )


def own_copies(graph: Neighbours) -> Int32Array:
    """Groups near-duplicates by the pool's own measure; see docs/design.md#own-copies.

    Two rows are near whose distance is at most `Spacing.nearest` of the local distance of each, or that are the same.

    Args:
        graph: neighbours of N rows.

    Returns:
        int32[N], the row of each row's leader, as `around_leaders` says.
    """
    spacing = spacing_of(graph)
    shared = (spacing.local, spacing.nearest, spacing.exact)
    return around_leaders(graph.rows, *near_pairs(graph, _too_near, *shared))


def _too_near(part: GraphPart, places: slice, local: Float32Array, nearest: float, exact: float) -> BoolArray:
    index, similarity = part.near(places)
    far, both = _distance(similarity), np.minimum(part.own(local, places)[:, None], local[index])
    found: BoolArray = (index >= 0) & ((far <= nearest * both) | (far <= exact))
    return found


def spacing_of(graph: Neighbours) -> Spacing:
    """Measures local distances, and how small a share of them copies keep.

    About a row without copies, the k - 1 nearer neighbours lie evenly in the ball of the k-th, in the pool's local
    dimension m (Levina & Bickel 2004): the nearest one at less than a share r of its radius with probability
    p(r) = 1 - (1 - r^m)^(k-1). More nearest neighbours than that are copies: taken is the largest share up to 0.65 for
    which chance explains at most a twentieth of the rows found (Benjamini & Hochberg 1995).

    Args:
        graph: neighbours of N rows.
    """
    k = _width(graph)
    middle = (k // 2, 3 * k // 4)
    whole, last, nearest, *others = over_rows(graph, _distances, k, [j - 1 for j in (k, 1, *middle)])
    usual = _median(last[whole])
    if k < _FEWEST or usual <= _EXACT:
        return Spacing(np.zeros(graph.rows, np.float32), usual, 0.0, _EXACT)
    local = np.where(whole, np.maximum(last, np.float32(_CROWD * usual)), np.float32(0.0)).astype(np.float32)
    nearer = ((j, distance[whole]) for j, distance in zip(middle, others, strict=True))
    dimension = _dimension(nearer, last[whole], k)
    share = nearest[whole] / np.maximum(local[whole], np.finfo(np.float32).tiny)
    # The rule takes no larger share, and chance is worth computing for few rows only.
    small = share[share <= _FARTHEST]
    return Spacing(local, usual, _largest_share(small, _by_chance(small.astype(np.float64), dimension, k), len(share)))


def _dimension(nearer: Iterable[tuple[int, Float32Array]], last: Float32Array, k: int) -> float:
    """The pool's local dimension m, from the j-th and the k-th distance of each row.

    (d_j / d_k)^m is Beta(j, k - j) distributed. Copies do not move its median as long as most rows have fewer than j of
    them; where they have more, the dimension comes out far too small. So a larger j counts where it gives more than
    twice as much: in pools without copies they agree.

    Args:
        nearer: j, increasing and below k, and float32[n], the distances to the j-th neighbours.
        last: float32[n], the distances to the k-th.
        k: neighbours of a row.
    """
    dimension = 0.0
    for j, distance in nearer:
        ratio = np.log(np.maximum(last, 1e-6) / np.maximum(distance, 1e-6))
        found = math.log((k - 2 / 3) / (j - 1 / 3)) / max(_median(ratio), 1e-6)
        if found > _DISAGREE * dimension:
            dimension = found
    return dimension


def _by_chance(share: Float64Array, dimension: float, k: int) -> Float64Array:
    """Probability that the nearest of k neighbours is no farther than a share of the k-th's distance, float64[n]."""
    chance: Float64Array = -np.expm1((k - 1) * np.log1p(-(np.minimum(share, 1 - 1e-9) ** dimension)))
    return chance


def _largest_share(share: Float32Array, by_chance: Float64Array, rows: int) -> float:
    """The step-up rule: the largest share up to which chance explains a small enough part of the rows found.

    Args:
        share: float32[n], of the rows whose share is small enough to be taken.
        by_chance: float64[n], probability of each.
        rows: all rows.
    """
    order = np.argsort(share, kind="stable")
    found = np.arange(1, len(share) + 1)
    fits = by_chance[order] * rows <= _BY_CHANCE * found
    return float(share[order][np.flatnonzero(fits)[-1]]) if fits.any() else 0.0


def _width(graph: Neighbours) -> int:
    """Number of neighbours of rows: fewer than k if there are no more rows."""
    return min(graph.k, graph.rows - 1)


def _distances(part: GraphPart, k: int, columns: Sequence[int]) -> tuple[AnyArray, ...]:
    """Which rows have k neighbours bool[n], and their distances to some of them float32[n]."""
    whole: BoolArray = part.indices[:, k - 1] >= 0 if k > 0 else np.zeros(len(part), dtype=np.bool_)
    return whole, *(_distance(part.similarities[:, column]) for column in columns)


def _distance(similarities: FloatArray) -> Float32Array:
    """Distance of rows of length 1 by their cosine; no less than what float32 cosines can tell."""
    squared = 2.0 - 2.0 * similarities.astype(np.float32)
    distance: Float32Array = np.sqrt(np.maximum(squared, np.float32(_TOLD**2)))
    return distance


def _median(values: FloatArray) -> float:
    return float(np.median(values)) if len(values) else 0.0
