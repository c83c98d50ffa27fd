"""Docstrings of the package: present, with shapes, with sources that exist, and with examples that run."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "coevo_ray"
DESIGN = ROOT / "docs" / "design.md"
# Parts of the package that cite docs/design.md or a paper, and no page that readers do not have. To become all of it.
SHAPE = re.compile(r"\b(u?int|float|bool)\d*\[")
ANCHOR = re.compile(r"docs/design\.md#([a-z0-9-]+)")
WITH_EXAMPLES = (
    "core.alignment.projection",
    "core.alignment.uniformity",
    "core.factors.scores",
    "core.feed.cycles",
    "core.graph.graph",
    "core.graph.near_duplicates",
    "core.graph.unit_rows",
    "core.probes.calibration",
    "core.retrieval",
    "core.rows.hashing",
    "core.selection.policies.quotas",
    "core.selection.rotation",
    "core.selection.smallest_keys",
)


def _public(node: ast.AST) -> Iterator[ast.FunctionDef]:
    """Public functions and methods of public classes, not those inside functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from _public(child)
        elif isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
            yield child


def _modules(folder: Path) -> list[tuple[Path, str]]:
    files = [folder] if folder.is_file() else sorted(folder.rglob("*.py"))
    return [(path, path.read_text()) for path in files]


def _docstrings(folder: Path) -> dict[str, str]:
    """Place of each public function -> its docstring, empty without one."""
    return {
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}": ast.get_docstring(function) or ""
        for path, text in _modules(folder)
        for function in _public(ast.parse(text))
    }


def test_public_functions_of_core_are_documented_with_shapes() -> None:
    docstrings = _docstrings(PACKAGE / "core")
    assert len(docstrings) > 250
    assert [place for place, text in docstrings.items() if not text] == []
    without = [place for place, text in docstrings.items() if not SHAPE.search(text)]
    assert 1 - len(without) / len(docstrings) >= 0.60, without


def test_no_text_is_cited_that_readers_do_not_have() -> None:
    cited = [str(path) for path, text in _modules(PACKAGE) if re.search(r"DESIGN|\bD5\.\d", text)]
    assert cited == []


def test_every_anchor_that_the_package_cites_is_on_the_page() -> None:
    there = re.findall(r'<a id="([a-z0-9-]+)"></a>', DESIGN.read_text())
    assert len(there) == len(set(there))
    cited = {anchor for _, text in _modules(PACKAGE) for anchor in ANCHOR.findall(text)}
    assert len(cited) >= 20
    assert cited - set(there) == set()
    inside = set(re.findall(r"\]\(#([a-z0-9-]+)\)", DESIGN.read_text()))
    assert inside - set(there) == set()


def test_modules_that_the_page_names_exist() -> None:
    named = {name.rstrip(".") for name in re.findall(r"`((?:core|training)\.[a-z_.]+)`", DESIGN.read_text())}
    assert len(named) >= 20
    missing = [n for n in named if not any((PACKAGE / (n.replace(".", "/") + end)).exists() for end in (".py", ""))]
    assert missing == []


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_run(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"coevo_ray.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
