"""Consensus of priors: against what its definition says, computed on all rows at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.alignment.agreement import neighbour_agreement, prior_recognition
from coevo_ray.core.alignment.components import fit_components, to_components
from coevo_ray.core.alignment.consensus import (
    RIDGES,
    SHRINK,
    Consensus,
    PriorMap,
    fit_consensus,
    fit_late_prior,
    prior_worth,
    quality_shares,
    to_latent,
)
from coevo_ray.core.alignment.moments import Moments, add_moments, moments_of
from coevo_ray.core.alignment.projection import normalise
from coevo_ray.core.alignment.verdict import judge_consensus
from coevo_ray.errors import InputError, UsageError

Matrix = npt.NDArray[np.float64]
ROWS, HELD, DIM = 400, 80, 6


def priors(seed: int, noise: tuple[float, ...], dims: int = 12, rows: int = ROWS) -> list[Matrix]:
    """Views of one signal: each prior's features are a random map of it and noise."""
    random = np.random.default_rng(seed)
    signal = random.normal(size=(rows, 8)) * np.linspace(2, 0.5, 8)
    return [signal @ random.normal(size=(8, dims)) / 3 + size * random.normal(size=(rows, dims)) for size in noise]


def split(views: list[Matrix]) -> tuple[Moments, Moments]:
    joined = np.concatenate(views, axis=1)
    return moments_of(joined[HELD:]), moments_of(joined[:HELD])


def fitted(views: list[Matrix], dim: int = DIM) -> Consensus:
    return fit_consensus(*split(views), [v.shape[1] for v in views], dim)


def targets(views: list[Matrix], consensus: Consensus) -> list[npt.NDArray[np.float32]]:
    return [to_latent(v.astype(np.float32), prior) for v, prior in zip(views, consensus.priors, strict=True)]


def test_equal_priors_turn_no_direction_with_the_last_bits_of_a_sum() -> None:
    """Each entry of one prior has one of the other, as large and of the other sign."""
    (view,) = priors(3, (0.2,))
    order, latents = np.random.default_rng(0).permutation(ROWS - HELD), []
    for rows in (np.arange(ROWS), np.concatenate([np.arange(HELD), HELD + order])):
        for scale in (1.0, 1.0 + 1e-9):
            latents.append(fitted([view[rows], -scale * view[rows]]).latent.matrix)
    for latent in latents[1:]:
        assert np.allclose(latent, latents[0], atol=1e-4)


# -- moments ---------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 99))
def test_moments_do_not_depend_on_shards(sizes: list[int], seed: int) -> None:
    rows = np.random.default_rng(seed).normal(loc=50, size=(sum(sizes) + 2, 3))
    cuts = [int(cut) for cut in np.cumsum(sizes)[:-1]]
    parts = [moments_of(part) for part in [*np.split(rows[:-2], cuts), rows[-2:]]]
    made = add_moments(parts)
    assert made.count == len(rows)
    np.testing.assert_allclose(made.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(made.covariance, np.cov(rows.T, bias=True), rtol=1e-4, atol=1e-5)
    centre = np.array([1.0, 2.0, 3.0])
    second = np.mean([np.outer(r - centre, r - centre) for r in rows], axis=0)
    np.testing.assert_allclose(made.about(centre), second, rtol=1e-6)


def test_moments_refuse_what_is_not_finite_and_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="NaN or infinite"):
        moments_of(np.array([[1.0, np.nan], [0.0, 1.0]]))
    with pytest.raises(InputError, match="moments of no rows"):
        add_moments([])
    with pytest.raises(InputError, match="moments of 2 and of 3 columns"):
        add_moments([moments_of(np.ones((2, 2))), moments_of(np.ones((2, 3)))])


# -- components ------------------------------------------------------------------------------------------------------


