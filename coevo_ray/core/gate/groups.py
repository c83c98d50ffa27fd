"""Groups of rows that lie together, told from the neighbour graph alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from coevo_ray.core.arrays import Float32Array, Int32Array, IntArray
from coevo_ray.core.graph.near_duplicates import pick_apart
from coevo_ray.core.graph.types import GraphPart, Neighbours, over_rows

_WIDTH = 16  # neighbours of a row that may be its centre
_JOINED = 8  # neighbours of a centre through which it joins another
_FEW = 16  # groups that are not put together any more
_BLOCK_ROWS = 1 << 16  # worked on at a time


def typicality(graph: Neighbours) -> Float32Array:
    """Mean similarity of each row to its neighbours, float32[N]: TypiClust's measure but for the inverse."""
    mean: Float32Array = over_rows(graph, _mean_similarity)[0]
    return mean


def _mean_similarity(part: GraphPart) -> tuple[Float32Array]:
    return (part.similarities.mean(axis=1, dtype=np.float32),)


@dataclass(frozen=True, eq=False)
class NeighbourGroups:
    """Levels of groups, each about a typical row: from some nine rows each to a few groups of all.

    Rows are looked at by decreasing typicality. One without a centre among its 16 nearest becomes a centre, any other
    belongs to the nearest of those: the first level. For the next, centres are put together in the same way and order,
    through the groups of their 8 nearest rows.

    Rows drawn from the groups of one such level are worth as much as those drawn from as many k-means cells of the
    features, which are not needed here. (Groups along paths of ever more typical neighbours, quick shift, are too
    uneven for it, and no better than rows from the top of the gain.)

    Attributes:
        first: int32[N], group of each row in the first level, 0 to G - 1.
        parents: of each further level int32[G of the level before], in which group each of those is.
    """

    first: Int32Array
    parents: tuple[Int32Array, ...]

    @classmethod
    def of(cls, graph: Neighbours) -> NeighbourGroups:
        """The groups of a graph's rows."""
        order = np.argsort(-typicality(graph), kind="stable").astype(np.int32)
        leads = pick_apart(order, lambda places: graph.near(order[places], _WIDTH).indices, graph.rows)
        centres = order[leads]
        number: Int32Array = np.full(graph.rows, -1, dtype=np.int32)
        number[centres] = np.arange(len(centres), dtype=np.int32)
        (first,) = over_rows(graph, _joined_through, number)
        group, parents = first, []
        while len(centres) > _FEW:
            through = graph.near(centres, _JOINED).indices
            others = np.where(through >= 0, group[through], np.int32(-1))
            others[others == np.arange(len(centres))[:, None]] = -1
            leads = pick_apart(np.arange(len(centres)), others, len(centres))
            if leads.all():
                break
            number = np.where(leads, np.cumsum(leads) - 1, -1).astype(np.int32)
            parent = _join(number, number, others.__getitem__)
            parents.append(parent)
            group, centres = parent[group], centres[leads]
        return cls(first, tuple(parents))

    def about(self, count: int) -> Int32Array:
        """The group of each row, int32[N], in the level whose number of groups is nearest to `count` by ratio."""
        group = best = self.first
        off = abs(np.log((group.max() + 1) / count))
        for parent in self.parents:
            group = parent[group]
            if (now := abs(np.log((parent.max() + 1) / count))) < off:
                best, off = group, now
        return best


def _joined_through(part: GraphPart, number: Int32Array) -> tuple[Int32Array]:
    own = part.own(number, slice(0, len(part)))
    return (_join(own, number, lambda places: part.near(places, _WIDTH).indices),)


def _join(own: Int32Array, number: Int32Array, near_of: Callable[[slice], IntArray]) -> Int32Array:
    """The own number where there is one, else the first one of the rows near: int32[n]; -1 stands for none.

    Args:
        own: int32[n], of the rows that are looked at.
        number: int32[N], of all rows.
        near_of: m of the n -> the rows near them, int[m, k], -1 for none.
    """
    joined = np.empty_like(own)
    for start in range(0, len(own), _BLOCK_ROWS):
        part = slice(start, start + _BLOCK_ROWS)
        near = near_of(part)
        numbers = np.where(near >= 0, number[near], np.int32(-1))
        nearest = numbers[np.arange(len(near)), (numbers >= 0).argmax(axis=1)]
        joined[part] = np.where(own[part] >= 0, own[part], nearest)
    return joined
