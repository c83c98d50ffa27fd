"""A few hundred damaged inputs of each kind; `make fuzz` tries a million."""

from __future__ import annotations

import pytest

from tests.fuzz.check import fuzz
from tests.fuzz.parsers import PARSERS

INPUTS = 200


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_damaged_inputs_are_read_or_refused(name: str) -> None:
    tried = fuzz(PARSERS[name], INPUTS, seed=1)
    assert tried.distinct >= INPUTS * 0.75
    assert tried.refused > 0
