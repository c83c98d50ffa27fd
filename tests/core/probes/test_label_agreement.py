"""Whether near rows are copies, by their labels: wrong labels do not count against them, labels of their own do."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coevo_ray.core.probes.label_agreement import Agreement, Chances, chances_to_agree, groups_of_copies

CLASSES, GROUPS, SIZE = 5, 4000, 3
Labels = npt.NDArray[np.int64]


@given(arrays(np.float64, (4, 4), elements=st.floats(0.01, 1)), arrays(np.float64, 4, elements=st.floats(0.01, 1)))
def test_the_chance_that_two_labels_agree_is_that_of_all_pairs(
    noise: npt.NDArray[np.float64], prior: npt.NDArray[np.float64]
) -> None:
    noise, prior = noise / noise.sum(axis=1, keepdims=True), prior / prior.sum()
    same = sum(prior[true] * noise[true, label] ** 2 for true in range(4) for label in range(4))
    pairs = [(one, two) for one in range(4) for two in range(4) if one != two]
    both = sum(prior[a] * prior[b] * noise[a, label] * noise[b, label] for a, b in pairs for label in range(4))
    assert chances_to_agree(noise, prior) == pytest.approx((same, both / sum(prior[a] * prior[b] for a, b in pairs)))
    assert chances_to_agree(np.eye(4), prior) == pytest.approx((1.0, 0.0))
    assert chances_to_agree(np.eye(1), np.ones(1)) == (1.0, 0.0)


def labelled(own: float, wrong: float) -> tuple[Labels, Labels]:
    """Groups of three: a share `own` of the rows has another class, then a share `wrong` of the labels is wrong."""
    random, rows = np.random.default_rng(0), GROUPS * SIZE
    group = np.repeat(np.arange(GROUPS), SIZE)
    labels = random.integers(0, CLASSES, GROUPS)[group]
    for share in (own, wrong):
        moved = random.random(rows) < share
        labels = np.where(moved, (labels + random.integers(1, CLASSES, rows)) % CLASSES, labels)
    return group, labels.astype(np.int64)


@pytest.mark.parametrize("wrong", [0.0, 0.1, 0.2, 0.4])
@pytest.mark.parametrize(("own", "copies"), [(0.0, True), (0.02, True), (0.25, False)])
def test_wrong_labels_do_not_tell_copies_apart(wrong: float, own: float, copies: bool) -> None:
    group, labels = labelled(own, wrong)
    alone = np.arange(len(group)) + GROUPS
    noise = np.full((CLASSES, CLASSES), wrong / (CLASSES - 1))
    np.fill_diagonal(noise, 1 - wrong)
    chances = chances_to_agree(noise, np.full(CLASSES, 1 / CLASSES))
    found, agreement = groups_of_copies(group, alone, labels, chances)
    assert (found.tolist() == group.tolist()) == copies == agreement.trusted
    assert (found.tolist() == alone.tolist()) != copies
    assert agreement.precision == pytest.approx(((1 - own) ** 2 + own**2 / (CLASSES - 1)), abs=0.06)
    if wrong >= 0.2:  # taken as they are, they would
        assert not groups_of_copies(group, alone, labels)[1].trusted


def test_few_pairs_say_little() -> None:
    """A pair that disagrees among few does not tell copies apart: nine of ten count before any is seen."""
    group, labels = np.array([0, 0, 1, 1, 2, 2, 3, 3]), np.array([0, 1, 2, 2, 3, 3, 0, 0])
    assert groups_of_copies(group, np.arange(8), labels)[0].tolist() == group.tolist()
    # More pairs agree, or fewer, than wrong labels explain: no more than all of them, no less than none.
    assert Agreement(50, 50.0, Chances(0.5, 0.1)).precision == pytest.approx(59 / 60)
    assert Agreement(50, 1.0, Chances(0.5, 0.1)).precision == pytest.approx(9 / 60)
