"""Losses that training workers report, for policies that use them (docs/design.md#policies)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coevo_ray.core.arrays import AnyArray, Arrays, Float16Array, Float64Array, FloatArray, Int64Array
from coevo_ray.core.rows.row_set import RowSet
from coevo_ray.errors import InputError

# Rows next to each other in a worker's report, which are of one batch or a few: the losses of a window were computed by
# nearly the same network.
WINDOW = 256
_MOST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class LossReport:
    """Losses of some rows, as they are stored and journalled.

    Attributes:
        row_ids: int64[b] or uint32[b], distinct.
        losses: float16[b], nats, clipped to the largest float16.
        entropies: float16[b], nats, NaN where unknown; or None.
    """

    row_ids: AnyArray
    losses: Float16Array
    entropies: Float16Array | None

    def __len__(self) -> int:
        return len(self.row_ids)


class LossTable:
    """The last known loss of every row, and the entropy of its prediction if a policy uses it.

    Bytes per row: 2, another 2 with entropies, and a bit that marks reports of the open epoch.

    Attributes:
        loss: float16[N], NaN where unknown.
        entropy: float16[N], NaN where unknown; or None.
        reported: rows reported in the open epoch.
        relative: whether losses are kept less the mean of their window, see `relative_losses`.
    """

    def __init__(
        self, loss: Float16Array, entropy: Float16Array | None, reported: RowSet, relative: bool = False
    ) -> None:
        self.loss, self.entropy, self.reported, self.relative = loss, entropy, reported, relative

    @classmethod
    def unknown(cls, rows: int, *, entropy: bool, relative: bool = False) -> LossTable:
        """Makes a table of N rows without reports: losses float16[N] of NaN."""
        unknown = np.full(rows, np.nan, dtype=np.float16)
        return cls(unknown, unknown.copy() if entropy else None, RowSet.empty(rows), relative)

    def columns(self) -> Arrays:
        """Returns what a policy may look at, by its name in `SelectionContext`: float16[N] each."""
        loss = {"relative_loss" if self.relative else "loss": self.loss}
        return loss if self.entropy is None else {**loss, "entropy": self.entropy}

    def new(self, row_ids: Int64Array, losses: FloatArray, entropies: FloatArray | None) -> LossReport:
        """Filters a report: rows not reported in this epoch, each at its first occurrence, with a loss that is not NaN.

        The first report of a row counts, so that a repeated report changes nothing.

        Args:
            row_ids: int64[b].
            losses: float[b], nats.
            entropies: float[b], nats, or None.

        Raises:
            InputError: lengths differ, or a row is outside the pool.
        """
        rows = len(self.loss)
        if not len(row_ids) == len(losses) == (len(row_ids) if entropies is None else len(entropies)):
            raise InputError(
                f"{len(losses)} losses and {'no' if entropies is None else len(entropies)} entropies "
                f"for {len(row_ids)} rows",
                "give one loss for each row, and one entropy for each or none",
            )
        if len(row_ids) and not 0 <= row_ids.min() <= row_ids.max() < rows:
            raise InputError(
                f"losses of rows {row_ids.min()} to {row_ids.max()}, the pool has {rows}", "report row_ids of this pool"
            )
        if self.relative:
            losses = relative_losses(losses)
        new = np.flatnonzero(~np.isnan(losses) & ~self.reported.contains(row_ids))
        ids, first = np.unique(row_ids[new], return_index=True)
        chosen = new[first]
        kept = None if entropies is None or self.entropy is None else _half(entropies[chosen])
        return LossReport(ids.astype(np.uint32) if rows <= 2**32 else ids, _half(losses[chosen]), kept)

    def put(self, report: LossReport) -> None:
        """Stores a report of `new`, rows uint32[b] or int64[b]."""
        ids = report.row_ids.astype(np.int64)
        self.loss[ids] = report.losses
        if self.entropy is not None and report.entropies is not None:
            known = ~np.isnan(report.entropies)
            self.entropy[ids[known]] = report.entropies[known]
        self.reported.add(ids)

    def close(self) -> None:
        """Ends the epoch: rows may be reported again, bool[N] marks are cleared."""
        self.reported = RowSet.empty(len(self.loss))

    def arrays(self) -> Arrays:
        """Returns the table's own arrays by name: loss float16[N], reported uint8[ceil(N / 8)], entropy float16[N]."""
        entropy = {} if self.entropy is None else {"entropy": self.entropy}
        return {"loss": self.loss, "reported": self.reported.bits, **entropy}

    @classmethod
    def restore(cls, arrays: Arrays, *, relative: bool = False) -> LossTable:
        """Makes a table from copies of the arrays of `arrays`, loss float16[N] among them.

        Raises:
            InputError: an array is missing.
        """
        if not {"loss", "reported"} <= arrays.keys():
            raise InputError("the journal has no losses, and the policy needs them", "use another output folder")
        entropy = arrays.get("entropy")
        reported = RowSet(arrays["reported"].copy(), len(arrays["loss"]))
        return cls(arrays["loss"].copy(), None if entropy is None else entropy.copy(), reported, relative)


def relative_losses(losses: FloatArray, window: int = WINDOW) -> Float64Array:
    """Subtracts from each loss the mean of its window: of `window` consecutive losses, the last window shorter.

    Losses in the order in which a worker computed them are comparable within a window, where the network has hardly
    changed, and not over a whole epoch ("score context drift", RePB, ICLR 2026).

    Args:
        losses: float[n], NaN for none.
        window: rows of a window, 1 or more.

    Returns:
        float64[n], NaN for none.
    """
    known = ~np.isnan(losses)
    of = np.arange(len(losses)) // window
    sums = np.bincount(of[known], weights=losses[known].astype(np.float64), minlength=len(losses) // window + 1)
    counts = np.bincount(of[known], minlength=len(sums))
    relative: Float64Array = losses - (sums / np.maximum(counts, 1))[of]
    return relative


def _half(values: FloatArray) -> Float16Array:
    return np.clip(values, -_MOST, _MOST).astype(np.float16)
