"""Rotation, phases, quotas and choice by smallest key, against slow versions."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.policies import class_quotas
from coevo_ray.core.rows import hash_rows
from coevo_ray.core.turns import noise, smallest, stratified_phases, take_turns


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 9), st.data())
def test_smallest_sorts_by_key_then_hash(keys: list[int], tie_seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(keys)))
    rows = np.arange(len(keys)) * 7
    hashes = hash_rows(rows, tie_seed).tolist()
    expected = sorted(range(len(keys)), key=lambda i: (keys[i], hashes[i]))[:count]
    marked = smallest(np.array(keys, dtype=np.float64), count, rows, tie_seed)
    assert np.flatnonzero(marked).tolist() == sorted(expected)


def test_noise_is_uniform_and_inside_the_open_interval() -> None:
    values = np.concatenate([noise(np.arange(50_000), seed, stream) for seed in (0, 1) for stream in (0, 1)])
    assert values.min() > 0 and values.max() < 1
    assert len(np.unique(values)) == len(values)  # no stream repeats another
    assert np.allclose(np.histogram(values, 10, (0, 1))[0] / len(values), 0.1, atol=0.005)


@settings(deadline=None)
@given(st.lists(st.integers(-1, 4), min_size=1, max_size=60), st.integers(0, 5), st.integers(0, 3))
def test_phases_are_evenly_spaced_so_windows_hold_each_stratum_in_proportion(
    strata: list[int], seed: int, cycle: int
) -> None:
    groups = np.array(strata)
    phases = stratified_phases(np.arange(len(groups)), seed, cycle, groups)
    assert ((phases >= 0) & (phases < 1)).all()
    for group in set(strata):
        own = np.sort(phases[groups == group])
        assert np.allclose(np.diff(own), 1 / len(own))
        for low, high in ((0.0, 0.3), (0.15, 0.6), (0.5, 1.0)):
            held = int(((own >= low) & (own < high)).sum())
            fair = len(own) * (high - low)
            assert math.floor(fair - 1e-9) <= held <= math.ceil(fair + 1e-9)


def test_offsets_of_strata_are_uniform_whatever_their_size() -> None:
    groups = np.repeat(np.arange(500), 40)
    phases = stratified_phases(np.arange(len(groups)), 0, 0, groups).reshape(500, 40)
    offsets = phases.min(axis=1) * 40
    assert abs(offsets.mean() - 0.5) < 0.07  # standard error 0.013
    assert abs(np.quantile(offsets, 0.25) - 0.25) < 0.1


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.data())
def test_take_turns_takes_the_least_used_then_the_lowest_phase(usage: list[int], data: st.DataObject) -> None:
    counts: npt.NDArray[np.uint16] = np.array(usage, dtype=np.uint16)
    count = data.draw(st.integers(1, len(counts)))
    groups = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(usage), max_size=len(usage))))
    rows = np.arange(len(counts)) * 3
    phases = {cycle: stratified_phases(rows, 5, cycle, groups) for cycle in set(usage)}
    order = sorted(range(len(usage)), key=lambda i: (usage[i], phases[usage[i]][i], i))
    taken = take_turns(rows, counts, count, 5, groups)
    assert taken.tolist() == sorted(rows[order[:count]].tolist())


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=80), st.integers(0, 9), st.data())
def test_quotas_are_as_equal_as_sizes_allow(labels: list[int], epoch: int, data: st.DataObject) -> None:
    budget = data.draw(st.integers(1, len(labels)))
    quotas = class_quotas(np.array(labels), budget, 0.0, epoch)
    assert sum(quotas.values()) == budget
    unsatisfied = [quotas.get(c, 0) for c in set(labels) if quotas.get(c, 0) < labels.count(c)]
    for label, quota in quotas.items():
        assert 1 <= quota <= labels.count(label)
        # No class gets two more than one that could still give a row.
        assert all(quota <= other + 1 for other in unsatisfied)


@pytest.mark.parametrize("budget", [3, 13])
def test_what_is_left_over_goes_round_the_classes(budget: int) -> None:
    labels = np.repeat(np.arange(10), 10)
    total = np.zeros(10, dtype=np.int64)
    for epoch in range(10):
        for label, quota in class_quotas(labels, budget, 0.0, epoch).items():
            total[label] += quota
    assert total.tolist() == [budget] * 10
