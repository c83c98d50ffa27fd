"""Draw by herding: rows that represent much gain which no label represents yet (docs/design.md#gate-herding).

Uncertainty alone asks for outliers while labels are few, and for inseparable rows where features are weak. UHerding
(Bae et al. 2024, arXiv 2412.20644) covers the pool's uncertainty instead. Here a row covers its neighbours in the
graph, so that a round's draw is O(N k) however many rows there are.
"""

from __future__ import annotations

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
_HEAD = 4  # rows on the heap for each to draw, to begin with


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
    worth = herd.worth(rows)
    heap: list[tuple[float, int, int]] = []
    taken, left = 0, -np.inf  # rows on the heap so far, the best by their first worth, and the best of the others
    near: list[Near] = []  # of rows on the heap, as many at a time as were put there
    drawn: list[int] = []
    while len(drawn) < count:
        if not heap or -heap[0][0] < left:
            head = min(len(rows), max(_HEAD * count, 2 * taken))
            order, left = _best_first(worth, head)
            near.append(graph.near(rows[order[taken:head]]))
            heap += [(-worth[place], int(place), taken + i) for i, place in enumerate(order[taken:head])]
            heapq.heapify(heap)
            taken = head
        _, place, at = heapq.heappop(heap)
        row, of_row = int(rows[place]), _at(near, at)
        # Worths only fall as rows are drawn: a row that is still above what all others had is the best.
        now = herd.worth_of(row, of_row)
        if now < left or (heap and (-now, place) > heap[0][:2]):
            heapq.heappush(heap, (-now, place, at))
        else:
            drawn.append(row)
            herd.cover(row, of_row)
    return np.array(drawn, dtype=np.int64)


def _at(parts: list[Near], at: int) -> Near:
    """Neighbours of one row, by its number among all in the parts."""
    for index, similarity in parts:
        if at < len(index):
            return Near(index[at], similarity[at])
        at -= len(index)
    raise IndexError(at)


def _best_first(worth: Float64Array, head: int) -> tuple[Int64Array, float]:
    """Places of so many largest worths, ties by place, int64[head], and the largest of the others (-inf for none)."""
    if head == len(worth):
        return np.lexsort((np.arange(head), -worth)), -np.inf
    least = np.partition(worth, -head)[-head]
    above, level = np.flatnonzero(worth > least), np.flatnonzero(worth == least)
    ordered = above[np.lexsort((above, -worth[above]))]
    others = level[head - len(above) :]
    below = worth[worth < least]
    left = least if len(others) else (below.max() if len(below) else -np.inf)
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
