"""The example of a user's own training loop runs, on two workers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.processes import Marked
from tests.training import digits_pool

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_example_learns_from_half_of_the_rows_in_each_epoch(tmp_path: Path) -> None:
    pool = digits_pool(tmp_path / "pool", 1000)
    command = [sys.executable, str(ROOT / "examples" / "own_loop.py"), str(pool.location), str(tmp_path / "out")]
    example = Marked(command, tmp_path, {"PYTHONPATH": str(ROOT)})
    assert example.wait() == 0, example.err.read_text()
    example.assert_gone()
    found = re.search(r"accuracy (\d\.\d+)", example.out.read_text())
    assert found is not None, example.out.read_text()
    assert float(found[1]) > 0.8


def test_the_feed_takes_five_lines_of_it() -> None:
    code = (ROOT / "examples" / "own_loop.py").read_text()
    assert re.findall(r"  # (\d)", code) == list("12345")
