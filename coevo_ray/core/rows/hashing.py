"""Deterministic arithmetic on row_ids: hashing, assignment to participants, sampling.

Every function depends on (row_id, seed) alone, so results do not change with order, shards or workers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float64Array, Int64Array, UInt8Array, UInt64Array
from coevo_ray.errors import InputError

# The increment and the multipliers below are those of splitmix64 (Steele et al. 2014).
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
# Decorrelates participants from rows chosen with the same seed: with one hash for both, all rows of the held-out split
# (the smallest hashes) would go to the first participant.
_PARTICIPANTS = 0x7061727469636970


def hash_rows(row_ids: Int64Array, seed: int) -> UInt64Array:
    """Hashes row_ids with splitmix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators").

    Args:
        row_ids: int64[n].
        seed: any integer; taken modulo 2^64.

    Returns:
        uint64[n], uniform over the whole range; for one seed distinct row_ids have distinct hashes.

    Examples:
        >>> hash_rows(np.array([3, 7]), seed=0).dtype
        dtype('uint64')
        >>> first, second = hash_rows(np.array([3, 7]), seed=0), hash_rows(np.array([7, 3]), seed=0)
        >>> bool((first == second[::-1]).all())  # a row's hash depends on neither order nor neighbours
        True
    """
    return hash_from(row_ids, seed_offset(seed))


def seed_offset(seed: int) -> UInt64Array:
    """Returns where a seed begins the sequences of `hash_rows`, which `hash_from` takes: uint64[1]."""
    return _mix(np.array([seed % 2**64], dtype=np.uint64) + _GAMMA)


def hash_from(row_ids: Int64Array, offsets: UInt64Array) -> UInt64Array:
    """Hashes row_ids int64[n] as `hash_rows`, each from the offset of a seed, uint64[n] or uint64[1]: uint64[n]."""
    hashed = row_ids.astype(np.uint64)
    hashed *= _GAMMA
    hashed += offsets
    return _mix(hashed)


def _mix(x: UInt64Array) -> UInt64Array:
    """Mixes the bits of x, in place."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def assign_participants(row_ids: Int64Array, weights: Sequence[float], seed: int) -> UInt8Array:
    """Assigns each row to exactly one participant.

    Args:
        row_ids: int64[n].
        weights: 1 to 256 numbers, none negative; a participant gets rows in proportion to its own.
        seed: seed of the assignment.

    Returns:
        uint8[n], index of the participant.

    Raises:
        InputError: there are no weights, more than 256, a negative one, or none above 0.

    Examples:
        >>> parts = assign_participants(np.arange(10_000), weights=[1, 3], seed=0)
        >>> bool(abs((parts == 1).mean() - 0.75) < 0.02)
        True
    """
    shares = _shares(weights)
    unit = hash_rows(row_ids, seed ^ _PARTICIPANTS).astype(np.float64) / 2.0**64
    bounds = np.cumsum(shares / shares.sum())
    index = np.searchsorted(bounds, unit, side="right")
    owner: UInt8Array = np.minimum(index, np.flatnonzero(shares)[-1]).astype(np.uint8)
    return owner


def cover_rows(row_ids: Int64Array, weights: Sequence[float], seed: int, count: int) -> BoolArray:
    """Assigns each row to several participants: the one of `assign_participants`, and others drawn without replacement.

    The others have the smallest of exponential times with their weights as rates (Efraimidis & Spirakis 2006).

    Args:
        row_ids: int64[n].
        weights: as in `assign_participants`; a participant of weight 0 gets no row.
        seed: seed of the assignment.
        count: participants of a row; all with a positive weight where there are fewer.

    Returns:
        bool[n, participants].

    Raises:
        InputError: weights are wrong, or the count is below 1.

    Examples:
        >>> bool((cover_rows(np.arange(100), [1, 1, 2], seed=0, count=2).sum(axis=1) == 2).all())
        True
    """
    shares = _shares(weights)
    if count < 1:
        raise InputError(f"a row would have {count} participants", "give 1 or more")
    times = np.full((len(row_ids), len(shares)), np.inf)
    for place in np.flatnonzero(shares):
        unit = (hash_rows(row_ids, seed ^ _PARTICIPANTS + int(place) + 1).astype(np.float64) + 1) / (2.0**64 + 1)
        times[:, place] = -np.log(unit) / shares[place]
    owner = assign_participants(row_ids, weights, seed)
    times[np.arange(len(row_ids)), owner] = -1
    order = np.argsort(times, axis=1, kind="stable")[:, : min(count, int(np.count_nonzero(shares)))]
    covered = np.zeros(times.shape, dtype=np.bool_)
    np.put_along_axis(covered, order, True, axis=1)
    return covered


def _shares(weights: Sequence[float]) -> Float64Array:
    shares = np.asarray(weights, dtype=np.float64)
    wrong = not 1 <= len(shares) <= 256 or not np.isfinite(shares).all() or (shares < 0).any()
    if wrong or not shares.any():
        raise InputError(
            f"participants' weights are {list(weights)}", "give 1 to 256 numbers, none negative and one above 0"
        )
    return shares


def choose_rows(candidates: Int64Array, count: int, seed: int) -> Int64Array:
    """Chooses the rows with the smallest hashes, so that a larger count gives a superset of a smaller one.

    Args:
        candidates: int64[n], distinct.
        count: number of rows, at most n.
        seed: seed of the hash.

    Returns:
        int64[count], increasing.

    Raises:
        InputError: the count is negative or above n.

    Examples:
        >>> rows = np.arange(100)
        >>> few, more = choose_rows(rows, 5, seed=1), choose_rows(rows, 20, seed=1)
        >>> bool(np.isin(few, more).all())
        True
    """
    if not 0 <= count <= len(candidates):
        raise InputError(f"{count} rows are wanted of {len(candidates)}", "ask for fewer rows")
    if count in (0, len(candidates)):
        return np.sort(candidates[:count])
    # Distinct rows have distinct hashes, so the smallest ones are a unique set and a partition finds it in O(n).
    return np.sort(candidates[np.argpartition(hash_rows(candidates, seed), count - 1)[:count]])
