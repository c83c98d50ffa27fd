"""The label-column oracle: answers from the pool's own labels."""

from __future__ import annotations

import numpy as np

from coevo_ray.annotators.base import Answers
from coevo_ray.core.arrays import Float64Array, Int64Array, UInt64Array
from coevo_ray.core.rows.hashing import hash_rows
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.pool import Pool

NAME = "label_column"
# Salts: wrong labels, their replacement and the gate's draws stay independent, also under equal seeds.
_WRONG, _WHICH = 0x77726F6E67, 0x7768696368


class LabelColumn:
    """An annotator for pools that are already labelled: demonstrations, experiments.

    Args:
        pool: a pool with labels.
        noise: share of wrong answers, in [0, 1]; a wrong label is uniform among the other classes.
        seed: seed of the noise. An answer depends on (seed, row_id) only, not on order or repetition.

    Raises:
        InputError: the pool has no labels, or a single class with noise above 0.
        UsageError: noise is outside [0, 1].
    """

    def __init__(self, pool: Pool, noise: float = 0.0, seed: int = 0) -> None:
        if pool.classes == 0:
            raise InputError(
                f"the pool at {pool.location} has no labels to answer with",
                "ask people (--annotator file_drop; in a run file gate.annotator), or give a source with labels (class "
                "sub-folders or a label column); a run without a gate has gate: null",
            )
        if not 0 <= noise <= 1:
            raise UsageError(f"noise is {noise}, need a share from 0 to 1", "give the share of wrong answers")
        if noise > 0 and pool.classes < 2:
            raise InputError(f"the pool at {pool.location} has one class: an answer cannot be wrong", "leave noise out")
        self.pool, self.noise, self.seed = pool, noise, seed

    def answer(self, row_ids: Int64Array) -> Answers:
        """The labels of the labelled rows among those asked, with noise where it is set.

        Raises:
            InputError: no row has a label.
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
        seed: with the row_id it decides whether a label is replaced, and by which class.

    Returns:
        int64[n].
    """
    wrong = _unit(hash_rows(row_ids, seed ^ _WRONG)) < noise
    step = 1 + (_unit(hash_rows(row_ids, seed ^ _WHICH)) * (classes - 1)).astype(np.int64)
    return np.where(wrong, (labels + step) % classes, labels)


def _unit(hashed: UInt64Array) -> Float64Array:
    """uint64 -> float64 in [0, 1), from the upper 53 bits: more would round up to 1."""
    return (hashed >> np.uint64(11)).astype(np.float64) * 2.0**-53
