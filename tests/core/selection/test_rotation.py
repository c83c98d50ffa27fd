"""Rotation, windows, random rows and choice by key, against slow versions."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.rows import chunks
from coevo_ray.core.rows.hashing import hash_rows
from coevo_ray.core.rows.row_set import RowSet, ids_of
from coevo_ray.core.selection import smallest_keys as smallest_module
from coevo_ray.core.selection.rotation import draw, highest, mark_smallest, noise, stream_seed, take_turns, window

BIG = [-(2**62), 3, 2**62]  # strata that no table can hold


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 16 rows, so that small sets have several."""
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 16)


def hashes(seed: int) -> list[int]:
    return [int(h) for h in hash_rows(np.arange(500), seed)]


def phases_of(open_: list[int], done: int, total: int, offset: float, seed: int) -> list[tuple[float, int]]:
    """Phase and row of a stratum's rows that are still to come in this cycle."""
    by_hash = sorted(open_, key=hashes(seed).__getitem__)
    return [((done + j + offset) / total, row) for j, row in enumerate(by_hash)]


def slow_turns(rows: list[int], usage: list[int], count: int, seed: int, strata: list[int]) -> list[int]:
    """All phases, sorted."""
    cycle = next(c for c in range(max(usage) + 1) if sum(usage[row] <= c for row in rows) >= count)
    taken = [row for row in rows if usage[row] < cycle]
    coming = []
    for stratum in sorted({strata[row] for row in rows}):
        own = [row for row in rows if strata[row] == stratum]
        open_ = [row for row in own if usage[row] == cycle]
        done = sum(usage[row] > cycle for row in own)
        offset = float(noise(np.array([stratum]), seed, -1 - cycle)[0])
        coming += phases_of(open_, done, len(own), offset, stream_seed(seed, cycle + 1))
    return sorted(taken + [row for _, row in sorted(coming, key=lambda c: c[0])[: count - len(taken)]])


@pytest.mark.parametrize("names", [[-1, 0, 1, 2], BIG], ids=["close", "far"])
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(usage=st.lists(st.integers(0, 3), min_size=1, max_size=70), seed=st.integers(-2, 2**65), data=st.data())
def test_turns_are_the_first_phases_of_the_least_used(
    names: list[int], usage: list[int], seed: int, data: st.DataObject
) -> None:
    size = len(usage)
    strata = data.draw(st.lists(st.sampled_from(names), min_size=size, max_size=size))
    rows = sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1)))
    count = data.draw(st.integers(1, len(rows)))
    counts: npt.NDArray[np.uint16] = np.array(usage, dtype=np.uint16)
    groups = np.array(strata)
    ids = np.array(rows, dtype=np.int64)
    taken = take_turns(ids, counts, count, seed, groups)
    assert ids_of(taken).tolist() == slow_turns(rows, usage, count, seed, strata)
    assert take_turns(RowSet.from_ids(ids, size), counts, count, seed, groups) == RowSet.from_ids(ids_of(taken), size)
    plain = ids_of(take_turns(ids, counts, count, seed))
    by_hash = [hashes(stream_seed(seed, cycle + 1)) for cycle in range(4)]
    assert plain.tolist() == sorted(sorted(rows, key=lambda row: (usage[row], by_hash[usage[row]][row]))[:count])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12)), min_size=1), st.data())
