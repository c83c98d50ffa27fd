"""Near-duplicates by the pool's own measure: against plain loops, on pools without copies and with planted ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from coevo_ray.core.graph.copies import copy_groups, own_copies, spacing_of
from coevo_ray.core.graph.graph import build_graph
from coevo_ray.core.graph.near_duplicates import near_duplicates
from coevo_ray.core.graph.types import NeighbourGraph
from coevo_ray.errors import UsageError

Floats = npt.NDArray[np.float64]


def cloud(rows: int, dim: int, seed: int) -> Floats:
    made: Floats = np.random.default_rng(seed).standard_normal((rows, dim))
    return made


def with_copies(rows: int, dim: int, seed: int, copied: int, each: int, noise: float) -> tuple[Floats, Any]:
    """A cloud, the first rows of it with near-copies behind; and the row that each is of."""
    x = cloud(rows, dim, seed)
    of = np.repeat(np.arange(copied), each)
    near = x[of] + noise * np.random.default_rng(seed + 1).standard_normal((len(of), dim))
    return np.concatenate([x, near]), np.concatenate([np.arange(rows), of])


def joined(leader: npt.NDArray[np.int32]) -> int:
    return int((leader != np.arange(len(leader))).sum())


# -- the rule as loops -----------------------------------------------------------------------------------------------


def largest_share(graph: NeighbourGraph) -> tuple[list[float], float]:
    """Local distances of the rows, and the largest share of them at which rows are copies, one row at a time."""
    k = graph.k
    far = [[math.sqrt(max(5e-4**2, 2 - 2 * float(s))) for s in row] for row in graph.similarities]
    usual = float(np.median([row[k - 1] for row in far]))
    dimension = 0.0
    for j in (k // 2, 3 * k // 4):
        ratio = float(np.median([math.log(max(row[k - 1], 1e-6) / max(row[j - 1], 1e-6)) for row in far]))
        estimate = math.log((k - 2 / 3) / (j - 1 / 3)) / max(ratio, 1e-6)
        dimension = estimate if estimate > 2 * dimension else dimension
    local = [max(row[k - 1], usual / 4) for row in far]
    shares = sorted(row[0] / max(own, 1e-30) for row, own in zip(far, local, strict=True))
    nearest = 0.0
    for found, share in enumerate(shares, start=1):
        chance = 1 - (1 - min(share, 1) ** dimension) ** (k - 1)
        if share <= 0.65 and chance * len(shares) <= 0.05 * found:
            nearest = share
    return local, nearest


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(12, 40),
    dim=st.integers(2, 8),
    k=st.integers(4, 9),
    seed=st.integers(0, 99),
    noise=st.sampled_from([0.0, 0.02, 0.1]),
)
def test_groups_are_those_of_the_loops(rows: int, dim: int, k: int, seed: int, noise: float) -> None:
    x, _ = with_copies(rows, dim, seed, 5, 2, noise)
    graph = build_graph(x, k, "exact")
    local, nearest = largest_share(graph)
    spacing = spacing_of(graph)
    assert spacing.local == pytest.approx(local, rel=1e-4)
    assert spacing.nearest == pytest.approx(nearest, rel=1e-4, abs=1e-6)
    near: dict[int, set[int]] = {row: set() for row in range(len(x))}
    for row in range(len(x)):
        for j, s in zip(graph.indices[row].tolist(), graph.similarities[row], strict=True):
            far = float(np.sqrt(np.maximum(np.float32(2) - np.float32(2) * s, np.float32(5e-4**2))))
            if far <= np.float32(spacing.nearest) * min(spacing.local[row], spacing.local[j]):
                near[row].add(j)
                near[j].add(row)
    leaders: list[int] = []
    expected = []
    for row in range(len(x)):
        mine = [leader for leader in leaders if leader in near[row]]
        expected.append(mine[0] if mine else row)
        if not mine:
            leaders.append(row)
    assert own_copies(graph).tolist() == expected


# -- pools -----------------------------------------------------------------------------------------------------------


def test_the_digits_hold_no_copies() -> None:
    """Fixed numbers (0.7, 0.2) called hundreds of them copies, and none of them is one."""
    graph = build_graph(load_digits().data, 16, "exact", centre=True)
    assert joined(copy_groups(graph, 0.7, 0.2)) > 200
    assert joined(copy_groups(graph)) == 0


def test_copies_among_the_digits_are_found() -> None:
    """Each tenth digit twice more, with every pixel off by up to one of its 17 levels."""
    x = load_digits().data
    of = np.repeat(np.arange(0, len(x), 10), 2)
    near = np.clip(x[of] + np.random.default_rng(0).integers(-1, 2, (len(of), 64)), 0, 16)
    leader = copy_groups(build_graph(np.concatenate([x, near]), 16, "exact", centre=True))
    assert (leader[len(x) :] == of).mean() > 0.9
    assert joined(leader[: len(x)]) <= 0.02 * len(of)


@pytest.mark.parametrize("dim", [2, 5, 20, 100])
def test_a_cloud_has_hardly_any_copies_whatever_its_dimension(dim: int) -> None:
    found = [joined(own_copies(build_graph(cloud(400, dim, seed), 16, "exact"))) for seed in range(10)]
    assert sum(count > 0 for count in found) <= 2 and max(found) <= 4


@pytest.mark.parametrize("dim", [5, 20, 100])
def test_planted_copies_are_found_and_little_else(dim: int) -> None:
    x, of = with_copies(600, dim, 0, 100, 3, 0.02)
    leader = own_copies(build_graph(x, 16, "exact"))
    assert (leader[600:] == of[600:]).mean() > 0.95
    assert joined(leader[:600]) <= 15


@pytest.mark.parametrize("each", [4, 8, 10])
def test_copies_are_found_where_most_rows_have_many(each: int) -> None:
    x, of = with_copies(300, 24, 0, 100, each, 0.02)
    leader = own_copies(build_graph(x, 16, "exact"))
    assert (leader[300:] == of[300:]).mean() > 0.9
    assert joined(leader[:300]) <= 3


def test_more_copies_of_a_row_than_it_has_neighbours_lie_in_few_groups() -> None:
    x, of = with_copies(300, 20, 0, 1, 40, 0.005)
    leader = own_copies(build_graph(x, 16, "exact"))
    crowd = (of == 0).nonzero()[0]
    assert np.isin(leader[crowd], crowd).all() and joined(leader[:300]) == 0
    assert len(np.unique(leader[crowd])) <= 8, "no row has all of the others among its neighbours"


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 99))
def test_the_order_of_rows_does_not_matter_to_who_is_a_copy(seed: int) -> None:
    x, _ = with_copies(100, 6, seed, 10, 1, 0.01)
    order = np.random.default_rng(seed).permutation(len(x))
    here, there = (own_copies(build_graph(rows, 16, "exact")) for rows in (x, x[order]))
    members = {frozenset(np.flatnonzero(here == leader).tolist()) for leader in here}
    assert members == {frozenset(order[there == leader].tolist()) for leader in there}


@pytest.mark.parametrize("rows", [1, 2, 3, 6, 17])
def test_small_pools_have_exact_copies_at_least(rows: int) -> None:
    x = cloud(rows, 10, 1)
    if rows > 1:
        x[-1] = x[0]
    graph = build_graph(x, 16, "exact") if rows > 1 else lone()
    leader = own_copies(graph)
    assert leader[-1] == 0 and joined(leader) == (rows > 1)


def lone() -> NeighbourGraph:
    return NeighbourGraph(np.full((1, 16), -1, np.int32), np.full((1, 16), -1.0, np.float32), "exact", 1.0)


def test_a_pool_of_one_row_over_and_over_is_one_group() -> None:
    graph = build_graph(np.repeat(cloud(1, 10, 0), 60, axis=0), 16, "exact")
    leader = own_copies(graph)
    assert joined(leader) > 0
    assert spacing_of(graph).usual < 1e-2


def test_numbers_go_on_as_they_did() -> None:
    x, _ = with_copies(80, 8, 3, 10, 2, 0.1)
    graph = build_graph(x, 16, "exact")
    for similarity, margin in ((0.7, 0.2), (0.9, 0.0)):
        expected = near_duplicates(graph, similarity, margin, 0.95)
        assert np.array_equal(copy_groups(graph, similarity, margin), expected)
    assert np.array_equal(copy_groups(graph, similarity=0.8), near_duplicates(graph, 0.8, 0.2, 0.95))
    assert np.array_equal(copy_groups(graph, margin=0.1), near_duplicates(graph, 0.7, 0.1, 0.95))
    with pytest.raises(UsageError, match=r"similarity of 1\.5"):
        copy_groups(graph, 1.5)