def test_components_are_those_of_a_singular_value_decomposition() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 5)) * [9, 5, 3, 1, 0.5] + 100
    components = fit_components(moments_of(rows), 3)
    centred = rows - rows.mean(axis=0)
    _, values, right = np.linalg.svd(centred, full_matrices=False)
    wanted = centred @ right[:3].T / np.sqrt((values[:3] ** 2).mean() / 60)
    made = to_components(rows.astype(np.float32), components)
    np.testing.assert_allclose(np.abs(made), np.abs(wanted), atol=2e-3)
    assert components.explained == pytest.approx((values[:3] ** 2).sum() / (values**2).sum(), rel=1e-4)
    assert (made**2).mean() == pytest.approx(1, rel=1e-3)
    largest = components.directions[np.abs(components.directions).argmax(axis=0), range(3)]
    assert (largest > 0).all()


def test_components_are_no_more_than_rows_and_rank_allow() -> None:
    random = np.random.default_rng(0)
    assert fit_components(moments_of(random.normal(size=(5, 20))), 16).directions.shape == (20, 4)
    flat = random.normal(size=(50, 2)) @ random.normal(size=(2, 20))
    assert fit_components(moments_of(flat), 16).directions.shape == (20, 2)


def test_what_has_no_components_is_refused() -> None:
    with pytest.raises(InputError, match="constant on 9 shared rows"):
        fit_components(moments_of(np.full((9, 4), 7.0)), 2)
    with pytest.raises(InputError, match="4 shared rows or more, have 3"):
        fit_components(moments_of(np.eye(3)), 2)
    with pytest.raises(UsageError, match="0 components"):
        fit_components(moments_of(np.eye(9)), 0)
    with pytest.raises(InputError, match="need 9 columns"):
        to_components(np.ones((2, 3), np.float32), fit_components(moments_of(np.eye(9)), 2))


# -- the latent and the maps -----------------------------------------------------------------------------------------


def oracle_latent(views: list[Matrix], weights: npt.NDArray[np.float64], dim: int) -> Matrix:
    """Leading left singular vectors of the priors' rows, each shrunk and whitened; on rows, not on their sums."""
    whitened = []
    for view, weight in zip(views, weights, strict=True):
        x = view - view.mean(axis=0)
        left, values, right = np.linalg.svd(x / np.sqrt(len(x)), full_matrices=False)
        shrunk = np.sqrt(values**2 + SHRINK * (values**2).mean())
        whitened.append(np.sqrt(weight) * left * (values / shrunk) @ right * np.sqrt(len(x)))
    left, values, _ = np.linalg.svd(np.concatenate(whitened, axis=1), full_matrices=False)
    latent: Matrix = left[:, :dim] * values[:dim]
    return latent


def oracle_regression(x: Matrix, y: Matrix, ridge: float) -> Matrix:
    """Ridge regression as least squares with extra rows."""
    size = np.sqrt(ridge * (x**2).sum() / x.shape[1])
    wide = np.concatenate([x, size * np.eye(x.shape[1])])
    solved: Matrix = np.linalg.lstsq(wide, np.concatenate([y, np.zeros((x.shape[1], y.shape[1]))]), rcond=None)[0]
    return solved


def test_a_consensus_is_what_its_definition_says() -> None:
    views = priors(0, (0.3, 0.6, 2.0))
    consensus = fitted(views)
    rest, held = [v[HELD:] for v in views], [v[:HELD] for v in views]
    # First round: all priors alike. Its R^2 gives the weights of the second.
    weights = np.ones(3)
    for _ in range(2):
        latent = oracle_latent(rest, weights, DIM)
        x_all = np.concatenate([v - v.mean(axis=0) for v in rest], axis=1)
        back = np.linalg.lstsq(x_all, latent, rcond=None)[0]  # the latent is linear in all features
        x_held = np.concatenate([h - r.mean(axis=0) for h, r in zip(held, rest, strict=True)], axis=1)
        latent_held = x_held @ back
        r2 = []
        for h, r in zip(held, rest, strict=True):
            scores = []
            for ridge in RIDGES:
                m = oracle_regression(r - r.mean(axis=0), latent, ridge)
                left = ((latent_held - (h - r.mean(axis=0)) @ m) ** 2).sum()
                scores.append(1 - left / (latent_held**2).sum())
            r2.append(max(scores))
        precision = np.array(r2) / (1 - np.array(r2))
        weights = precision / precision.max()
    np.testing.assert_allclose([p.r2 for p in consensus.priors], r2, atol=1e-4)
    np.testing.assert_allclose([p.weight for p in consensus.priors], precision, rtol=2e-3)


