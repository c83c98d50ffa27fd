"""Measures of targets that need no labels: agreement of the priors' neighbours, and recognition of their makers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from coevo_ray.errors import InputError

_NEIGHBOURS = 10


def neighbour_agreement(targets: Sequence[Float32Array], neighbours: int = _NEIGHBOURS) -> Float64Array:
    """Share of a row's nearest neighbours that two priors have in common (mutual k-NN, arXiv 2405.07987).

    Args:
        targets: for each prior unit vectors float32[s, n] of the same rows.
        neighbours: k; at most s - 1 are compared.

    Returns:
        float64[priors, priors], 1 on the diagonal; k / (s - 1) is chance.

    Raises:
        InputError: there are fewer than 3 rows, or shapes differ.
    """
    _check(targets)
    k = min(neighbours, len(targets[0]) - 1)
    itself = np.eye(len(targets[0]), dtype=bool)
    near = [_nearest(t, k, itself) for t in targets]
    shared = np.ones((len(near), len(near)))
    for i, one in enumerate(near):
        for j, other in enumerate(near[:i]):
            common = [len(np.intersect1d(a, b, assume_unique=True)) for a, b in zip(one, other, strict=True)]
            shared[i, j] = shared[j, i] = float(np.mean(common)) / k
    return shared


def prior_recognition(targets: Sequence[Float32Array], neighbours: int = _NEIGHBOURS) -> float:
    """Accuracy with which a target's nearest neighbours tell its prior; 1 / priors is chance, and good.

    Row i is taken from prior i modulo priors. A target is compared with those of other turns through the priors, so
    that each prior has as many among them: a target is not among its own neighbours, and among few rows its prior would
    be told less often than by chance. No other prior sees a target's own row: only the space can give a prior away.

    Args:
        targets: for each prior unit vectors float32[s, n] of the same rows, in an order without meaning; rows of an
            unfinished turn are left out.
        neighbours: k that vote; at most all of other turns.

    Returns:
        Accuracy, 0 to 1; ties count in part. Chance where there are fewer than two turns: nothing can be told.

    Raises:
        InputError: there are fewer than 3 rows, or shapes differ.
    """
    _check(targets)
    priors = len(targets)
    rows = len(targets[0]) // priors * priors
    if rows < 2 * priors:
        return 1 / priors
    maker, turn = np.arange(rows) % priors, np.arange(rows) // priors
    mixed = np.stack(targets)[maker, np.arange(rows)]
    near = _nearest(mixed, min(neighbours, rows - priors), apart=turn[:, None] == turn)
    votes = np.stack([(maker[near] == prior).sum(axis=1) for prior in range(priors)], axis=1)
    best: BoolArray = votes == votes.max(axis=1, keepdims=True)
    return float((best[np.arange(rows), maker] / best.sum(axis=1)).mean())


def _nearest(rows: Float32Array, k: int, apart: BoolArray) -> Int64Array:
    """The k nearest rows of each row but those that are set apart, int64[s, k], in any order."""
    similarity = np.where(apart, -np.inf, rows @ rows.T)
    found: Int64Array = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    return found


def _check(targets: Sequence[Float32Array]) -> None:
    shapes = {t.shape for t in targets}
    if len(shapes) != 1 or len(targets[0]) < 3:
        raise InputError(
            f"targets have shapes {sorted(shapes)}; need the same rows of each prior, 3 or more",
            "enlarge the shared set",
        )
