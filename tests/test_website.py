"""Pages of the site that are made of the code, and the places of the others. `make lint` builds the site itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

import coevo_ray
from coevo_ray.cli.on_demand import COMMANDS
from coevo_ray.errors import InputError
from tests.pages import links
from website import commands, pages, results, settings


def test_every_command_has_a_section_with_its_options() -> None:
    page = commands.page()
    for name in COMMANDS:
        assert f"## `{name}` {{ #{name} }}" in page
    assert "### `gate next` { #gate-next }" in page
    assert "| `--keep` | `<float>` |" in page
    assert "| `--folders` | `auto`, `classes`, `splits`, `none` |" in page


def test_every_setting_of_a_run_has_a_line() -> None:
    page = settings.page()

    def check(model: type[BaseModel]) -> None:
        section = page.split(f"\n## {model.__name__} {{ #")[1].split("\n## ")[0]
        for name in model.model_fields:
            assert f"| `{name}` |" in section, (model, name)

    assert coevo_ray.RunConfig in settings.models()
    for model in settings.models():
        check(model)
    assert "| `keep` | float, > 0, ≤ 1 | `0.5` |" in page


def test_every_result_is_named() -> None:
    page = results.page()
    for name in results.names(".json"):
        assert f"](results/{name}.json)" in page
    assert len(results.names(".json")) > 20


def test_every_link_leads_to_a_file_of_the_site(tmp_path: Path) -> None:
    there = set(pages.stage(tmp_path))
    assert {"index.md", "promises.md", "commands.md", "files/examples/digits.yaml"} <= there
    checked = 0
    for page in sorted(tmp_path.rglob("*.md")):
        for file, _ in links(page.read_text(encoding="utf-8")):
            assert not file or (page.parent / file).resolve().relative_to(tmp_path.resolve()).as_posix() in there, file
            checked += 1
    assert checked > 200


def test_a_link_without_a_place_is_an_error() -> None:
    with pytest.raises(InputError, match=r"pyproject\.toml has no place on the site"):
        pages.turn_links("docs/data.md", "[x](../pyproject.toml)")
    assert pages.turn_links("docs/data.md", "[x](../examples/a.yaml#b)") == "[x](files/examples/a.yaml#b)"
    assert (
        pages.turn_links("benchmarks/README.md", "[x](results/a.md) [y](https://z)")
        == "[x](results/a.md) [y](https://z)"
    )