def test_targets_of_all_priors_have_one_covariance_and_no_mean() -> None:
    views = priors(1, (0.2, 0.5, 1.0))
    consensus = fitted(views)
    for made in targets(views, consensus):
        np.testing.assert_allclose(made.mean(axis=0), 0, atol=1e-4)
        np.testing.assert_allclose(np.cov(made.T, bias=True), consensus.latent.colour, atol=0.02)


def test_mixed_targets_are_nearer_to_one_another_than_published_ones_would_be() -> None:
    views = priors(2, (0.2, 0.2))
    one, other = (normalise(t) for t in targets(views, fitted(views)))
    assert (one * other).sum(axis=1).mean() > 0.9
    assert prior_recognition([one, other]) < 0.6


@settings(max_examples=10, deadline=None)
@given(st.permutations([0, 1, 2]), st.integers(0, 20))
def test_the_order_of_priors_changes_nothing(order: list[int], seed: int) -> None:
    views = priors(seed, (0.2, 0.5, 1.0))
    one = targets(views, fitted(views))
    other = targets([views[i] for i in order], fitted([views[i] for i in order]))
    for place, i in enumerate(order):
        np.testing.assert_allclose(one[i] @ one[i].T, other[place] @ other[place].T, atol=0.05)


def test_a_turned_copy_of_a_prior_gets_its_targets() -> None:
    view = priors(3, (0.3,))[0]
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))[0]
    one, other = targets([view, view @ turn * 5], fitted([view, view @ turn * 5]))
    np.testing.assert_allclose(one, other, atol=0.02)


def test_a_prior_that_says_nothing_weighs_little_and_gets_no_rows() -> None:
    good = priors(4, (0.3, 0.3))
    noise = np.random.default_rng(9).normal(size=(ROWS, 12))
    consensus = fitted([*good, noise])
    weights = [p.weight for p in consensus.priors]
    assert weights[2] < 0.2 * min(weights[:2])
    assert prior_worth(weights)[2] == 0 < min(prior_worth(weights)[:2])
    one, other = (normalise(t) for t in targets(good, fitted(good)))
    with_noise = [normalise(t) for t in targets([*good, noise], consensus)[:2]]
    alone, beside = (one * other).sum(axis=1).mean(), (with_noise[0] * with_noise[1]).sum(axis=1).mean()
    assert beside > alone - 0.05


def test_a_late_prior_is_brought_to_the_latent_that_is_there() -> None:
    views = priors(5, (0.3, 0.4, 0.3))
    consensus = fitted(views[:2])
    fit, held = split(views)
    late = fit_late_prior(fit, held, consensus.latent)
    there = targets(views[:2], consensus)[0]
    made = to_latent(views[2].astype(np.float32), late)
    assert late.r2 == pytest.approx(np.mean([p.r2 for p in consensus.priors]), abs=0.15)
    assert (normalise(made) * normalise(there)).sum(axis=1).mean() > 0.85
    # One that was there before comes to its own targets.
    again = fit_late_prior(*split([*views[:2], views[0]]), consensus.latent)
    np.testing.assert_allclose(to_latent(views[0].astype(np.float32), again), there, atol=0.05)


def test_too_little_for_a_latent_is_refused() -> None:
    views = priors(0, (0.3, 0.3), rows=20)
    joined = np.concatenate(views, axis=1)
    with pytest.raises(InputError, match="30 dimensions needs as many components and 31 shared rows"):
        fit_consensus(moments_of(joined[4:]), moments_of(joined[:4]), [12, 12], 30)
    with pytest.raises(InputError, match="needs 4 shared rows or more, has 2"):
        fit_consensus(moments_of(joined[:1]), moments_of(joined[1:2]), [12, 12], 2)
    flat = np.concatenate([np.outer(np.arange(40.0), np.ones(3))] * 2, axis=1)
    with pytest.raises(InputError, match="have rank 1 on the shared set"):
        fit_consensus(moments_of(flat[8:]), moments_of(flat[:8]), [3, 3], 4)


# -- quality ---------------------------------------------------------------------------------------------------------


