"""Running top-k of many queries while products arrive a block at a time."""

from __future__ import annotations

import numpy as np
import torch

_PENDING = 64  # buffered values per query, on average, before they are sorted in


class RunningTopK:
    """The k largest values of each query and their positions.

    Only values above the present k-th are buffered: nearly all of a product is read once, by a comparison, and never
    sorted. Of equal values those offered first stay.

    Args:
        queries: q, number of queries.
        k: number of values per query.
        device: device of the values.

    Attributes:
        values: float32[q, k], decreasing after `settle`; padded with -inf.
        positions: int64[q, k], padded with -1.
    """

    def __init__(self, queries: int, k: int, device: torch.device) -> None:
        self.values = torch.full((queries, k), -torch.inf, device=device)
        self.positions = torch.full((queries, k), -1, dtype=torch.int64, device=device)
        self._least = self.values[:, -1]
        self._pending: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._count = 0

    def offer(self, rows: torch.Tensor, products: torch.Tensor, start: int) -> None:
        """Offers values to some queries.

        Args:
            rows: int64[n], distinct queries.
            products: float32[n, m], their values.
            start: position of the first column; the others follow it.
        """
        k = self.values.shape[1]
        least = self._least[rows]
        if products.shape[1] > 4 * k and bool((least == -torch.inf).any()):
            # Queries without k values yet would buffer everything.
            values, columns = top_k(products, k)
            rows, positions = rows.repeat_interleave(k), (columns + start).flatten()
            self._buffer(rows, positions, values.flatten())
            self.settle()
            return
        passed = nonzero(products > least[:, None])
        columns = passed % products.shape[1]
        self._buffer(rows[passed // products.shape[1]], columns + start, products.flatten()[passed])
        if self._count > _PENDING * len(self.values):
            self.settle()

    def _buffer(self, rows: torch.Tensor, positions: torch.Tensor, values: torch.Tensor) -> None:
        if len(rows):
            self._pending.append((rows, positions, values))
            self._count += len(rows)

    def settle(self) -> None:
        """Merges the buffered values into `values` float32[q, k] and `positions` int64[q, k]."""
        if not self._pending:
            return
        rows, positions, values = (torch.cat(parts) for parts in zip(*self._pending, strict=True))
        self._pending, self._count = [], 0
        order = _by_row(rows, len(self.values))
        rows = rows[order]
        sizes = torch.bincount(rows, minlength=len(self.values))
        column = torch.arange(len(rows), device=rows.device) - (sizes.cumsum(0) - sizes)[rows]
        k = self.values.shape[1]
        wide = torch.full((len(self.values), k + int(sizes.max())), -torch.inf, device=rows.device)
        names = torch.full(wide.shape, -1, dtype=torch.int64, device=rows.device)
        wide[:, :k], names[:, :k] = self.values, self.positions
        wide[rows, k + column], names[rows, k + column] = values[order], positions[order]
        self.values, columns = top_k(wide, k)
        self.positions = names.gather(1, columns)
        self._least = self.values[:, -1]


def top_k(products: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Finds the k largest values of each row, by decreasing value, ties by increasing column.

    torch.topk does not specify which of equal values it returns.

    Args:
        products: float32[n, m].
        k: number of values; cut to m.

    Returns:
        Values float32[n, min(k, m)] and columns int64[n, min(k, m)].
    """
    k = min(k, products.shape[1])
    values, columns = products.topk(min(k + 1, products.shape[1]), dim=1)
    # Values come sorted, so a tie among them or at the edge shows as an equal adjacent pair.
    tied = torch.nonzero(((values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -torch.inf)).any(dim=1)).flatten()
    values, columns = values[:, :k], columns[:, :k]
    if len(tied):
        columns[tied] = _lowest_of_ties(products[tied], values[tied, -1], k)
        values[tied] = products[tied].gather(1, columns[tied])
    return values, columns


def _lowest_of_ties(products: torch.Tensor, edge: torch.Tensor, k: int) -> torch.Tensor:
    """Returns the columns above the edge and as many of the lowest at the edge as make k, in order: int64[n, k]."""
    above = products > edge[:, None]
    at = products == edge[:, None]
    wanted = (k - above.sum(dim=1))[:, None]
    taken = above | (at & (at.cumsum(dim=1) <= wanted))
    columns = torch.nonzero(taken)[:, 1].reshape(-1, k)
    order = products.gather(1, columns).sort(dim=1, descending=True, stable=True).indices
    return columns.gather(1, order)


def nonzero(mask: torch.Tensor) -> torch.Tensor:
    """Returns the flat indices of true values of bool[...]: int64[n]."""
    flat = mask.flatten()
    if flat.device.type == "cpu":  # NumPy skips long runs of False
        return torch.from_numpy(np.flatnonzero(flat.numpy()))
    return torch.nonzero(flat).flatten()


def _by_row(rows: torch.Tensor, queries: int) -> torch.Tensor:
    """Sorts stably by row: int64[n]."""
    if rows.device.type == "cpu" and queries <= 1 << 16:
        return torch.from_numpy(np.argsort(rows.numpy().astype(np.uint16), kind="stable"))  # radix sort
    return rows.sort(stable=True).indices
