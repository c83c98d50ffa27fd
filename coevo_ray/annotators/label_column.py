"""The label-column oracle: answers from the pool's own labels, row by row as they are asked for."""

from __future__ import annotations

import numpy as np

from coevo_ray.annotators.base import Answers
from coevo_ray.core.arrays import Float64Array, Int64Array, UInt64Array
from coevo_ray.core.rows.hashing import hash_rows
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.pool import Pool

NAME = "label_column"
# Whether a label is wrong, which wrong one it is, and which rows the gate asks for must not hang together, whatever
# seeds they are given.
_WRONG, _WHICH = 0x77726F6E67, 0x7768696368


class LabelColumn:
    """Stands in for people where a pool is already labelled: demonstrations, experiments.

    Args:
        pool: a pool with labels.
        noise: share of wrong answers, in [0, 1]; a wrong label is uniform among the other classes.
        seed: seed of the noise. An answer depends on (seed, row_id) alone: repeats and order change nothing.

    Raises:
        InputError: the pool has no labels, or one class only and there shall be noise.
        UsageError: noise is no share.
    """

    def __init__(self, pool: Pool, noise: float = 0.0, seed: int = 0) -> None:
        if pool.classes == 0:
            raise InputError(
                f"the pool at {pool.location} has no labels to answer with",
                "give a source with labels (class sub-folders or a label column), or set gate: null",
            )
        if not 0 <= noise <= 1:
            raise UsageError(f"noise is {noise}, need a share from 0 to 1", "give the share of wrong answers")
        if noise > 0 and pool.classes < 2:
            raise InputError(f"the pool at {pool.location} has one class: an answer cannot be wrong", "leave noise out")
        self.pool, self.noise, self.seed = pool, noise, seed

    def answer(self, row_ids: Int64Array) -> Answers:
        """The labels of the asked rows that have one, some of them wrong where there is noise.

        Raises:
            InputError: none of them has one.
        """
        labels = self.pool.read(row_ids, ["label"]).column("label").fill_null(-1).to_numpy().astype(np.int64)
        known = labels >= 0
        if len(row_ids) and not known.any():
            raise InputError(
                f"none of the {len(row_ids)} requested rows has a label in the pool",
                "label the rows in the source, or stop the gate earlier with max_label_fraction",
            )
        row_ids, labels = row_ids[known], labels[known]
        if self.noise:
            labels = with_noise(row_ids, labels, self.pool.classes, self.noise, self.seed)
        return Answers(row_ids, labels, NAME)


def with_noise(row_ids: Int64Array, labels: Int64Array, classes: int, noise: float, seed: int) -> Int64Array:
    """Replaces a share of labels by another class.

    Args:
        row_ids: int64[n].
        labels: int64[n], 0..classes-1.
        classes: number of classes, two or more.
        noise: expected share of replaced labels.
        seed: with the row_id it decides whether a label is replaced and by which.

    Returns:
        int64[n].
    """
    wrong = _unit(hash_rows(row_ids, seed ^ _WRONG)) < noise
    step = 1 + (_unit(hash_rows(row_ids, seed ^ _WHICH)) * (classes - 1)).astype(np.int64)
    return np.where(wrong, (labels + step) % classes, labels)


def _unit(hashed: UInt64Array) -> Float64Array:
    """uint64 -> [0, 1), by the 53 bits that a double holds: rounding up to 1 must not happen."""
    return (hashed >> np.uint64(11)).astype(np.float64) * 2.0**-53
