"""The notebooks in examples/ run from top to bottom and are kept without outputs; what they show is HTML."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from coevo_ray.store.shown import shown
from tests.pages import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def read(path: Path) -> nbformat.NotebookNode:
    book: nbformat.NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    return book


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path: Path) -> None:
    book = read(path)
    nbformat.validate(book)
    for cell in book.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    book = read(path)
    NotebookClient(book, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    pages = [
        output.data["text/html"]
        for cell in book.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "execute_result" and "text/html" in output.data
    ]
    assert any("<b>pool</b>" in page for page in pages)
    assert any("<b>targets</b>" in page for page in pages)
    assert any("<b>labels</b>" in page or "<b>gate</b>" in page for page in pages)


def test_figures_read_well_and_are_escaped() -> None:
    page = shown(
        "pool",
        "of 3 rows at <b>",
        {"rows": 12345, "share": 0.123456, "none": None, "empty": [], "<i>": "<script>", "nested": {"a": [1, 2]}},
    )
    assert "12,345" in page
    assert "0.1235" in page
    assert "none" not in page
    assert "empty" not in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<i>" not in page
    assert "at &lt;b&gt;" in page
    assert "<details><summary>1 entries</summary>" in page
