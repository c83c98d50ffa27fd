"""Statistics of each factor over all rows, mergeable over shards (docs/design.md#factor-scores)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coevo_ray.core.arrays import Float16Array, Float32Array, Float64Array, Int32Array, Int64Array
from coevo_ray.core.factors.scores import count_factors, factor_frequencies
from coevo_ray.errors import InputError

NO_ROW = -1
_MOST_ROWS = 1 << 24  # a sort key of 64 bits has 24 for a row's position, 16 for the value, 24 for the factor


@dataclass(frozen=True)
class FactorTable:
    """Counts, sums and top rows of m factors; tables of disjoint rows add up.

    A sum of tables is the same for any sharding and order of rows: sums of float16 values are exact in float64 up to
    2^29, and equal values rank by row_id.

    Attributes:
        rows: number of rows.
        counts: int64[m], rows in which each factor is active.
        sums: float64[m], sums of its values.
        top_values: float32[m, n], its largest values, decreasing; padded with 0.
        top_rows: int64[m, n], their row_ids, the lowest first among equal values; padded with -1.
    """

    rows: int
    counts: Int64Array
    sums: Float64Array
    top_values: Float32Array
    top_rows: Int64Array

    @classmethod
    def empty(cls, latents: int, top: int) -> FactorTable:
        """Makes a table without rows: counts int64[m] with m = `latents`, top rows int64[m, n] with n = `top`."""
        return cls(
            0,
            np.zeros(latents, dtype=np.int64),
            np.zeros(latents, dtype=np.float64),
            np.zeros((latents, top), dtype=np.float32),
            np.full((latents, top), NO_ROW, dtype=np.int64),
        )

    @classmethod
    def measure(
        cls, row_ids: Int64Array, indices: Int32Array, values: Float32Array, latents: int, top: int
    ) -> FactorTable:
        """Computes the table of some rows.

        Args:
            row_ids: int64[r], distinct.
            indices, values: their codes int32[r, k] and float32[r, k] >= 0; values are rounded to float16 first, as
                they are stored.
            latents, top: m and n.

        Raises:
            InputError: a value is not finite, or an index outside the latents.
        """
        with np.errstate(over="ignore"):
            stored: Float16Array = values.astype(np.float16)
        if not np.isfinite(stored).all():
            raise InputError("codes that are not finite", "check the features for NaN, infinity and huge values")
        if len(row_ids) > _MOST_ROWS:
            first = cls.measure(row_ids[:_MOST_ROWS], indices[:_MOST_ROWS], values[:_MOST_ROWS], latents, top)
            rest = cls.measure(row_ids[_MOST_ROWS:], indices[_MOST_ROWS:], values[_MOST_ROWS:], latents, top)
            return first + rest
        counts = count_factors(indices, stored, latents)
        active = stored > 0
        sums = np.bincount(indices[active], stored[active].astype(np.float64), latents).astype(np.float64)
        top_values, top_rows = _top(row_ids, indices, stored, latents, top)
        return cls(len(row_ids), counts, sums, top_values, top_rows)

    def __add__(self, other: FactorTable) -> FactorTable:
        values, rows = self.top_values.copy(), self.top_rows.copy()
        touched = np.flatnonzero(other.top_values[:, 0] >= values[:, -1]) if values.shape[1] else np.zeros(0, np.int64)
        all_values = np.concatenate([values[touched], other.top_values[touched]], axis=1)
        all_rows = np.concatenate([rows[touched], other.top_rows[touched]], axis=1)
        best = np.lexsort((all_rows, -all_values), axis=1)[:, : values.shape[1]]
        values[touched] = np.take_along_axis(all_values, best, axis=1)
        rows[touched] = np.take_along_axis(all_rows, best, axis=1)
        return FactorTable(self.rows + other.rows, self.counts + other.counts, self.sums + other.sums, values, rows)

    @property
    def frequencies(self) -> Float64Array:
        """p_j, the share of rows in which each factor is active, float64[m].

        Raises:
            InputError: the table has no rows.
        """
        return factor_frequencies(self.counts, self.rows)

    @property
    def mean_values(self) -> Float64Array:
        """Mean value of each factor over the rows in which it is active, float64[m]; 0 for dead factors."""
        result: Float64Array = self.sums / np.maximum(self.counts, 1)
        return result

    def top(self, factor: int, n: int | None = None) -> tuple[Int64Array, Float32Array]:
        """Returns a factor's rows with the largest values, largest first: row_ids int64[<= n], values float32[<= n]."""
        rows, values = self.top_rows[factor][:n], self.top_values[factor][:n]
        return rows[rows != NO_ROW], values[rows != NO_ROW]


def _top(
    row_ids: Int64Array, indices: Int32Array, values: Float16Array, latents: int, top: int
) -> tuple[Float32Array, Int64Array]:
    """Computes `top_values` and `top_rows` of some rows, by one sort of integers."""
    order = np.argsort(row_ids, kind="stable")
    seats, columns = np.nonzero(values[order] > 0)
    factors, active = indices[order][seats, columns].astype(np.uint64), values[order][seats, columns]
    # Bit patterns of values >= 0 have the values' order. A key: factor, value (largest first), position by row_id.
    falling = np.uint64(0xFFFF) - active.view(np.uint16).astype(np.uint64)  # NumPy 1 would stay at 16 bits
    keys = np.sort(factors << np.uint64(40) | falling << np.uint64(24) | seats.astype(np.uint64))
    factor = (keys >> np.uint64(40)).astype(np.int64)
    first = np.searchsorted(factor, np.arange(latents))
    rank = np.arange(len(keys)) - first[factor]
    keys, factor, rank = keys[rank < top], factor[rank < top], rank[rank < top]
    table = FactorTable.empty(latents, top)
    bits = np.uint16(0xFFFF) - (keys >> np.uint64(24) & np.uint64(0xFFFF)).astype(np.uint16)
    table.top_values[factor, rank] = bits.view(np.float16)
    table.top_rows[factor, rank] = row_ids[order][(keys & np.uint64(_MOST_ROWS - 1)).astype(np.int64)]
    return table.top_values, table.top_rows
