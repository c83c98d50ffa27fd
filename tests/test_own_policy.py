"""The example of a user's own policy: what it selects, and that a training and a plan find it by its name."""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coevo_ray.core.rows.row_set import ids_of
from coevo_ray.core.selection.policies import SelectionContext, make_policy
from coevo_ray.errors import UsageError
from tests.command_line import Command
from tests.processes import Marked
from tests.training import digits_pool

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "own_policy.py"
NAME = "own_policy:Curriculum"


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    yield
    sys.modules.pop("own_policy", None)


def context(**values: Any) -> SelectionContext:
    defaults = {"epoch": 1, "epochs": 5, "keep": 0.2, "seed": 0, "candidates": np.arange(3, 100)}
    return SelectionContext(**{**defaults, "usage": np.zeros(100, np.uint8), **values})


@pytest.mark.usefixtures("path")
def test_it_takes_turns_among_the_easiest_rows() -> None:
    random = np.random.default_rng(0)
    loss = random.random(100).astype(np.float16)
    loss[random.random(100) < 0.2] = np.nan
    for epoch, keep in ((0, 0.2), (1, 0.2), (3, 0.2), (1, 0.8), (4, 0.9)):
        usage = random.integers(0, 3, 100).astype(np.uint8)
        chosen = ids_of(make_policy(NAME, start=0.4).select(context(epoch=epoch, keep=keep, loss=loss, usage=usage)))
        known = sorted(float(loss[row]) for row in range(3, 100) if not np.isnan(loss[row]))
        share = max(keep, 0.4 + 0.6 * epoch / 4)
        limit = np.quantile(known, share)
        easy = [row for row in range(3, 100) if np.isnan(loss[row]) or loss[row] <= limit]
        assert set(chosen.tolist()) <= set(easy) and len(chosen) == min(round(keep * 97), len(easy))
        # Nobody who waits was used less often than somebody who was taken.
        waiting = np.setdiff1d(easy, chosen)
        assert len(waiting) == 0 or usage[chosen].max() <= usage[waiting].min()


@pytest.mark.usefixtures("path")
def test_without_losses_it_rotates(coevo_ray: Command) -> None:
    plans = []
    for policy in (NAME, "rotation"):
        result = coevo_ray("plan", "--rows", "500", "--policy", policy, "--keep", "0.3", "--json")
        assert result.returncode == 0, result.stderr
        plans.append({name: value for name, value in json.loads(result.stdout).items() if name != "policy"})
    assert plans[0] == plans[1]
    with pytest.raises(UsageError, match="start 0"):
        make_policy(NAME, start=0)


@pytest.mark.slow
def test_a_training_finds_it_on_the_python_path(tmp_path: Path) -> None:
    pool = digits_pool(tmp_path / "pool", 500)
    command = [sys.executable, "-c", "from coevo_ray.cli import main; main()", "train", "--objective", "supervised"]
    command += ["--policy", NAME, "--policy-option", "start=0.1", "--keep", "0.5", "--pool", str(pool.location)]
    command += ["--out", str(tmp_path / "out"), "--image-size", "16", "--epochs", "8", "--cpus", "0.5", "--json"]
    search = os.pathsep.join([str(ROOT), str(EXAMPLE.parent)])
    training = Marked(command, tmp_path, {"PYTHONPATH": search})
    assert training.wait() == 0, training.err.read_text()
    training.assert_gone()
    summary = json.loads(training.out.read_text())
    assert summary["policy"] == NAME and summary["accuracy"] > 0.5
    assert summary["samples"] == 8 * 200
    # Turns among all rows would use each of them 4 times; easy ones come more often.
    used = sorted(map(int, summary["usage"]))
    assert used[0] < 4 < used[-1], summary["usage"]


def test_it_is_short() -> None:
    code = EXAMPLE.read_text()
    (found,) = (node for node in ast.parse(code).body if isinstance(node, ast.ClassDef))
    lines = [line.strip() for line in code.splitlines()[found.lineno - 1 : found.end_lineno]]
    assert len([line for line in lines if line and not line.startswith("#")]) <= 20


@pytest.mark.usefixtures("path")
def test_it_says_what_it_looks_at() -> None:
    policy = import_module("own_policy").Curriculum()
    assert policy.needs_losses and policy.uses == {"loss"} and not policy.needs
