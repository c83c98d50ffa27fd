"""The figures of the layout are counted right on a house that can be counted by hand; this one has no circle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.house.imports import circles, floor_plan, read_imports, with_one_importer
from benchmarks.house.sizes import measure_sizes

ROOT = Path(__file__).parents[2]
FILES = {
    "coevo_ray/__init__.py": "",
    "coevo_ray/core/__init__.py": "",
    "coevo_ray/core/low.py": "LOW = 1\n",
    "coevo_ray/core/parts/__init__.py": "",
    "coevo_ray/core/parts/a.py": "from coevo_ray.core.low import LOW\n",
    "coevo_ray/core/parts/b.py": "from coevo_ray.core.parts import a\n",
    "coevo_ray/core/top.py": "def use():\n    import coevo_ray.core.parts.b\n    from coevo_ray.core.low import LOW\n",
}
SIZED = '''
"""Sizes."""
from typing import Any

# A comment.
def measured(x: Any) -> int:
    """Rows int64[n].

    Raises:
        ValueError: always.
    """
    raise ValueError(
        x
    )


def _hidden() -> None:
    pass
'''


@pytest.fixture
def house(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_rooms_floors_and_arrows(house: Path) -> None:
    graph = read_imports(house)
    assert floor_plan(graph, "coevo_ray.core") == {"rooms": 3, "floors": 3, "arrows": 3}
    assert circles(graph) == []
    assert with_one_importer(graph) == ["coevo_ray.core.parts.a", "coevo_ray.core.parts.b"]


def test_a_circle_is_found_and_ends_no_count(house: Path) -> None:
    (house / "coevo_ray/core/low.py").write_text("def later():\n    from coevo_ray.core.top import use\n")
    graph = read_imports(house)
    assert circles(graph) == [
        ["coevo_ray.core.low", *(f"coevo_ray.core.parts.{n}" for n in "ab"), "coevo_ray.core.top"]
    ]
    assert floor_plan(graph, "coevo_ray.core")["rooms"] == 3


def test_sizes_are_those_by_hand(house: Path) -> None:
    (house / "coevo_ray/core/low.py").write_text(SIZED)
    sizes = measure_sizes(house)
    assert sizes["functions"] == {
        "count": 3,
        "median": 3,
        "p90": 4,
        "longest": 4,
        "longest_name": "coevo_ray/core/low.py:measured",
    }
    assert sizes["docstrings"] == {
        "public": 2,
        "share": 0.5,
        "raises_share": 0.5,
        "core_public": 2,
        "core_shape_share": 0.5,
    }
    assert sizes["any_per_1000"] == pytest.approx(1000 * 2 / (SIZED.count("\n") + 5), abs=0.01)


def test_no_file_of_this_checkout_is_in_a_circle() -> None:
    assert circles(read_imports(ROOT)) == []


@pytest.mark.slow  # the commands start several times
def test_it_gives_its_keys() -> None:
    command = [sys.executable, "-m", "benchmarks.house", "--json", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    tree = result["trees"]["0"]
    assert tree["start"].keys() == {"help", "gate_status", "plan"}
    assert tree["floor_plans"].keys() == {"core", "pipelines", "training", "actors"}
    assert all(figures["peak_megabytes"] > 10 for figures in tree["start"].values())
