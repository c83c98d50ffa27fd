from __future__ import annotations

import time

import numpy as np
import pytest

from coevo_ray.actors.answered import MOST_ANNOTATORS, Answered
from coevo_ray.errors import InputError

ROW, LABEL = np.array([1]), np.array([0])
ROUND = np.zeros(1, dtype=np.int32)


def test_one_annotator_too_many_is_refused_before_the_answers_are_kept() -> None:
    """More would not fit the numbers that stand for them."""
    answered, started = Answered(), time.monotonic()
    for person in range(MOST_ANNOTATORS):
        assert answered.new(ROW, LABEL, f"p{person}").all()
        answered.add(ROW, LABEL, ROUND, f"p{person}", 0.0)
    with pytest.raises(InputError, match="32,767 annotators have answered"):
        answered.new(ROW, LABEL, "one more")
    assert not answered.new(ROW, LABEL, f"p{MOST_ANNOTATORS - 1}").any()
    assert np.array_equal(answered.columns()["annotator"], np.arange(MOST_ANNOTATORS))
    assert time.monotonic() - started < 60


def test_columns_are_those_of_all_submissions_and_restored_alike() -> None:
    answered = Answered()
    for turn, person in enumerate(["a", "b", "a"]):
        answered.add(ROW + turn, LABEL + turn, ROUND, person, float(turn))
        assert answered.columns()["row_id"].tolist() == list(range(1, turn + 2))
    again = Answered.restore(answered.columns(), answered.names)
    again.add(ROW, LABEL, ROUND, "b", 3.0)
    assert again.columns()["annotator"].tolist() == [0, 1, 0, 1]
    assert (len(answered), len(again), again.names) == (3, 4, ["a", "b"])
