"""A few hundred damaged inputs of each kind; `make fuzz` tries a million."""

from __future__ import annotations

import pytest

from tests.fuzz.check import fuzz
from tests.fuzz.parsers import PARSERS

INPUTS = 200


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_damaged_inputs_are_read_or_refused(name: str) -> None:
    tried = fuzz(PARSERS[name], INPUTS, first_seed=1)
    assert tried.inputs >= INPUTS * 0.5  # Hypothesis leaves out what it tried before
    assert tried.refused > 0
