"""Numbers in words."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.reporting import wording

MINUS = "\N{MINUS SIGN}"


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, "0.5", True, [1.0], np.array([1.0, 2.0]), {}])
def test_what_is_no_number(value: object) -> None:
    assert wording.finite(value) is None


@pytest.mark.parametrize("value", [1, 1.0, np.float32(1), np.int64(1)])
def test_what_is_a_number(value: object) -> None:
    assert wording.finite(value) == 1.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (wording.integer(1797.0), "1,797"),
        (wording.decimal(-2.314), f"{MINUS}2.31"),
        (wording.decimal(-0.001), "0.00"),
        (wording.percent(0.9124), "91.2 %"),
        (wording.percent(None), "not measured"),
        (wording.duration(4.21), "4.2 s"),
        (wording.duration(59.96), "1 min 0 s"),
        (wording.duration(192.4), "3 min 12 s"),
        (wording.duration(3900), "1 h 5 min"),
        (wording.duration(None), "not measured"),
        (wording.count(1, "row"), "1 row"),
        (wording.count(0, "row"), "0 rows"),
        (wording.listing([]), ""),
        (wording.listing(["a"]), "a"),
        (wording.listing(["a", "b", "c"]), "a, b and c"),
        (wording.against(0.5, 0.49), "1.0 point higher than"),
        (wording.against(0.5, 0.512), "1.2 points lower than"),
        (wording.against(0.5, 0.5004), "the same as"),
        (wording.shorten("abcdefgh", 5), "ab\N{HORIZONTAL ELLIPSIS}gh"),
        (wording.shorten("abcde", 5), "abcde"),
    ],
)
def test_formats(text: str, expected: str) -> None:
    assert text.replace("\N{NO-BREAK SPACE}", " ") == expected


def test_chance_is_two_standard_errors_of_a_difference() -> None:
    rng = np.random.default_rng(0)
    differences = (rng.binomial(200, 0.5, 100_000) - rng.binomial(200, 0.5, 100_000)) / 200
    width = 100 * 2 * float(differences.std())
    sentence = wording.chance(200, 0.5)
    assert sentence == "On 200 test rows, differences below about 10.0 points may be chance."
    assert width == pytest.approx(10.0, abs=0.1)


@pytest.mark.parametrize(("rows", "accuracy"), [(None, 0.5), (0, 0.5), (10, None), (10, 1.5)])
def test_chance_needs_rows_and_accuracy(rows: float | None, accuracy: float | None) -> None:
    assert wording.chance(rows, accuracy) is None


def test_chance_of_a_perfect_score_is_not_zero() -> None:
    assert "0.0 points" not in (wording.chance(100, 1.0) or "")


@given(st.text(max_size=60), st.integers(3, 40))
def test_shorten_keeps_the_ends_within_the_length(text: str, length: int) -> None:
    short = wording.shorten(text, length)
    assert len(short) == min(len(text), length)
    assert short[:1] == text[:1] and short[-1:] == text[-1:]


@pytest.mark.parametrize("path", [("a", "b"), ("a",), ("x", "y", "z"), ("c", "d")])
def test_lookup_of_missing_paths(path: tuple[str, ...]) -> None:
    assert wording.number({"a": None, "c": 3}, *path) is None
