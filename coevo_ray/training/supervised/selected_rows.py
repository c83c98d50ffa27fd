"""The rows of an epoch that a ledger selects, fetched from it a window at a time."""

from __future__ import annotations

from coevo_ray.actors.protocols import LedgerCalls
from coevo_ray.core.arrays import Float32Array, Int64Array


class SelectedRows:
    """An epoch's rows as its ledger keeps them, `EpochRows`: a worker never holds all of them, nor their weights.

    Args:
        selection: the ledger.
        epoch: selected here, unless it is already.

    Attributes:
        epoch: as given.

    Raises:
        InputError: an earlier epoch has not been committed.
        StoppedError: the journal cannot be written; nothing was selected.
    """

    def __init__(self, selection: LedgerCalls, epoch: int) -> None:
        self.epoch, self._selection = epoch, selection
        self._rows = selection.count(epoch)

    def __len__(self) -> int:
        return self._rows

    def positions(self, rows: Int64Array) -> Int64Array:
        """Counts the epoch's rows before each of some row numbers int64[n], increasing: int64[n]."""
        return self._selection.positions(self.epoch, rows)

    def read(self, spans: Int64Array) -> tuple[Int64Array, Float32Array | None]:
        """Fetches the rows of spans int64[m, 3], see `EpochRows`: int64[n], and float32[n] or None."""
        return self._selection.read(self.epoch, spans)
