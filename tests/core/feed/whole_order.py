"""The order of an epoch from all of its rows at once: the slow, obvious version of `EpochPlan`."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Float32Array, Int64Array

Batches = list[tuple[list[int], list[float]]]


def rank_batches(
    row_ids: Int64Array,
    weights: Float32Array | None,
    place: tuple[int, int],
    *,
    epoch: int,
    seed: int,
    global_batch: int,
    block_starts: Int64Array,
    window_blocks: int,
) -> Batches:
    """One rank's rows and weights, step by step (docs/design.md#feed)."""
    rank, world = place
    weight_of = dict(zip(row_ids.tolist(), [1.0] * len(row_ids) if weights is None else weights.tolist(), strict=True))
    blocks: dict[int, list[int]] = {}
    for row in row_ids.tolist():
        blocks.setdefault(sum(start <= row for start in block_starts[1:].tolist()), []).append(row)
    visits = _generator(seed, epoch).permutation(sorted(blocks))
    order: list[int] = []
    for window, first in enumerate(range(0, len(visits), window_blocks)):
        rows = [row for block in visits[first : first + window_blocks].tolist() for row in blocks[block]]
        order += _generator(seed, epoch, window + 1).permutation(rows).tolist()
    made = []
    for first in range(0, len(order), global_batch):
        batch = sorted(order[first : first + global_batch])
        bits = max(1, (len(batch) - 1).bit_length())
        reversed_ = [int(f"{index:0{bits}b}"[::-1], 2) for index in range(len(batch))]
        batch = [batch[sorted(reversed_).index(number)] for number in reversed_]
        mine = batch[rank::world]
        padding = -(-len(batch) // world) - len(mine)
        made.append((mine + batch[:1] * padding, [weight_of[row] for row in mine] + [0.0] * padding))
    return made


def _generator(seed: int, *stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed % 2**64, *stream]))
