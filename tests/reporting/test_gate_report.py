"""The report of a gate: its figures against counts made here, what it says where nothing can be measured, escaping."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file

import coevo_ray
from coevo_ray.annotators.base import Answers
from coevo_ray.core.arrays import AnyArray
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pipelines.gate.learning import Confusions
from coevo_ray.pipelines.gate.run_rounds import gate_rounds
from coevo_ray.pipelines.gate.session import GateSession
from coevo_ray.pool.pool import Pool
from coevo_ray.reporting.gate_figures import Compared, Effort, GateFigures
from coevo_ray.reporting.gate_page import render_gate
from coevo_ray.reporting.gate_report import gate_report
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.graph_files import read_targets
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vector_column
from tests.command_line import Command
from tests.pipelines.gate.helpers import DIM, HELD, NAMES, ROWS, inputs, truth
from tests.pool.pictures import png
from tests.reporting._example import Page

pytestmark = pytest.mark.usefixtures("ray_local")
SETTINGS: dict[str, Any] = {"classes": NAMES, "seed_fraction": 0.1, "round_fraction": 0.1, "relative_gain": 0.0}
HOSTILE = '<script>alert("1")</script>&\'"--> {{ 7 * 7 }}'


def page_of(file: Path) -> Page:
    """The parsed page, which stands alone."""
    html = file.read_text()
    page = Page(html)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(value.startswith("data:image/") for key, value in page.attributes if key == "src")
    assert not re.search(r"https?:|@import|javascript:", html)
    assert len(page.ids) == len(set(page.ids))
    assert "None" not in page.text and "nan" not in page.text
    return page


def answer(gate: GateSession, rounds: int, names: int = len(NAMES)) -> None:
    for _ in range(rounds):
        rows = gate.next().row_ids
        gate.submit(Answers(rows, truth()[rows] % names, "ann"))


def predicted(gate: Path, features: AnyArray) -> AnyArray:
    """The class of each row by the classifier's file: a softmax is largest where its linear part is."""
    arrays = load_file(gate / "classifier.safetensors")
    linear: AnyArray = (features - arrays["mean"]) / arrays["scale"] @ arrays["weight"].T + arrays["bias"]
    said: AnyArray = linear.argmax(axis=1)
    return said


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a gate that stopped after four rounds, as `run` has it."""
    folder = tmp_path_factory.mktemp("ended")
    pool, targets = inputs(folder, noise=0.8)
    gate_rounds({**SETTINGS, "max_rounds": 4}, pool, targets, str(folder / "gate"))
    return folder


def test_figures_equal_counts_from_the_tables(ended: Path) -> None:
    figures = gate_report(str(ended / "gate"), ended / "page.html", seconds_per_label=9, cost_per_label=0.25)
    table = RowTable(Location.parse(str(ended / "gate")), "labels")
    given = Counter(table.column("label").to_pylist())
    rows = int(np.sum(~np.isin(RowTable(Location.parse(str(ended / "targets"))).row_ids(), HELD)))
    assert (figures["labels"], figures["rows"], figures["rounds"]) == (len(table), rows, 4)
    assert figures["label_fraction"] == pytest.approx(len(table) / rows, abs=1e-6)
    assert figures["labels_saved"] == rows - len(table) and figures["stopped_by"] == "max_rounds"
    assert figures["hours_saved"] == pytest.approx((rows - len(table)) * 9 / 3600)
    assert figures["hours_spent"] == pytest.approx(len(table) * 9 / 3600)
    assert figures["money_saved"] == (rows - len(table)) / 4 and figures["money_spent"] == len(table) / 4
    targets = RowTable(Location.parse(str(ended / "targets")))
    held = targets.read(HELD, ["target"]).column("target")
    said = predicted(ended / "gate", np.stack([np.array(v.as_py(), np.float32) for v in held]))
    true = truth()[HELD]
    pairs = Counter(zip(true.tolist(), said.tolist(), strict=True))
    assert figures["held_out_rows"] == len(HELD) and figures["accuracy"] == pytest.approx((true == said).mean())
    assert (true != said).sum() > 0, "the pool is noisy, so that there is something to confuse"
    for i, (name, found) in enumerate(zip(NAMES, figures["classes"], strict=True)):
        assert (found["name"], found["labels"], found["held_out"]) == (name, given[i], int((true == i).sum()))
        assert found["recall"] == pytest.approx(pairs[i, i] / (true == i).sum())
        assert found["precision"] == pytest.approx(pairs[i, i] / (said == i).sum())
    wrong = {(NAMES[a], NAMES[b]): n for (a, b), n in pairs.items() if a != b}
    assert {(c["label"], c["predicted"]): c["rows"] for c in figures["confusions"]} == wrong
    assert [c["rows"] for c in figures["confusions"]] == sorted(wrong.values(), reverse=True)


def test_the_page_shows_the_figures_and_compares_with_random_rows(ended: Path) -> None:
    figures = gate_report(str(ended / "gate"), ended / "page.html", seconds_per_label=9, cost_per_label=0.25)
    summary = RowTable(Location.parse(str(ended / "gate")), "labels").manifest.summary
    assert (figures["random_accuracy"], figures["full_accuracy"]) == (
        summary["random_accuracy"],
        summary["full_accuracy"],
    )
    html, page = (ended / "page.html").read_text(), page_of(ended / "page.html")
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    accuracy, random, labels = 100 * figures["accuracy"], 100 * figures["random_accuracy"], figures["labels"]
    for sentence in (
        f"{labels} labels, {100 * figures['label_fraction']:.1f} % of {figures['rows']} rows.",
        f"Accuracy on {len(HELD)} held-out rows: {accuracy:.1f} %",
        f"with as many labels of random rows ({random:.1f} %)",
        f"On {len(HELD)} test rows, differences below about",
        "The gate stopped because it reached the maximum number of rounds.",
        f"Labels saved{figures['labels_saved']}",
        f"Hours{figures['hours_saved']:.1f}",
        f"Money{figures['money_saved']:.2f}",
    ):
        assert sentence in text, sentence
    assert "compared with random rows" not in text and "so far" not in text
    plots = [value for key, value in page.attributes if key == "aria-label" and value.startswith("Line plot")]
    assert len(plots) == 2 and "random labels from" in plots[0] and f"stop at {labels}" in plots[0]
    matrix = re.findall(r"<tr><th scope=\"row\"[^>]*>\w+</th>(.*?)</tr>", html)
    cells = [[int(n or 0) for n in re.findall(r">(\d*)</td>", row)] for row in matrix]
    assert np.sum(cells) == len(HELD) and np.trace(cells) == round(figures["accuracy"] * len(HELD))
    assert [sum(row) for row in cells] == np.bincount(truth()[HELD]).tolist()
    for found in figures["classes"]:
        row = f"{found['name']}{found['labels']}{found['held_out']}{100 * found['recall']:.1f} %"
        assert row in text.replace(" %", "\0").replace(" ", "").replace("\0", " %"), row


def test_rows_of_each_round_stand_with_their_text_and_label(ended: Path) -> None:
    gate_report(str(ended / "gate"), ended / "page.html")
    table = RowTable(Location.parse(str(ended / "gate")), "labels")
    known = {f"sample-{row}": (label, round_) for row, label, round_ in _rows(table)}
    html = (ended / "page.html").read_text()
    parts = re.split(r"<h3>Round (\d+), (\d+) labels</h3>", html)[1:]
    assert [int(n) for n in parts[::3]] == [0, 1, 2, 3]
    for round_, count, part in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        shown = re.findall(
            r'<li title="(sample-\d+)"><span><bdi>(\w+)</bdi></span><div dir="auto">(text \d+)</div></li>', part
        )
        assert len(shown) == len({key for key, _, _ in shown}) == 8
        assert int(count) == sum(r == int(round_) for _, r in known.values())
        for key, label, text in shown:
            assert known[key] == (NAMES.index(label), int(round_)) and text == f"text {key.removeprefix('sample-')}"


def _rows(table: RowTable) -> list[tuple[int, int, int]]:
    columns = table.scan(["row_id", "label", "round"])
    return [(row["row_id"], row["label"], row["round"]) for row in columns.to_pylist()]


@pytest.mark.slow
def test_an_open_gate_is_compared_as_a_finished_one_and_stays_as_it_is(ended: Path, tmp_path: Path) -> None:
    pool, targets = inputs(tmp_path, noise=0.8)
    gate = GateSession.open({**SETTINGS, "max_rounds": 5}, pool, targets, str(tmp_path / "gate"))
    answer(gate, 4)
    waiting = gate.next().row_ids  # learned from the fourth round
    before = gate.status()
    figures = coevo_ray.gate_report(gate)
    assert figures["report"] == str(tmp_path / "gate" / "report.html") and GateSession(gate.location).status() == before
    finished = gate_report(str(ended / "gate"), tmp_path / "page.html")
    for name in ("labels", "accuracy", "random_accuracy", "full_accuracy", "classes", "confusions", "curve"):
        assert figures[name] == finished[name], name
    assert figures["hours_saved"] is None and figures["money_saved"] is None
    text = page_of(tmp_path / "gate" / "report.html").text
    assert f"The gate continues: {len(waiting)} requested rows wait for a label." in text
    assert "labels so far" in text and "stop," not in text and "Hours" not in text
    gate.submit(Answers(waiting[:1], truth()[waiting[:1]], "ann"))
    gate_report(gate, tmp_path / "page.html")
    assert f"Accuracies are those with {figures['labels']} labels" in page_of(tmp_path / "page.html").text


def test_a_gate_without_held_out_labels_says_how_to_get_them(tmp_path: Path) -> None:
    pool, targets = inputs(tmp_path, labelled=False)
    gate = GateSession.open(SETTINGS, pool, targets, str(tmp_path / "gate"))
    gate_report(gate, tmp_path / "before.html")
    text = page_of(tmp_path / "before.html").text
    assert "0 labels so far" in text and "The gate has not learned yet: label its first round" in text
    assert "No requested row has a label yet." in text
    answer(gate, 2, names=3)  # nobody says dog
    gate.next()
    figures = gate_report(gate, tmp_path / "page.html", seconds_per_label=2.5)
    absent = ("accuracy", "random_accuracy", "full_accuracy", "held_out_rows")
    assert [figures[name] for name in absent] == [None, None, None, 0]
    assert [c["labels"] for c in figures["classes"]] == np.bincount(
        gate.service.labelled()["label"], minlength=4
    ).tolist()
    labelled = gate.service.labelled()
    rows, given = (labelled[name][labelled["validation"]] for name in ("row_id", "label"))
    rows, given = rows[np.argsort(rows)], given[np.argsort(rows)]
    said = predicted(tmp_path / "gate", read_targets(targets, rows))
    assert len(rows) == 11 and figures["forecast"]["validation_rows"] == 11
    for i, each in enumerate(figures["classes"]):
        of = given == i
        assert each["held_out"] == of.sum()
        assert each["recall"] == (pytest.approx((said[of] == i).mean()) if of.any() else None)
    assert figures["few_labels"] == ["dog"] and figures["classes"][3]["recall"] is None
    text = page_of(tmp_path / "page.html").text
    assert "1 class has fewer than 10 labels, so what is learned about it is uncertain: dog (0)." in text
    assert "No accuracy on held-out rows: the pool has no labels of its test rows." in text
    assert "Nothing here was compared with random rows." in text
    assert "For accuracies, ingest the samples with a label column" in text and "A comparison with random rows" in text
    assert "share of a class's validation rows" in text and text.count("Round ") == 2
    low, middle, high = (round(100 * value, 1) for value in figures["forecast"]["gain"])
    assert f"would add {middle} points of accuracy (90 % interval {low} to {high})" in text
    assert "Accuracy by 11 validation rows" in text
    assert "Labels were not judged: of fewer than 500 with these classes" in text
    assert figures["doubted_labels"] is None and figures["most_doubted"] == []


def test_fewer_labels_of_the_pool_than_of_the_gate_are_no_comparison(tmp_path: Path) -> None:
    train = np.setdiff1d(np.arange(ROWS), HELD)
    pool, targets = inputs(tmp_path, hidden=train[90:].tolist())
    gate = GateSession.open(SETTINGS, pool, targets, str(tmp_path / "gate"))
    answer(gate, 2)
    gate.next()
    figures = gate_report(gate, tmp_path / "page.html")
    assert figures["held_out_rows"] == len(HELD) and figures["accuracy"] > 0.8
    assert figures["labels"] > 90 and figures["random_accuracy"] is figures["full_accuracy"] is None
    text = page_of(tmp_path / "page.html").text
    assert "Nothing here was compared with random rows." in text and "all labels" not in text
    assert "No accuracy on held-out rows" not in text


def test_pictures_and_hostile_names(tmp_path: Path) -> None:
    random, rows = np.random.default_rng(0), 120
    true = np.arange(rows) % 2
    features = np.eye(DIM)[true] + 0.1 * random.standard_normal((rows, DIM))
    place = Location.parse(str(tmp_path / "pool"))
    images = [png(i) if i % 3 else b"damaged" for i in range(rows)]
    keys = [f"{HOSTILE}{i}" for i in range(rows)]
    columns = {"row_id": np.arange(rows), "key": keys, "image": images, "split": np.zeros(rows, np.int8)}
    table = pa.table({**columns, "label": pa.nulls(rows, pa.int64())})
    finish(place, "pool", {}, {}, [write_table(place, "a.parquet", table)], {"classes": 0, "modality": "image"})
    at = Location.parse(str(tmp_path / "targets"))
    vectors = pa.table({"row_id": np.arange(rows), "target": vector_column(features.astype(np.float32))})
    finish(at, "targets", {}, {}, [write_table(at, "a.parquet", vectors, 64)], {})
    settings = {**SETTINGS, "classes": (HOSTILE, "other")}
    gate = GateSession.open(settings, Pool(place), RowTable(at, "targets"), str(tmp_path / "gate"))
    asked = gate.next().row_ids
    gate.submit(Answers(asked, np.zeros(len(asked), np.int64), HOSTILE))
    figures = gate_report(gate, tmp_path / "page.html")
    assert figures["few_labels"] == ["other"]
    page = page_of(tmp_path / "page.html")
    assert "img" in page.tags and HOSTILE in page.text
    titles = {value for key, value in page.attributes if key == "title"}
    assert len(titles) == 8 and titles <= {keys[row] for row in asked}
    assert page.text.count("not readable") == sum(int(title.removeprefix(HOSTILE)) % 3 == 0 for title in titles)


def test_labels_that_are_likely_wrong_are_shown_with_the_likely_one(tmp_path: Path) -> None:
    random, rows = np.random.default_rng(0), 1500
    true = np.arange(rows) % 3
    features = np.eye(DIM)[true] + 0.2 * random.standard_normal((rows, DIM))
    place, at = Location.parse(str(tmp_path / "pool")), Location.parse(str(tmp_path / "targets"))
    columns = {"row_id": np.arange(rows), "key": [f"k{i}" for i in range(rows)], "split": np.zeros(rows, np.int8)}
    table = pa.table({**columns, "text": [f"text {i}" for i in range(rows)], "label": pa.nulls(rows, pa.int64())})
    finish(place, "pool", {}, {}, [write_table(place, "a.parquet", table)], {"classes": 0, "modality": "text"})
    vectors = pa.table({"row_id": np.arange(rows), "target": vector_column(features.astype(np.float32))})
    finish(at, "targets", {}, {}, [write_table(at, "a.parquet", vectors, 64)], {})
    settings = {"classes": ("ant", "bee", "cat"), "seed_fraction": 0.8, "max_seed_rows": 1200}
    gate = GateSession.open(settings, Pool(place), RowTable(at, "targets"), str(tmp_path / "gate"))
    asked = gate.next().row_ids
    wrong = random.random(len(asked)) < 0.08
    gate.submit(Answers(asked, np.where(wrong, (true[asked] + 1) % 3, true[asked]), "ann"))
    figures = gate_report(gate, tmp_path / "page.html")
    swapped = set(asked[wrong].tolist())
    assert len(asked) == 1200 and 0.8 * len(swapped) < figures["doubted_labels"] < 1.2 * len(swapped)
    named = figures["most_doubted"]
    assert len(named) == 24 and len({each["row_id"] for each in named} & swapped) >= 22
    for each in named:
        if each["row_id"] in swapped:
            right = true[each["row_id"]]
            assert (each["label"], each["likely"]) == (gate.classes[(right + 1) % 3], gate.classes[right])
    page = page_of(tmp_path / "page.html")
    assert f"{figures['doubted_labels']} labels are more likely wrong than right" in page.text
    assert f"text {named[0]['row_id']}" in page.text
    assert "texts labelled doubted" in (tmp_path / "page.html").read_text()


def test_of_many_classes_the_largest_confusions_are_listed() -> None:
    names = tuple(f"class {i}" for i in range(60))
    random = np.random.default_rng(0)
    label = random.integers(0, 59, 3000)  # the last class has no held-out row
    said = np.where(random.random(3000) < 0.6, label, random.integers(0, 60, 3000))
    status: Any = {
        **dict.fromkeys(("labels", "answers", "learned_answers"), 700),
        **{"rows": 9000, "rounds": 2, "outstanding": 0, "stopped_by": None, "disputed": 3},
    }
    point = {"labels": 700, "round": 1, "accuracy": float((label == said).mean()), "mean_gain": 0.1}
    figures = GateFigures(
        "g", names, status, (point,), Effort(700, 8300, None, None), Compared((0.5,), None), True,
        Confusions.count(label, said), np.arange(60),
    )  # fmt: skip
    pairs = Counter((a, b) for a, b in zip(label.tolist(), said.tolist(), strict=True) if a != b)
    found = figures.largest()
    assert [n for _, _, n in found] == sorted(pairs.values(), reverse=True)[:20]
    assert all(pairs[names.index(a), names.index(b)] == n for a, b, n in found)
    assert figures.classes()[59].recall is None and math.isclose(
        figures.classes()[5].recall or 0, ((label == 5) & (said == 5)).sum() / (label == 5).sum()
    )
    text = Page(render_gate(figures, (), "", (), "")).text
    assert "The 50 of lowest recall, of 60" in text and f"{found[0][0]} classified as {found[0][1]}" in text
    assert "10 classes have fewer than 10 labels" in text and "class 0 (0)" in text
    assert "Annotators disagree about 3 rows." in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": "report.txt"}, "not an .html file"),
        ({"seconds_per_label": 0.0}, "seconds_per_label is 0.0"),
        ({"cost_per_label": math.nan}, "cost_per_label is nan"),
    ],
)
def test_wrong_wishes_are_refused(ended: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        gate_report(str(ended / "gate"), **options)


def test_the_command(ended: Path, tmp_path: Path, coevo_ray: Command) -> None:
    with pytest.raises(InputError, match="no gate was opened"):
        gate_report(str(tmp_path))
    assert coevo_ray("gate", "report", "--gate", str(tmp_path)).returncode == 3
    page, gate = tmp_path / "a.html", str(ended / "gate")
    assert coevo_ray("gate", "report", "--gate", gate, "--cost-per-label", "-1").returncode == 2
    done = coevo_ray("gate", "report", "--gate", gate, "--out", str(page), "--cost-per-label", "0.5", "--json")
    figures = json.loads(done.stdout)
    assert done.returncode == 0 and figures["report"] == str(page) and page.is_file()
    assert figures["money_saved"] == figures["labels_saved"] / 2 and figures["rows"] < ROWS
    assert coevo_ray("gate", "report", "--gate", gate, "--out", str(page)).returncode == 0
