"""The README and docs/: commands parse, Python runs, links lead somewhere, figures are those of the results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

import coevo_ray
from tests.pages import PAGES, ROOT, anchors, links, parse_commands, python_blocks, run_python, shell_lines, text_of

# Their Python runs in tests of its own, one after the other as someone would type it. Other pages' is compiled.
RUN = ("README.md", "docs/targets.md", "docs/arriving.md", "docs/texts.md", "docs/data.md")


@pytest.mark.parametrize("page", PAGES)
def test_commands_have_their_options(page: str) -> None:
    text = text_of(page)
    assert parse_commands(text) == sum("coevo-ray " in line and "pip " not in line for line in shell_lines(text))


def test_there_are_commands() -> None:
    assert sum(parse_commands(text_of(page)) for page in PAGES) > 70


@pytest.mark.parametrize("page", PAGES)
def test_programs_that_are_named_exist(page: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = text_of(page)
    for name in re.findall(r"`make ([\w-]+)`", text):
        assert name in targets, name
    for module in re.findall(r"python -m (benchmarks[\w.]*)", text):
        path = ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for file in re.findall(r"python (examples/\S+)", text):
        assert (ROOT / file).is_file(), file
    for file in re.findall(r"`((?:core|pipelines|app)/[\w/]+\.py)`", text):
        assert (ROOT / "coevo_ray" / file).is_file(), file


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    made_at_build = {"commands.md", "settings.md", "results.md"}
    for file, anchor in links(text_of(page)):
        target = (ROOT / page).parent / file if file else ROOT / page
        if target.name in made_at_build and target.parent == ROOT / "docs":
            assert page.startswith("docs/"), "the README is read where these pages are not"
            continue
        assert target.exists(), file
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{file}#{anchor}"


def test_the_site_shows_every_page_once() -> None:
    named = re.findall(r"[\w/-]+\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert len(named) == len(set(named))
    assert {page.removeprefix("docs/") for page in PAGES if page != "README.md"} <= set(named)
    results = {path.name for path in (ROOT / "benchmarks" / "results").glob("*.md")}
    assert {f"results/{name}" for name in results} <= set(named)


def test_the_python_examples_run(tmp_path: Path) -> None:
    [first] = python_blocks(text_of("README.md"))
    assert len([line for line in first.splitlines() if line.strip()]) <= 15
    out = run_python(
        "".join([first, *(block for page in RUN[1:3] for block in python_blocks(text_of(page)))]), tmp_path
    )
    assert "1797 rows, 1438 to train on" in out
    assert "719 rows were decoded" in out
    assert "(64,)" in out
    assert "torch.Size([64])" in out
    assert re.search(r"^\['(annotate|skip|pseudo_label)' ", out, re.MULTILINE), out


@pytest.mark.slow
def test_the_python_of_the_guide_on_texts_runs(tmp_path: Path) -> None:
    (tmp_path / "tickets.csv").write_text('id,body,topic\n1,"The lamp\nis broken",fault\n2,"Again, no bill",billing\n')
    rows = [json.dumps({"id": i, "body": f"Letter {i} is lost", "topic": "fault"}) for i in range(10, 14)]
    (tmp_path / "more.jsonl").write_text("\n".join(rows))
    for topic, text in (("billing", "Two bills came"), ("other", "Thank you")):
        (tmp_path / "letters" / topic).mkdir(parents=True)
        (tmp_path / "letters" / topic / "a.txt").write_text(text)
    [code] = python_blocks(text_of("docs/texts.md"))
    out = run_python(code, tmp_path)
    assert "6 texts" in out and "2 letters" in out
    tickets, letters = (coevo_ray.Pool.open(tmp_path / "runs" / name / "pool") for name in ("tickets", "letters"))
    table = tickets.read(tickets.row_ids(), ["key", "text", "label"]).to_pydict()
    assert table["text"][0] == "The lamp\nis broken"
    assert table["key"] == ["1", "2", "10", "11", "12", "13"]
    assert table["label"] == [1, 0, 1, 1, 1, 1]
    assert letters.modality == "text"
    assert letters.read(letters.row_ids(), ["key", "text", "label"]).to_pydict() == {
        "row_id": [0, 1],
        "key": ["billing/a.txt", "other/a.txt"],
        "text": ["Two bills came", "Thank you"],
        "label": [0, 1],
    }


@pytest.mark.slow
def test_the_python_of_the_page_on_data_runs(tmp_path: Path) -> None:
    lance, deltalake = pytest.importorskip("lance"), pytest.importorskip("deltalake")
    vectors = pa.array([[float(i), 1.0] for i in range(6)], pa.list_(pa.float32()))
    texts, topics = [f"letter {i}" for i in range(6)], ["oil", "net"] * 3
    table = pa.table({"id": range(6), "body": texts, "topic": topics, "embedding": vectors})
    lance.write_dataset(table, str(tmp_path / "tickets.lance"))
    deltalake.write_deltalake(str(tmp_path / "tickets.delta"), table)
    [code] = python_blocks(text_of("docs/data.md"))
    out = run_python(code, tmp_path)
    assert "6 rows from Lance" in out and "6 rows from Delta Lake" in out


@pytest.mark.parametrize("page", [page for page in PAGES if page not in RUN])
def test_other_python_compiles_and_names_what_is_there(page: str) -> None:
    for block in python_blocks(text_of(page)):
        compile(block, page, "exec")
        for name in re.findall(r"\bcoevo_ray\.(\w+)", block):
            assert hasattr(coevo_ray, name), name


def test_every_public_name_is_on_the_page_of_python() -> None:
    named = re.findall(r"^::: ([\w.]+)$", text_of("docs/api.md"), re.MULTILINE)
    assert sorted(name.rpartition(".")[2] for name in named) == sorted(set(coevo_ray.__all__) - {"__version__"})


def test_yaml_of_the_pages_is_a_run() -> None:
    blocks = [
        block for page in PAGES for block in re.findall(r"^```yaml\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)
    ]
    assert blocks
    for block in blocks:
        coevo_ray.RunConfig.model_validate(yaml.safe_load(block))


def _results(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def test_the_readme_is_short_and_its_table_is_the_results() -> None:
    from website import worth

    readme = text_of("README.md")
    assert len(readme.encode()) <= 7 * 1024
    assert worth.table() in readme, "python -m website.worth writes it"
    assert "| lost |" in worth.table()
    assert {_results(name)["repeats"] for name in ("battery-labels", "battery-policies", "battery-targets-images")} == {
        3
    }


def test_the_table_of_the_demo_is_the_results() -> None:
    from website import demo_table

    assert demo_table.table() in text_of("docs/start.md"), "python -m website.demo_table writes it"
    said = [row.rsplit("|", 2)[1].strip() for row in demo_table.table().splitlines() if " ± " in row]
    assert {*said} <= {"won", "even", "lost"} and len(said) == 18


def test_the_picture_is_the_one_that_its_program_draws() -> None:
    from website import flow

    assert flow.PICTURE.read_text(encoding="utf-8") == flow.draw(), "python -m website.flow writes it"


def test_what_policies_are_worth_is_what_was_measured() -> None:
    verdicts = _results("battery-policies")["verdicts"]
    cells = {
        kept: [setting[kept]["factors"] for pool in verdicts.values() for setting in pool.values() if kept in setting]
        for kept in ("0.3", "0.1")
    }
    points = {
        (kept, verdict): sorted(abs(round(cell["points"], 1)) for cell in found if cell["verdict"] == verdict)
        for kept, found in cells.items()
        for verdict in ("won", "lost")
    }
    page = " ".join(text_of("docs/policies.md").split())
    won, lost = points["0.3", "won"], points["0.3", "lost"]
    assert f"in {len(won)} of {len(cells['0.3'])} cells (five pools in five settings)" in page
    assert f"by {won[0]} to {won[-1]} points, worse in two, by {lost[0]} and {lost[1]}, and even" in page
    won = points["0.1", "won"]
    assert f"better in {len(won)} of {len(cells['0.1'])} cells of three pools, by {won[0]} to {won[-1]}" in page


def test_what_policies_are_worth_at_other_shares_is_what_was_measured() -> None:
    found = _results("battery-policies-shares")
    cells = [setting["0.1"]["factors"] for pool in found["verdicts"].values() for setting in pool.values()]
    won = sorted(round(cell["points"], 1) for cell in cells if cell["verdict"] == "won")
    assert not [cell for cell in cells if cell["verdict"] == "lost"]
    page = " ".join(text_of("docs/policies.md").split())
    assert f"and banking77, in {len(won)} of {len(cells)}, by {won[0]} to {won[-1]}, and even in three" in page
    assert len(cells) - len(won) == 3
    slower = [cell for cell in found["lost"] if cell["share"] == "0.1" and cell["method"] == "full_budget_seconds"]
    assert len(slower) == 8 and "above it in eight of these ten cells" in page


def test_the_way_to_the_first_requests_is_as_long_as_was_measured() -> None:
    seconds = {name: each["seconds"] for name, each in _results("start")["pools"].items()}
    page = " ".join(text_of("docs/start.md").split())
    assert f"10 000 images of 64 pixels took {seconds['images_10000']:.0f} s to the first requests" in page
    assert f"2 000 took {seconds['images_2000']:.0f} s and 10 000 texts {seconds['texts_10000']:.0f} s" in page


def test_where_the_gate_stops_is_what_was_measured() -> None:
    clean = [pool["clean"]["gate"] for pool in _results("battery-stop")["table"].values()]
    shares = sorted(cell["share"]["mean"] for cell in clean)
    lost = sorted(cell["lost"]["mean"] for cell in clean)
    told = f"at {100 * shares[0]:.0f} to {100 * shares[-1] + 1e-9:.0f} % of the labels"
    assert told in " ".join(text_of("README.md").split())
    page = " ".join(text_of("docs/labels.md").split())
    assert told in page
    assert f"with {100 * lost[0]:.1f} to {100 * lost[-1]:.1f} points lost against all labels" in page