def test_windows_hold_the_count_and_each_stratum_in_proportion(
    sizes: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    behind, open_, done = (np.array(column, dtype=np.int64) for column in zip(*sizes, strict=True))
    total = behind + open_ + done
    count = data.draw(st.integers(0, int(open_.sum())))
    offset = noise(np.arange(len(total)), data.draw(st.integers(0, 99)), 0)
    quotas = window(total, done, open_, count, offset)
    assert quotas.sum() == count
    assert ((quotas >= 0) & (quotas <= open_)).all()
    phases = sorted(((done[s] + k + offset[s]) / total[s], s) for s in range(len(total)) for k in range(open_[s]))
    assert quotas.tolist() == np.bincount([s for _, s in phases[:count]], minlength=len(total)).tolist()


def test_equal_phases_go_to_the_first_strata() -> None:
    four = np.full(3, 4, dtype=np.int64)
    assert window(four, 0 * four, four, 5, np.full(3, 0.5)).tolist() == [2, 2, 1]
    # The first of those at the edge: the next phase of the first stratum is a later one, the second has no rows left.
    total, open_, offsets = np.full(4, 4), np.array([4, 1, 4, 4]), np.array([0.9, 0.5, 0.5, 0.5])
    for count, expected in ((2, [0, 1, 1, 0]), (4, [1, 1, 1, 1]), (5, [1, 1, 2, 1]), (8, [2, 1, 3, 2])):
        assert window(total, 0 * total, open_, count, offsets).tolist() == expected


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 5), min_size=10, max_size=200), st.integers(1, 12), st.integers(0, 99))
def test_epochs_of_a_cycle_hold_floor_or_ceiling_of_each_stratum(strata: list[int], epochs: int, seed: int) -> None:
    groups, size = np.array(strata), len(strata)
    usage = np.zeros(size, dtype=np.uint16)
    for epoch in range(epochs):
        count = (epoch + 1) * size // epochs - epoch * size // epochs
        if count == 0:
            continue
        rows = ids_of(take_turns(np.arange(size), usage, count, seed, groups))
        usage[rows] += 1
        held = np.bincount(groups[rows], minlength=6)
        # All strata have one window; its width follows from any of them to within one row.
        sizes = np.bincount(groups, minlength=6)
        there = sizes > 0
        low, high = ((held[there] - 1) / sizes[there]).max(), ((held[there] + 1) / sizes[there]).min()
        assert low < high
    assert (usage == 1).all()


def test_offsets_of_strata_are_uniform_whatever_their_size() -> None:
    # Of 2000 strata with 4 rows, a window of one eighth holds a row of every second one.
    groups = np.repeat(np.arange(2000), 4)
    rows = ids_of(take_turns(np.arange(8000), np.zeros(8000, np.uint16), 1000, 0, groups))
    assert len(np.unique(groups[rows])) == 1000
    position = np.bincount(rows % 4, minlength=4)
    assert (abs(position - 250) < 60).all()  # which row it is does not hang on row_ids: standard deviation 14


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 9), st.data())
def test_smallest_sorts_by_key_then_hash(keys: list[int], tie_seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(keys)))
    rows = np.arange(len(keys)) * 7
    ties = hash_rows(rows, tie_seed).tolist()
    expected = sorted(range(len(keys)), key=lambda i: (keys[i], ties[i]))[:count]
    marked = mark_smallest(np.array(keys, dtype=np.float64), count, rows, tie_seed)
    assert np.flatnonzero(marked).tolist() == sorted(expected)


@pytest.mark.parametrize(("buckets", "sorted_rows"), [(1 << 18, 1 << 21), (4, 0), (64, 3)])
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scores=st.lists(st.sampled_from([-math.inf, -1.5, -0.0, 0.0, 1e-300, 0.1, 0.1 + 2**-56, 7.0]) | st.floats(-2, 2)),
    seed=st.integers(0, 9),
    data=st.data(),
)
def test_highest_sorts_by_score_then_hash(
    monkeypatch: pytest.MonkeyPatch,
    buckets: int,
    sorted_rows: int,
    scores: list[float],
    seed: int,
    data: st.DataObject,
) -> None:
    monkeypatch.setattr(smallest_module, "_BUCKETS", buckets)
    monkeypatch.setattr(smallest_module, "_MOST_SORTED", sorted_rows)
    scores = [*scores, 0.5]
    rows = sorted(data.draw(st.sets(st.integers(0, len(scores) - 1), min_size=1)))
    count = data.draw(st.integers(1, len(rows)))
    ties = hashes(seed)
    best = sorted(sorted(rows, key=lambda i: (-scores[i], ties[i]))[:count])
    values, ids = np.array(scores), np.array(rows, dtype=np.int64)

    def score(some: Int64Array) -> npt.NDArray[np.float64]:
        return values[some]

    assert ids_of(highest(ids, score, count, seed)).tolist() == best
    assert ids_of(highest(RowSet.from_ids(ids, len(scores)), score, count, seed)).tolist() == best


