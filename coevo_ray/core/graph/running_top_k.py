"""The nearest so far of many queries, while products come in a block at a time."""

from __future__ import annotations

import numpy as np
import torch

_PENDING = 64  # offers for each query, on average, that wait before they are sorted in


class RunningTopK:
    """Places of the k largest values of each query.

    An offer passes only where it is larger than the k-th so far: nearly all of a product is read once, by comparing,
    and never sorted. Of equal values those that were offered first stay.

    Args:
        queries: q.
        k: how many.
        device: where the values are.

    Attributes:
        values: float32[q, k], decreasing once settled; -inf where there are fewer.
        places: int64[q, k], -1 where there are fewer.
    """

    def __init__(self, queries: int, k: int, device: torch.device) -> None:
        self.values = torch.full((queries, k), -torch.inf, device=device)
        self.places = torch.full((queries, k), -1, dtype=torch.int64, device=device)
        self._least = self.values[:, -1]
        self._pending: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._count = 0

    def offer(self, rows: torch.Tensor, products: torch.Tensor, start: int) -> None:
        """Values of some queries.

        Args:
            rows: int64[n], queries, each once.
            products: float32[n, m].
            start: place of the first column; the others follow it.
        """
        k = self.values.shape[1]
        least = self._least[rows]
        if products.shape[1] > 4 * k and bool((least == -torch.inf).any()):
            # Without anything to compare with all would pass.
            values, columns = top_k(products, k)
            rows, places = rows.repeat_interleave(k), (columns + start).flatten()
            self._wait(rows, places, values.flatten())
            self.settle()
            return
        passed = nonzero(products > least[:, None])
        columns = passed % products.shape[1]
        self._wait(rows[passed // products.shape[1]], columns + start, products.flatten()[passed])
        if self._count > _PENDING * len(self.values):
            self.settle()

    def _wait(self, rows: torch.Tensor, places: torch.Tensor, values: torch.Tensor) -> None:
        if len(rows):
            self._pending.append((rows, places, values))
            self._count += len(rows)

    def settle(self) -> None:
        """Sorts in what waits."""
        if not self._pending:
            return
        rows, places, values = (torch.cat(parts) for parts in zip(*self._pending, strict=True))
        self._pending, self._count = [], 0
        order = _by_row(rows, len(self.values))
        rows = rows[order]
        sizes = torch.bincount(rows, minlength=len(self.values))
        column = torch.arange(len(rows), device=rows.device) - (sizes.cumsum(0) - sizes)[rows]
        k = self.values.shape[1]
        wide = torch.full((len(self.values), k + int(sizes.max())), -torch.inf, device=rows.device)
        names = torch.full(wide.shape, -1, dtype=torch.int64, device=rows.device)
        wide[:, :k], names[:, :k] = self.values, self.places
        wide[rows, k + column], names[rows, k + column] = values[order], places[order]
        self.values, columns = top_k(wide, k)
        self.places = names.gather(1, columns)
        self._least = self.values[:, -1]


def top_k(products: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of each row and their columns, by decreasing value, ties by increasing column.

    torch.topk leaves open which of equal values it takes.

    Args:
        products: float32[n, m].
        k: how many; all m where there are fewer.
    """
    k = min(k, products.shape[1])
    values, columns = products.topk(min(k + 1, products.shape[1]), dim=1)
    # Among those taken, sorted values stand side by side: a tie inside or at the edge is an equal pair.
    tied = torch.nonzero(((values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -torch.inf)).any(dim=1)).flatten()
    values, columns = values[:, :k], columns[:, :k]
    if len(tied):
        columns[tied] = _lowest_of_ties(products[tied], values[tied, -1], k)
        values[tied] = products[tied].gather(1, columns[tied])
    return values, columns


def _lowest_of_ties(products: torch.Tensor, edge: torch.Tensor, k: int) -> torch.Tensor:
    """Columns above the edge, and of those at the edge as many of the lowest as are wanted; in order."""
    above = products > edge[:, None]
    at = products == edge[:, None]
    wanted = (k - above.sum(dim=1))[:, None]
    taken = above | (at & (at.cumsum(dim=1) <= wanted))
    columns = torch.nonzero(taken)[:, 1].reshape(-1, k)
    order = products.gather(1, columns).sort(dim=1, descending=True, stable=True).indices
    return columns.gather(1, order)


def nonzero(mask: torch.Tensor) -> torch.Tensor:
    """Flat indices of what is true, int64."""
    flat = mask.flatten()
    if flat.device.type == "cpu":  # NumPy skips over long runs of nothing
        return torch.from_numpy(np.flatnonzero(flat.numpy()))
    return torch.nonzero(flat).flatten()


def _by_row(rows: torch.Tensor, queries: int) -> torch.Tensor:
    """A stable order by row."""
    if rows.device.type == "cpu" and queries <= 1 << 16:
        return torch.from_numpy(np.argsort(rows.numpy().astype(np.uint16), kind="stable"))  # radix sort
    return rows.sort(stable=True).indices
