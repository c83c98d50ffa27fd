"""A choice that looks at features alone: k-center greedy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

_BLOCK = 512


class Farthest:
    """Rows by the greedy k-center rule (Sener and Savarese 2018): each is the farthest from all that were chosen.

    The order is that of choosing one row at a time, but for ties. Distances to chosen rows only shrink, so the next
    choices are among the rows that are farthest now for as long as one of them is farther than all other rows; only
    then the distances of all rows are brought up to date, in one matrix product.

    Args:
        features: float32[N, d].
        start: int64[s], chosen before; one or more.
        block: rows that are looked at between two updates.
    """

    def __init__(self, features: Vectors, start: Ids, block: int = _BLOCK) -> None:
        self._x, self._block = torch.from_numpy(features), block
        self._squares = self._x.square().sum(dim=1)
        self._nearest = torch.full((len(features),), torch.inf)
        self._update(torch.from_numpy(start))

    def take(self, count: int) -> Ids:
        """The next rows, int64[count], in their order; at most as many as are left."""
        chosen: list[torch.Tensor] = []
        left = count
        while left > 0:
            values, rows = self._nearest.topk(min(self._block + 1, len(self._x)))
            others = float(values[self._block]) if len(values) > self._block else -np.inf
            rows = rows[: self._block].sort().values
            picked = rows[_pick(self._x[rows], self._nearest[rows].clone(), others, left)]
            chosen.append(picked)
            self._update(picked)
            left -= len(picked)
        return torch.cat(chosen).numpy()

    def _update(self, centres: torch.Tensor) -> None:
        for part in torch.split(centres, _BLOCK):
            distance = self._squares[:, None] + self._squares[part] - 2.0 * (self._x @ self._x[part].T)
            torch.minimum(self._nearest, distance.clamp_(min=0).min(dim=1).values, out=self._nearest)
        self._nearest[centres] = -torch.inf


def _pick(x: torch.Tensor, nearest: torch.Tensor, others: float, count: int) -> torch.Tensor:
    """Positions that are chosen before a row outside could be: the first one in any case."""
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()
    distance.fill_diagonal_(-torch.inf)  # so that a chosen row is never the farthest
    picked: list[int] = []
    while len(picked) < count:
        best = int(nearest.argmax())
        value = float(nearest[best])
        if value == -np.inf or (picked and value <= others):
            break
        picked.append(best)
        torch.minimum(nearest, distance[best], out=nearest)
    return torch.tensor(picked)
