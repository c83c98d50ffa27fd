"""Sums over the shared set of several contributions, made where their features are, and the consensus by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import ray

from coevo_ray.core.alignment.alignment import held_out
from coevo_ray.core.alignment.consensus import Consensus, fit_consensus
from coevo_ray.core.alignment.moments import Moments, add_moments, moments_of
from coevo_ray.core.arrays import BoolArray, Int64Array
from coevo_ray.core.rows.hashing import hash_rows
from coevo_ray.errors import InputError
from coevo_ray.pipelines.encode.shared_files import SharedFiles
from coevo_ray.runtime.shards import Row, run_tasks

_BLOCK_ROWS = 8192


@dataclass(frozen=True, eq=False)
class JoinedShared:
    """Moments of all contributions' features side by side, on the shared rows that all of them encoded.

    Attributes:
        row_ids: int64[s], those rows.
        held_rows: bool[s], those held out.
        fit, held: moments float[sum of c_k] without and of the held-out rows.
        widths: c_k of each contribution.
        lacking: shared rows that some contribution lacks.
    """

    row_ids: Int64Array
    held_rows: BoolArray
    fit: Moments
    held: Moments
    widths: tuple[int, ...]
    lacking: int


def join_shared(contributions: Sequence[SharedFiles], seed: int) -> JoinedShared:
    """Sums up the shared rows that all contributions have.

    Args:
        contributions: their shared sets, of the same rows.
        seed: of the rows that are held out, one in five, by the hash of their row_ids.

    Raises:
        InputError: fewer than 4 rows are in all of them, or a file cannot be read.
        StoppedError: the cluster failed.
    """
    ids = [c.row_ids() for c in contributions]
    common = reduce(lambda a, b: np.intersect1d(a, b, assume_unique=True), ids)
    every = len(reduce(np.union1d, ids))
    if len(common) < 4:
        raise InputError(
            f"{len(common)} rows of the shared set are in all {len(ids)} contributions; 4 are the least",
            "enlarge the shared set, or see the contributions' rejects",
        )
    held = held_out(hash_rows(common, seed))
    places, rows = [c.location for c in contributions], ray.put((common, held))

    def block(row: Row) -> Row:
        common, held = ray.get(rows)
        part = slice(int(row["start"]), int(row["start"]) + _BLOCK_ROWS)
        joined = np.concatenate([SharedFiles(place).features(common[part]) for place in places], axis=1)
        if not np.isfinite(joined).all():
            raise InputError("a contribution has shared rows that are not finite", "it is damaged: ask for it again")
        out = held[part]
        return {"rows": len(joined), "fit": moments_of(joined[~out]), "held": moments_of(joined[out])}

    items = [{"start": start} for start in range(0, len(common), _BLOCK_ROWS)]
    sums: list[Moments] = []
    # In the order of the rows: sums in another order differ in their last bits.
    for row in run_tasks("sum up the shared set", items, block, total=len(common), in_order=True):
        parts = [row["fit"], row["held"]]
        sums = [add_moments(pair) for pair in zip(sums, parts, strict=True)] if sums else parts
    widths = tuple(c.width() for c in contributions)
    fit, out = sums
    return JoinedShared(common, held, fit, out, widths, every - len(common))


@dataclass(frozen=True, eq=False)
class SharedFit:
    """The consensus of some contributions.

    Attributes:
        consensus: the latent, and a map for each contribution.
        rows: shared rows that all of them encoded.
        lacking: shared rows that some contribution lacks.
    """

    consensus: Consensus
    rows: int
    lacking: int


def fit_shared(contributions: Sequence[SharedFiles], dim: int, seed: int) -> SharedFit:
    """Fits the consensus to the shared rows that all contributions have.

    Args:
        contributions: their shared sets, of the same rows.
        dim: n of the latent.
        seed: of the held-out rows.

    Raises:
        InputError: there are too few shared rows or components, or a file cannot be read.
        StoppedError: the cluster failed.
    """
    joined = join_shared(contributions, seed)
    consensus = fit_consensus(joined.fit, joined.held, joined.widths, dim)
    return SharedFit(consensus, len(joined.row_ids), joined.lacking)