def test_agreement_counts_common_neighbours() -> None:
    random = np.random.default_rng(0)
    one, other = (normalise(random.normal(size=(30, 4)).astype(np.float32)) for _ in range(2))
    made = neighbour_agreement([one, other, one], 5)
    count = 0
    for row in range(30):
        near = [sorted((-float(t[row] @ t[i]), i) for i in range(30) if i != row)[:5] for t in (one, other)]
        count += len({i for _, i in near[0]} & {i for _, i in near[1]})
    assert made[0, 1] == made[1, 0] == pytest.approx(count / 150)
    assert made[0, 2] == made[0, 0] == 1


def test_priors_are_told_apart_where_their_targets_lie_apart() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(200, 6)).astype(np.float32)
    apart = [normalise(rows + shift) for shift in (np.float32(5), np.float32(-5))]
    assert prior_recognition(apart) == 1
    assert prior_recognition([normalise(rows)] * 2) == pytest.approx(0.5, abs=0.1)
    with pytest.raises(InputError, match="3 or more"):
        prior_recognition([rows[:2], rows[:2]])


@pytest.mark.parametrize(("rows", "priors_"), [(26, 2), (31, 3), (60, 3)])
def test_among_few_rows_alike_priors_are_told_as_often_as_by_chance(rows: int, priors_: int) -> None:
    random = np.random.default_rng(1)
    told = [
        prior_recognition([normalise(random.normal(size=(rows, 4)).astype(np.float32)) for _ in range(priors_)])
        for _ in range(400)
    ]
    error = np.std(told) / np.sqrt(len(told))
    assert abs(np.mean(told) - 1 / priors_) < 4 * error


def test_one_turn_of_the_priors_tells_nothing() -> None:
    rows = np.eye(5, dtype=np.float32)
    assert prior_recognition([rows] * 3) == pytest.approx(1 / 3)


def a_map(r2: float) -> PriorMap:
    return PriorMap(np.zeros((8, 4), np.float32), np.zeros(4, np.float32), r2, 0.1, r2 / (1 - r2), 100)


@pytest.mark.parametrize(
    ("r2", "rows", "kind", "text"),
    [
        ((0.9,), 100, "one_prior", "only prior"),
        ((0.7, 0.7), 11, "share_more", "11 are too few for a latent of 4 dimensions, 12 or more"),
        ((0.2, 0.1), 100, "take_one", "take one prior, a"),
        ((0.7, 0.2), 100, "leave_out", "take one prior: without b"),
        ((0.7, 0.7, 0.2), 100, "leave_out", "leave some out: without c"),
        ((0.7, 0.68), 100, "keep_all", "two priors share 40%"),
    ],
)
def test_a_verdict_says_what_to_do(r2: tuple[float, ...], rows: int, kind: str, text: str) -> None:
    agreement = np.full((len(r2), len(r2)), 0.4)
    verdict = judge_consensus("abc"[: len(r2)], [a_map(v) for v in r2], rows, agreement, 0.5)
    assert verdict.kind == kind and text in verdict.text


def test_a_verdict_warns_when_targets_give_their_priors_away() -> None:
    verdict = judge_consensus("ab", [a_map(0.7)] * 2, 100, np.full((2, 2), 0.4), 0.9)
    assert "tell their prior in 90% of rows, chance is 50%" in verdict.text


def test_a_verdict_says_what_rows_of_one_prior_each_cost() -> None:
    maps = [a_map(0.6), a_map(0.7)]
    apart, together = (judge_consensus("ab", maps, 100, np.full((2, 2), 0.4), 0.5, side) for side in (True, False))
    assert (
        apart.text
        == f"{together.text}; rows have one prior each: b on all of them, or several priors a row, is worth more"
    )


def test_shares_by_quality() -> None:
    assert prior_worth([2.0, 2.0]) == quality_shares([2.0, 2.0], passes=2) == (1.0, 1.0)
    assert prior_worth([2.0, 1.5, 1.0, 0.1]) == (1.0, 0.5, 0.0, 0.0)
    assert quality_shares([1.5, 2.0, 2.0, 0.1]) == (0.0, 1.0, 0.0, 0.0), "one pass: the best alone, the first of equals"
    assert quality_shares([1.5, 2.0, 0.1], passes=3) == (0.5, 1.0, 0.0)
