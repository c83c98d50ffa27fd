"""Draw by herding: rows that represent much gain which no label represents yet (docs/design.md#gate-herding).

Uncertainty alone asks for outliers while labels are few, and for inseparable rows where features are weak. UHerding
(Bae et al. 2024, arXiv 2412.20644) covers the pool's uncertainty instead. Here a row covers its neighbours in the
graph, so that a round's draw is O(N k) however many rows there are.
"""

from __future__ import annotations

import bisect
import heapq

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float32Array, Float64Array, FloatArray, Int64Array
from coevo_ray.core.graph.types import GraphPart, Near, Neighbours, over_rows
from coevo_ray.core.rows.chunks import each_part

# Of the distance to the last neighbour, and of the gain. Out of widths of 1/8, 1/4 and 1/2 and powers of 1 and 2, with
# a tenth of the labels, right and wrong ones: the choice of three of five sets of four pools of the battery, and within
# a seventh of a point of the best on the other two.
_WIDTH = 0.5
_POWER = 2
_LEAST_WIDTH = 1e-3
_BLOCK_ROWS = 1 << 16
_HEAD = 4  # rows to sort for each to draw, to begin with
_LOOKED_AT = 1 << 14  # rows whose neighbours are read at a time


def draw_herding(rows: Int64Array, gain: FloatArray, count: int, graph: Neighbours, known: Int64Array) -> Int64Array:
    """Rows that cover the most gain, one after another (greedy, lazily evaluated).

        cover_j    = the largest k(x, j) of the known and drawn rows x;  k(x, x) = 1
        worth of x = sum of gain_j^2 max(0, k(x, j) - cover_j)  over x and its neighbours j
        k(x, j)    = exp(-(1 - similarity) / width)

    Args:
        rows: int64[n], rows that may be drawn.
        gain: float[N], 0 or above; of rows that may not be drawn, too.
        count: at most n.
        graph: neighbours of N rows.
        known: int64[t], rows that are labelled or requested already.

    Returns:
        int64[count], in the order of the draw.
    """
    herd = _Herd(graph, gain, known)
    queue = _Queue(graph, rows, herd.worth(rows), max(_HEAD * count, 1))
    drawn: list[int] = []
    while len(drawn) < count:
        place, at = queue.pop()
        row, near = int(rows[place]), queue.near(at)
        # Worths only fall as rows are drawn: a row that is still above what all others had is the best.
        now = herd.worth_of(row, near)
        if queue.has_before(now, place):
            queue.push(now, place, at)
        else:
            drawn.append(row)
            herd.cover(row, near)
    return np.array(drawn, dtype=np.int64)


class _Queue:
    """Places of rows by decreasing worth, ties by place; a worth may be replaced by a smaller one.

    The rows are sorted a head at a time, and the neighbours of those that come next are read a block at a time.

    Args:
        graph: neighbours of N rows.
        rows: int64[n].
        worth: float64[n], their first worths.
        head: rows to sort at a time, at first.
    """

    def __init__(self, graph: Neighbours, rows: Int64Array, worth: Float64Array, head: int) -> None:
        self._graph, self._rows, self._worth, self._head = graph, rows, worth, head
        self._again: list[tuple[float, int, int]] = []  # a heap of those that were put back
        self._order: Int64Array = np.zeros(0, dtype=np.int64)  # a head; longer ones begin with the same places
        self._left, self._next = np.inf, 0  # the best worth after the head; the first that was never taken out
        self._starts: list[int] = []
        self._blocks: list[Near] = []  # neighbours of those that were, from each start on

    def pop(self) -> tuple[int, int]:
        """Takes out the first place; its number in the order of first worths tells its neighbours."""
        if self._again and not self._from_order(-self._again[0][0], self._again[0][1]):
            return heapq.heappop(self._again)[1:]
        self._extend()
        at, self._next = self._next, self._next + 1
        if not self._blocks or at == self._starts[-1] + len(self._blocks[-1].indices):
            self._starts.append(at)
            self._blocks.append(self._graph.near(self._rows[self._order[at : at + _LOOKED_AT]]))
        return int(self._order[at]), at

    def near(self, at: int) -> Near:
        """Neighbours of the row of that number, which was taken out before."""
        block = bisect.bisect_right(self._starts, at) - 1
        indices, similarities = self._blocks[block]
        place = at - self._starts[block]
        return Near(indices[place], similarities[place])

    def push(self, worth: float, place: int, at: int) -> None:
        """Puts a place back, with its present worth."""
        heapq.heappush(self._again, (-worth, place, at))

    def has_before(self, worth: float, place: int) -> bool:
        """Tests whether a place comes before the given one, of that worth."""
        return self._from_order(worth, place) or (bool(self._again) and (-worth, place) > self._again[0][:2])

    def _from_order(self, worth: float, place: int) -> bool:
        """Tests whether one that was never taken out comes before the given one."""
        if self._next == len(self._order):
            if self._left < worth:  # they need not be sorted to tell
                return False
            self._extend()
        if self._next == len(self._order):
            return False
        first = int(self._order[self._next])
        return (-self._worth[first], first) < (-worth, place)

    def _extend(self) -> None:
        """Sorts a larger head where this one is used up."""
        if self._next < len(self._order) or self._next == len(self._worth):
            return
        head = min(len(self._worth), max(self._head, 2 * len(self._order)))
        self._order, self._left = _best_first(self._worth, head)