@pytest.mark.parametrize("buckets", [4, 8, 32])
@pytest.mark.parametrize("score", [-1.5, 0.0, 0.1])
def test_of_many_equal_scores_the_hash_decides(monkeypatch: pytest.MonkeyPatch, buckets: int, score: float) -> None:
    """More of them than are sorted: all 64 bits are looked at, in steps that divide 64 and in others."""
    monkeypatch.setattr(smallest_module, "_BUCKETS", buckets)
    monkeypatch.setattr(smallest_module, "_MOST_SORTED", 3)
    values = np.where(np.arange(60) % 20 == 0, 9.0, np.where(np.arange(60) % 3 == 0, -9.0, score))
    expected = largest_of(values, 10, 5)
    assert ids_of(highest(np.arange(60), lambda rows: values[rows], 10, 5)).tolist() == expected
    assert ids_of(highest(RowSet.full(60), lambda rows: values[rows], 10, 5)).tolist() == expected


def largest_of(values: npt.NDArray[np.float64], count: int, seed: int) -> list[int]:
    ties = hashes(seed)
    return sorted(sorted(range(len(values)), key=lambda row: (-values[row], ties[row]))[:count])


@pytest.mark.parametrize(("buckets", "sorted_rows"), [(4, 0), (64, 3)])
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(usage=st.lists(st.integers(0, 2), min_size=1, max_size=70), seed=st.integers(0, 9), data=st.data())
def test_turns_do_not_depend_on_how_the_smallest_are_found(
    monkeypatch: pytest.MonkeyPatch, buckets: int, sorted_rows: int, usage: list[int], seed: int, data: st.DataObject
) -> None:
    rows, counts, groups = np.arange(len(usage)), np.array(usage), np.arange(len(usage)) % 3
    count = data.draw(st.integers(1, len(usage)))
    expected = slow_turns(rows.tolist(), usage, count, seed, groups.tolist())
    monkeypatch.setattr(smallest_module, "_BUCKETS", buckets)
    monkeypatch.setattr(smallest_module, "_MOST_SORTED", sorted_rows)
    assert ids_of(take_turns(rows, counts, count, seed, groups)).tolist() == expected


def test_draws_are_the_rows_of_smallest_hash() -> None:
    ids = np.arange(3, 500, 3)
    drawn = ids_of(draw(ids, 50, 4))
    assert drawn.tolist() == sorted(sorted(ids.tolist(), key=hashes(4).__getitem__)[:50])


@pytest.mark.parametrize("chunk_rows", [8, 64, 1 << 18])
@pytest.mark.parametrize("workers", [1, 3])
def test_neither_chunks_nor_threads_matter(monkeypatch: pytest.MonkeyPatch, chunk_rows: int, workers: int) -> None:
    rows, usage = RowSet.from_flags(np.arange(1003) % 7 != 0), (np.arange(1003) // 400).astype(np.uint16)
    groups = hash_rows(np.arange(1003), 1).astype(np.int64) % 5

    def all_three() -> list[list[int]]:
        kinds = (
            take_turns(rows, usage, 600, 3, groups),
            draw(rows, 77, 3),
            highest(rows, lambda ids: np.sin(ids.astype(np.float64)), 77, 3),
        )
        return [ids_of(kind).tolist() for kind in kinds]

    expected = all_three()
    monkeypatch.setattr(chunks, "CHUNK_ROWS", chunk_rows)
    monkeypatch.setattr(chunks, "threads", lambda: workers)
    assert all_three() == expected


def test_noise_is_uniform_and_inside_the_open_interval() -> None:
    values = np.concatenate([noise(np.arange(50_000), seed, stream) for seed in (0, 1) for stream in (0, 1)])
    assert values.min() > 0 and values.max() < 1
    assert len(np.unique(values)) == len(values)  # no stream repeats another
    assert np.allclose(np.histogram(values, 10, (0, 1))[0] / len(values), 0.1, atol=0.005)
