"""Whether near rows are copies, by their labels: wrong labels do not count against them, labels of their own do."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coevo_ray.core.probes.label_agreement import Agreement, agree_by_mistakes, groups_of_copies

CLASSES, GROUPS, SIZE = 5, 400, 3
Labels = npt.NDArray[np.int64]


@given(arrays(np.float64, (4, 4), elements=st.floats(0.01, 1)), arrays(np.float64, 4, elements=st.floats(0.01, 1)))
def test_the_chance_that_two_labels_agree_is_that_of_all_pairs(
    noise: npt.NDArray[np.float64], prior: npt.NDArray[np.float64]
) -> None:
    noise, prior = noise / noise.sum(axis=1, keepdims=True), prior / prior.sum()
    chance = sum(prior[true] * noise[true, one] * noise[true, one] for true in range(4) for one in range(4))
    assert agree_by_mistakes(noise, prior) == pytest.approx(chance)
    assert agree_by_mistakes(np.eye(4), prior) == pytest.approx(1.0)


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
    alone = np.arange(len(group)) + 1000
    noise = np.full((CLASSES, CLASSES), wrong / (CLASSES - 1))
    np.fill_diagonal(noise, 1 - wrong)
    by_mistakes = agree_by_mistakes(noise, np.full(CLASSES, 1 / CLASSES))
    found, agreement = groups_of_copies(group, alone, labels, by_mistakes)
    assert (found.tolist() == group.tolist()) == copies == agreement.trusted
    assert (found.tolist() == alone.tolist()) != copies
    assert agreement.precision == pytest.approx(((1 - own) ** 2 + own**2 / (CLASSES - 1)), abs=0.06)
    if wrong >= 0.2:  # taken as they are, they would
        assert not groups_of_copies(group, alone, labels)[1].trusted


def test_few_pairs_say_little() -> None:
    """Before ten pairs or so the rule takes near rows for copies."""
    group, labels = np.array([0, 0, 1, 1]), np.array([0, 1, 2, 2])
    assert groups_of_copies(group, np.arange(4), labels)[0].tolist() == [0, 0, 1, 1]
    # More pairs agree than wrong labels explain: no more than all of them.
    assert Agreement(50, 50.0, by_mistakes=0.5).precision == pytest.approx(59 / 60)
