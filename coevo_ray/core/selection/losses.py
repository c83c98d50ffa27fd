"""Losses that training workers report, for policies that use them (docs/design.md#policies)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coevo_ray.core.arrays import AnyArray, Arrays, Float16Array, FloatArray, Int64Array
from coevo_ray.core.rows.row_set import RowSet
from coevo_ray.errors import InputError

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
    """

    def __init__(self, loss: Float16Array, entropy: Float16Array | None, reported: RowSet) -> None:
        self.loss, self.entropy, self.reported = loss, entropy, reported

    @classmethod
    def unknown(cls, rows: int, *, entropy: bool) -> LossTable:
        """Makes a table of N rows without reports: losses float16[N] of NaN."""
        unknown = np.full(rows, np.nan, dtype=np.float16)
        return cls(unknown, unknown.copy() if entropy else None, RowSet.empty(rows))

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
    def restore(cls, arrays: Arrays) -> LossTable:
        """Makes a table from copies of the arrays of `arrays`, loss float16[N] among them.

        Raises:
            InputError: an array is missing.
        """
        if not {"loss", "reported"} <= arrays.keys():
            raise InputError("the journal has no losses, and the policy needs them", "use another output folder")
        entropy = arrays.get("entropy")
        reported = RowSet(arrays["reported"].copy(), len(arrays["loss"]))
        return cls(arrays["loss"].copy(), None if entropy is None else entropy.copy(), reported)


def _half(values: FloatArray) -> Float16Array:
    return np.clip(values, -_MOST, _MOST).astype(np.float16)
