"""Usage counts of rows: how many committed epochs used each, and where a policy asks for it the last that did."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coevo_ray.core.arrays import Arrays, Int64Array
from coevo_ray.core.rows.chunks import Chunk, each_chunk, map_chunks
from coevo_ray.core.rows.row_set import RowSet
from coevo_ray.errors import InputError

_MOST_USES = np.iinfo(np.uint16).max


class UsageCounts:
    """Counts of N rows, in 1 byte each, or 2 once a row was used 255 times; and 4 for the last epoch.

    Args:
        rows: N.
        last: keep the last epoch that used each row.

    Attributes:
        counts: uint8[N] or uint16[N].
        last_used: int32[N], -1 for none; or None.
    """

    def __init__(self, rows: int, *, last: bool) -> None:
        self.counts: npt.NDArray[np.uint8 | np.uint16] = np.zeros(rows, dtype=np.uint8)
        self.last_used: npt.NDArray[np.int32] | None = np.full(rows, -1, dtype=np.int32) if last else None

    def check_room(self) -> None:
        """Refuses another use of a row that was used as often as can be counted.

        Raises:
            InputError: a row of uint16[N] is at its most.
        """
        if int(self.counts.max()) == _MOST_USES:
            raise InputError(f"a row was used {_MOST_USES} times", "start a new run: usage is counted in 16 bits")

    def add(self, used: RowSet, epoch: int) -> None:
        """Counts a use of rows, a set of N, in an epoch."""
        if self.counts.dtype == np.uint8 and int(self.counts.max()) == np.iinfo(np.uint8).max:
            self.counts = self.counts.astype(np.uint16)
        counts, last_used = self.counts, self.last_used

        def count(chunk: Chunk) -> None:
            flags = used.flags(chunk)
            counts[chunk.slice] += flags
            if last_used is not None:
                last_used[chunk.slice][flags] = epoch

        each_chunk(len(counts), count)

    def histogram(self, among: RowSet) -> dict[int, int]:
        """Returns usage count -> number of rows of a set of N with it."""

        def count(chunk: Chunk) -> Int64Array:
            return np.bincount(self.counts[chunk.slice][among.flags(chunk)], minlength=most + 1)

        most = int(self.counts.max())
        counts = sum(map_chunks(len(self.counts), count), np.zeros(most + 1, dtype=np.int64))
        return {int(c): int(counts[c]) for c in np.flatnonzero(counts)}

    def arrays(self) -> Arrays:
        """Returns the own arrays of N by name: `usage`, and `last_used` where it is kept."""
        return {"usage": self.counts} | ({} if self.last_used is None else {"last_used": self.last_used})

    def restore(self, arrays: Arrays) -> None:
        """Copies the arrays of `arrays`, usage uint[N]; version 0.1.0 kept no `last_used`.

        Raises:
            InputError: an array is of other rows.
        """
        for array in (arrays["usage"], arrays.get("last_used", self.counts)):
            if len(array) != len(self.counts):
                raise InputError(f"{len(array)} usage counts for {len(self.counts)} rows", "use another output folder")
        self.counts = arrays["usage"].copy()
        last_used = arrays.get("last_used")
        self.last_used = None if self.last_used is None or last_used is None else last_used.copy()