def _best_first(worth: Float64Array, head: int) -> tuple[Int64Array, float]:
    """Places of so many largest worths, ties by place, int64[head], and the largest of the others (-inf for none)."""
    if head == len(worth):
        return np.lexsort((np.arange(head), -worth)), -np.inf
    least = np.partition(worth, -head)[-head]
    above, level = np.flatnonzero(worth > least), np.flatnonzero(worth == least)
    ordered = above[np.lexsort((above, -worth[above]))]
    others = level[head - len(above) :]
    left = least if len(others) else worth.max(where=worth < least, initial=-np.inf)
    return np.concatenate([ordered, level[: head - len(above)]]), float(left)


class _Herd:
    """Cover of N rows by the rows that are known or drawn."""

    def __init__(self, graph: Neighbours, gain: FloatArray, known: Int64Array) -> None:
        self._graph, self._weight = graph, gain.astype(np.float32) ** _POWER
        self._width = _WIDTH * max(_median_distance(graph), _LEAST_WIDTH)
        self._cover: Float32Array = np.zeros(graph.rows, dtype=np.float32)
        for start in range(0, len(known), _BLOCK_ROWS):
            part = known[start : start + _BLOCK_ROWS]
            np.maximum.at(self._cover, *_kernel(self._graph.near(part), self._width))
        self._cover[known] = 1.0

    def worth(self, rows: Int64Array) -> Float64Array:
        """Worth of each row, float64[n]."""
        among = np.zeros(self._graph.rows, dtype=np.bool_)
        among[rows] = True
        worth: Float64Array = over_rows(self._graph, _worth, among, self._cover, self._weight, self._width)[0][rows]
        return worth

    def worth_of(self, row: int, near: Near) -> float:
        """Worth of one row; as in `worth`, but for the cost of its general form."""
        index, kernel = _kernel(near, self._width)
        more = np.maximum(kernel - self._cover[index], 0.0) * self._weight[index]
        return float(more.sum(dtype=np.float64)) + float((1.0 - self._cover[row]) * self._weight[row])

    def cover(self, row: int, near: Near) -> None:
        """Takes in a drawn row."""
        index, kernel = _kernel(near, self._width)
        there = index[index >= 0]  # a row is there once in a row's list
        self._cover[there] = np.maximum(self._cover[there], kernel[index >= 0])
        self._cover[row] = 1.0


def _kernel(near: Near, width: float) -> tuple[Int64Array, Float32Array]:
    """Neighbours int64[n, k] and their kernel float32[n, k], 0 for those that are missing."""
    index = near.indices.astype(np.int64)
    similarity = near.similarities.astype(np.float32)
    kernel = np.exp((np.minimum(similarity, 1.0) - 1.0) / np.float32(width))
    return index, np.where(index >= 0, kernel, np.float32(0.0))


def _worth(
    part: GraphPart, among: BoolArray, cover: Float32Array, weight: Float32Array, width: float
) -> tuple[Float64Array]:
    """Worth of the rows of a part that are among those bool[N], float64[n]; 0 for others."""
    worth = np.zeros(len(part), dtype=np.float64)

    def work(places: slice) -> None:
        wanted = np.flatnonzero(part.own(among, places))
        names, own = part.names(places)[wanted], wanted + places.start
        index, kernel = _kernel(part.near(own), width)
        more = np.maximum(kernel - cover[index], 0.0) * weight[index]
        worth[own] = more.sum(axis=1, dtype=np.float64) + (1.0 - cover[names]) * weight[names]

    each_part(len(part), max(1, part.indices.shape[1]), work)
    return (worth,)


def _median_distance(graph: Neighbours) -> float:
    """Median over the rows of 1 - similarity to the last neighbour that is there; 0 where no row has one."""
    has, similarity = over_rows(graph, _last_similarity)
    distances = 1.0 - similarity[has].astype(np.float64)
    return float(np.median(distances, overwrite_input=True)) if len(distances) else 0.0


def _last_similarity(part: GraphPart) -> tuple[BoolArray, FloatArray]:
    """Which rows have neighbours bool[n], and the similarity to the last one that is there float[n]."""
    has = np.zeros(len(part), dtype=np.bool_)
    similarity = np.zeros(len(part), dtype=part.similarities.dtype)
    for start in range(0, len(part), _BLOCK_ROWS):
        places = slice(start, start + _BLOCK_ROWS)
        there = part.indices[places] >= 0
        has[places] = there.any(axis=1)
        last = part.indices.shape[1] - 1 - there[:, ::-1].argmax(axis=1)
        similarity[places] = part.similarities[places][np.arange(len(there)), last]
    return has, similarity
