"""Base of all ways to choose rows: from the labels so far to the rows to label next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from benchmarks.labels.data import Ids, LabelPool, Vectors
from coevo_ray.core.probes.probe import LinearProbe


@dataclass(frozen=True, eq=False)
class Labelled:
    """The state that a method chooses by.

    Attributes:
        rows: int64[n], labelled rows in the order of their labels, the first ones first.
        labels: int64[n], theirs.
        first: how many of them were chosen before there was a model.
        decay: weight decay of the head.
        probe: the head that was fitted on them.
        probabilities: float32[N, C], what it says of every row.
    """

    rows: Ids
    labels: Ids
    first: int
    decay: float
    probe: LinearProbe
    probabilities: Vectors


class Method(ABC):
    """Chooses rows of a pool, whose labels it does not look at.

    Args:
        pool: the pool.
        seed: of the random first rows, which are the same for every method, and of all chance.
    """

    def __init__(self, pool: LabelPool, seed: int) -> None:
        self.pool, self.seed = pool, seed
        self.random = np.random.default_rng([seed, 2])

    def first(self, count: int) -> Ids:
        """The rows that are labelled before there is a model."""
        return first_rows(self.pool, self.seed, count)

    @abstractmethod
    def choose(self, now: Labelled, count: int) -> Ids:
        """As many further rows."""

    def unlabelled(self, now: Labelled) -> Ids:
        """Rows without a label, increasing."""
        free = np.ones(len(self.pool.features), dtype=bool)
        free[now.rows] = False
        return np.flatnonzero(free)


# Queries of scikit-activeml.
# Those that weigh single rows, so that a batch is the top of one ranking, which takes moments on any pool.
RANKING = ("activeml_margin", "activeml_entropy")


def first_rows(pool: LabelPool, seed: int, count: int) -> Ids:
    """Random first rows of a seed."""
    return np.random.default_rng([seed, 0]).permutation(len(pool.features))[:count]
