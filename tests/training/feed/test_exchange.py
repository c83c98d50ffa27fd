"""Losses of all processes reach each of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from coevo_ray.training.feed.exchange import from_all_ranks, place_among_processes

ROOT = Path(__file__).parents[3]


def test_every_process_gets_the_losses_of_all(tmp_path: Path) -> None:
    commands = [[sys.executable, "-m", "tests.ranks", str(rank), "2", str(tmp_path)] for rank in range(2)]
    processes = [subprocess.Popen(command, cwd=ROOT) for command in commands]
    assert [process.wait(300) for process in processes] == [0, 0]
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [one.pop("place") for one in found] == [[0, 2], [1, 2]]
    assert found[0] == found[1]
    assert found[0]["rows"] == [2**40, 0, 2**40 + 1, 1]
    assert found[0]["losses"] == pytest.approx([0.1, 1.0, 0.1, 2.0])
    assert found[0]["entropies"] == pytest.approx([0.2, 2.0, 0.2, 4.0])


def test_a_process_alone_keeps_its_own() -> None:
    rows, losses, entropies = from_all_ranks(torch.tensor([5, 2**53 - 1]), torch.tensor([0.1, 0.2]), None)
    assert rows.tolist() == [5, 2**53 - 1]
    assert np.array_equal(losses, np.array([0.1, 0.2], np.float32))
    assert entropies is None
    assert place_among_processes() == (0, 1)
