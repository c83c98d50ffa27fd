"""The label-column oracle: answers from the pool's own labels, row by row as they are asked for."""

from __future__ import annotations

import numpy as np

from coevo_ray.annotators.base import Answers
from coevo_ray.core.rows import Int64Array
from coevo_ray.errors import InputError
from coevo_ray.pool.pool import Pool


class LabelColumn:
    """Stands in for people where a pool is already labelled: demonstrations, experiments.

    Args:
        pool: a pool with labels.

    Raises:
        InputError: the pool has no labels.
    """

    def __init__(self, pool: Pool) -> None:
        if pool.classes == 0:
            raise InputError(
                f"the pool at {pool.location} has no labels to answer with",
                "give a source with labels (class sub-folders or a label column), or set gate: null",
            )
        self.pool = pool

    def answer(self, row_ids: Int64Array) -> Answers:
        """The labels of the asked rows that have one.

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
        return Answers(row_ids[known], labels[known], "label_column")
