"""How the annotation gate draws the rows of a round (DESIGN 5.4). Every draw is a function of (seed, round)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coevo_ray.core.graph import Neighbours

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

_UNDECIDED, _PICKED, _PASSED = 0, 1, 2


def row_noise(rows: int, seed: int, round_: int) -> Float64Array:
    """One uniform number in (0, 1) for each row; more rows do not change those of the first.

    Args:
        rows: N.
        seed: seed of the gate.
        round_: the round.
    """
    uniform: Float64Array = np.random.Generator(np.random.PCG64([seed, round_])).random(rows)
    return np.maximum(uniform, np.finfo(np.float64).tiny)


def draw_random(rows: Int64Array, count: int, noise: Float64Array) -> Int64Array:
    """Rows of the smallest noise: a uniform draw without replacement.

    Args:
        rows: int64[n], rows that may be drawn.
        count: at most n.
        noise: float64[N], as `row_noise` gives it.

    Returns:
        int64[count], in random order.
    """
    drawn: Int64Array = rows[np.lexsort((rows, noise[rows]))[:count]]
    return drawn


def draw_in_proportion(rows: Int64Array, gain: Float32Array, count: int, noise: Float64Array) -> Int64Array:
    """Rows without replacement, each with probability in proportion to gain: Gumbel top-k, exact and O(N).

    Args:
        rows: int64[n], rows that may be drawn; those of gain 0 come last.
        gain: float32[N].
        count: at most n.
        noise: float64[N], as `row_noise` gives it.

    Returns:
        int64[count], in the order of the draw.
    """
    # Maximising log(gain) + Gumbel noise is minimising Exp(1) / gain.
    arrival = -np.log(noise[rows]) / np.maximum(gain[rows].astype(np.float64), np.finfo(np.float32).tiny)
    if count < len(rows):
        chosen = np.argpartition(arrival, count)[:count]
        rows, arrival = rows[chosen], arrival[chosen]
    drawn: Int64Array = rows[np.lexsort((rows, arrival))]
    return drawn


def draw_diverse(
    rows: Int64Array,
    gain: Float32Array,
    count: int,
    noise: Float64Array,
    graph: Neighbours,
    *,
    neighbours: int = 8,
    similarity: float = 0.9,
    taken: Int64Array | None = None,
) -> Int64Array:
    """Rows from the top of the gain; a row is passed over when a better pick is among its near neighbours.

    The result is that of going through the rows by decreasing gain one at a time. Where too few rows remain, those
    passed over fill up by gain.

    Args:
        rows: int64[n], rows that may be drawn.
        gain: float32[N].
        count: at most n.
        noise: float64[N], orders rows of the same gain.
        graph: neighbours of N rows.
        neighbours: how many of the nearest are looked at.
        similarity: those more similar than this are near.
        taken: int64[t], rows that count as better picks from the start.

    Returns:
        int64[count]; decreasing gain, first those of their own right, then those that fill up.
    """
    order = rows[np.lexsort((noise[rows], -gain[rows]))]
    taken = np.zeros(0, dtype=np.int64) if taken is None else taken
    head = min(len(order), 4 * count)  # whether a row is picked depends on better ones only, so the top may do
    while True:
        picked = _pick_apart(order[:head], graph, neighbours, similarity, taken)
        if picked.sum() >= count or head == len(order):
            break
        head = min(len(order), 2 * head)
    picks = order[:head][picked][:count]
    rest = order[~np.isin(order, picks)][: count - len(picks)]
    return np.concatenate([picks, rest])


def _pick_apart(
    order: Int64Array, graph: Neighbours, neighbours: int, similarity: float, taken: Int64Array
) -> npt.NDArray[np.bool_]:
    """Which rows of a ranking, best first, are picked: bool[n].

    Each sweep decides all rows whose better near neighbours are decided, which at least the best open one is; a few
    sweeps do, since chains of ever better near neighbours are short.
    """
    rank = np.full(graph.rows, len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    rank[taken] = -1
    state = np.full(graph.rows, _UNDECIDED, dtype=np.uint8)
    state[taken] = _PICKED
    index = graph.indices[order, :neighbours]
    near = (index >= 0) & (graph.similarities[order, :neighbours] > similarity)
    better = near & (rank[index] < np.arange(len(order))[:, None])
    active = np.arange(len(order))
    while len(active):
        states = state[index[active]]
        passed = (better[active] & (states == _PICKED)).any(axis=1)
        waits = ~passed & (better[active] & (states == _UNDECIDED)).any(axis=1)
        state[order[active]] = np.where(passed, _PASSED, np.where(waits, _UNDECIDED, _PICKED))
        active = active[waits]
    picked: npt.NDArray[np.bool_] = state[order] == _PICKED
    return picked
