"""Pages of the site that are made of the code, and the places of the others. `make lint` builds the site itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

import coevo_ray
from coevo_ray.cli.on_demand import COMMANDS
from coevo_ray.errors import InputError
from tests.pages import links
from website import commands, pages, planning, results, settings
from website.pages import ROOT


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


def test_the_plan_of_a_large_pool_is_measured_costs_times_rows() -> None:
    found = {name: json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text()) for name in _PLANNED_BY}
    lines = {line.stage: line.of_rows for line in (*planning.hours(), *planning.memory(), *planning.disk())}
    score = found["scale-growth"]["table"]["score"]
    per_row = score[max(score, key=int)]["us_per_row"]
    assert lines["scores of factors"](10**9) == pytest.approx(per_row * 1e9 / 1e6 / 3600)
    graph, slope = lines["graph"], found["scale-growth"]["slopes"]["graph"]
    assert graph(1_000_000) == pytest.approx(found["gate-1000000"]["by_part"]["ours"]["build_seconds"] * 2 / 3600)
    assert graph(10**8) / graph(10**7) == pytest.approx(10**slope)
    selected = found["selection-100000000"]["by_policy"]["factors_all"]["cpu_seconds"] / 1e8
    assert lines["selection, 100 epochs of `factors`"](10**9) == pytest.approx(100 * selected * 1e9 / 3600)
    wide = found["scale-predictions-10000000"]
    alone = lines["gate, 1,000 classes, with its graph"]
    assert alone(10**7) == pytest.approx(wide["parts"]["predictions"]["peak_bytes"] / 2**30)
    by_kind = found["scale-gate-3000000"]["bytes_per_row"]["parts"]
    assert alone(10**9) == pytest.approx((by_kind["gate"] + 16 * 8) * 10**9 / 2**30)  # a draw, and the graph
    assert lines["gate, its graph in 4 actors"](10**9) == pytest.approx(by_kind["gate"] * 10**9 / 2**30)
    part = lines["each of these 4 actors"]
    assert part(10**6) == pytest.approx(by_kind["part of the graph"] * 10**6 / 2**30 + 2 / 4)
    assert part(10**9) == pytest.approx((by_kind["part of the graph"] + 2 * 4) * 10**9 / 2**30)  # two classes
    copied = found["scale-copies-10000000"]["parts"]
    copies = lines["copies (evidence, dedup)"]
    assert copies(10**7) == pytest.approx(copied["own_copies"]["peak_bytes"] / 2**30)
    more = copied["stored_copies"]["transient_bytes_per_row"] * (10**9 - 10**8) / 2**30
    assert copies(10**9) - copies(10**8) == pytest.approx(more)
    ordered = found["scale-sorting-1000000"]
    numbers = max(each["transient_bytes_per_row"] for each in ordered["numbers"].values())
    assert lines["graph, numbers of all rows in one task"](10**8) == pytest.approx(numbers * 10**8 / 2**30)
    blocks, task = lines["graph, a task on ranges or blocks"], ordered["ways"]["parts"]
    assert blocks(ordered["rows"]) == blocks(1) == pytest.approx(task["peak_bytes"] / 2**30)
    grown = task["idle_bytes"] + 10 * (task["peak_bytes"] - task["idle_bytes"])
    assert blocks(100 * ordered["rows"]) == pytest.approx(grown / 2**30)
    window = found["epoch_memory"]["ways"]["parts"]["bytes_per_row"]["own"] * found["epoch_memory"]["rows"] / 2**30
    assert lines["training, rows of an epoch in each worker"](1) == window
    assert lines["encode, all its processes of a node"](1) == lines["encode, all its processes of a node"](10**9)
    assert lines["journal of 100 epochs"](10**9) == pytest.approx(100 * 10**9 / 8 / 2**30)
    page = planning.page()
    assert all(f"| {stage} |" in page for stage in lines)
    first, second = (page.split("256 GiB |\n|---|---|\n")[1].splitlines()[i].split(" | ")[0] for i in (0, 1))
    assert "million" in first and first != second


_PLANNED_BY = (
    "scale-growth",
    "selection-100000000",
    "gate-1000000",
    "scale-predictions-10000000",
    "scale-gate-3000000",
    "scale-copies-10000000",
    "scale-sorting-1000000",
    "epoch_memory",
)
