"""An open gate over many processes: each step alone, killed or repeated anywhere, with several annotators."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from coevo_ray.annotators.base import Answers, Collected, Questions
from coevo_ray.errors import InputError, StoppedError, UsageError
from coevo_ray.pipelines.gate.run_rounds import gate_rounds
from coevo_ray.pipelines.gate.session import GateSession
from coevo_ray.pipelines.gate.steps import export_labels, gate_next, gate_submit, read_predictions
from coevo_ray.pipelines.gate.terms import gate_set
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.graph_files import read_targets
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import load_manifest
from coevo_ray.store.row_table import RowTable, vector_column
from tests.command_line import Command
from tests.pipelines.gate.helpers import CLASSES, DIM, HELD, NAMES, REJECTED, ROWS, inputs, truth
from tests.processes import Marked

pytestmark = pytest.mark.usefixtures("ray_local")
SETTINGS: dict[str, Any] = {"classes": NAMES, "seed_fraction": 0.1, "round_fraction": 0.1, "relative_gain": 0.0}


def opened(folder: Path, **settings: Any) -> GateSession:
    pool, targets = inputs(folder)
    return GateSession.open({**SETTINGS, **settings}, pool, targets, str(folder / "gate"))


def again(gate: GateSession) -> GateSession:
    """As another process would find it."""
    return GateSession(gate.location)


def answer(gate: GateSession, questions: Questions, annotator: str = "ann") -> None:
    gate.submit(Answers(questions.row_ids, truth()[questions.row_ids], annotator))


@pytest.mark.slow
def test_rounds_one_process_each(tmp_path: Path) -> None:
    gate, asked = opened(tmp_path), []
    for round_ in range(3):
        questions = again(gate).next()
        assert np.array_equal(again(gate).next().row_ids, questions.row_ids)  # asked twice, the same rows
        assert questions.round == round_ and len(questions.row_ids) == round(0.1 * gate.rows)
        assert (questions.predicted == -1).all() == (round_ == 0)
        asked.append(questions.row_ids)
        half = len(questions.row_ids) // 2
        rows = questions.row_ids
        again(gate).submit(Answers(rows[:half], truth()[rows[:half]], "ann"))
        assert np.array_equal(again(gate).next().row_ids, rows[half:])
        again(gate).submit(Answers(rows[half:], truth()[rows[half:]], "bob"))
    rows = np.concatenate(asked)
    assert len(set(rows)) == len(rows) and not set(rows) & {*HELD, *REJECTED}
    status = again(gate).status()
    assert (status["labels"], status["rounds"], status["outstanding"]) == (len(rows), 3, 0)
    assert status["annotators"] == ["ann", "bob"] and status["accuracy"] > 0.8
    # One process that does everything asks for the same rows.
    other = opened(tmp_path / "other")
    with other.hosted():
        for expected in asked:
            questions = other.next()
            assert np.array_equal(questions.row_ids, expected)
            answer(other, questions)


@pytest.mark.slow
def test_the_loop_equals_the_steps(tmp_path: Path) -> None:
    pool, targets = inputs(tmp_path)
    labels = gate_rounds({**SETTINGS, "max_rounds": 3}, pool, targets, str(tmp_path / "loop"))
    gate = opened(tmp_path, max_rounds=3)
    with gate.hosted():
        while len(rows := gate.next().row_ids):
            gate.submit(Answers(rows, truth()[rows], "label_column"))
    assert gate.status()["stopped_by"] == "max_rounds"
    table = export_labels(gate, str(tmp_path / "labels"))
    columns = ["row_id", "label", "annotator", "round", "votes", "annotators"]
    assert table.scan(columns).equals(labels.scan(columns))
    assert table.scan(columns).column("label").to_numpy().tolist() == truth()[table.row_ids()].tolist()
    assert labels.manifest.summary["random_accuracy"] > 0.8 and len(labels.manifest.summary["curve"]) == 3


@pytest.mark.slow
def test_a_gate_that_a_limit_ended_goes_on_under_another(tmp_path: Path) -> None:
    pool, targets = inputs(tmp_path)
    out, few, more = str(tmp_path / "gate"), {**SETTINGS, "max_rounds": 2}, {**SETTINGS, "max_rounds": 3}
    first = gate_rounds(few, pool, targets, out)
    rows, labels = first.row_ids(), first.column("label").to_pylist()
    with pytest.raises(UsageError, match="gate set"):
        gate_rounds(more, pool, targets, out)
    told = gate_set(out, {"max_rounds": 3})
    assert (told["changed"], told["stopped_by"], told["labels"]) == ({"max_rounds": [2, 3]}, None, len(rows))
    assert gate_set(out, {"max_rounds": 3})["changed"] == {}
    with pytest.raises(UsageError, match="max_rounds"):  # the former terms are those of another gate now
        gate_rounds(few, pool, targets, out)
    second = gate_rounds(more, pool, targets, out)
    again = dict(zip(second.row_ids().tolist(), second.column("label").to_pylist(), strict=True))
    assert len(again) > len(rows) and [again[row] for row in rows.tolist()] == labels
    # Rounds as a gate has them that had these terms from the beginning.
    whole = gate_rounds(more, pool, targets, str(tmp_path / "whole"))
    assert whole.scan(["row_id", "label", "round"]).equals(second.scan(["row_id", "label", "round"]))


@pytest.mark.slow
def test_an_open_gate_changes_its_terms_alone(tmp_path: Path) -> None:
    gate = opened(tmp_path)
    answer(gate, gate.next())
    told = gate_set(gate, {"round_fraction": 0.05, "max_label_fraction": 0.12, "annotator": "label_column"})
    assert set(told["changed"]) == {"round_fraction", "max_label_fraction"}
    after = again(gate)
    assert len(after.next().row_ids) == round(0.12 * gate.rows) - round(0.1 * gate.rows), "the limit, not the round"
    before = (tmp_path / "gate" / "gate.json").read_bytes()
    for terms, message in (
        ({}, "of nothing"),
        ({"rule": "compat"}, "gate set of rule"),
        ({"max_label_fraction": 2}, "max_label_fraction"),
        ({"annotator": {"kind": "file_drop"}}, "folder"),
    ):
        with pytest.raises(UsageError, match=message):
            gate_set(gate, terms)
    assert (tmp_path / "gate" / "gate.json").read_bytes() == before


@pytest.mark.slow
def test_a_tenth_of_the_labels_measures_and_teaches_nothing(tmp_path: Path) -> None:
    """Two gates that hear other labels of these rows fit the same classifier, and ask for the same rows.

    Not calibrated: the temperature is what these rows are for.
    """
    gates = [opened(tmp_path, calibrate=False), opened(tmp_path / "other", calibrate=False)]
    for round_ in range(3):
        asked = [gate.next().row_ids for gate in gates]
        assert np.array_equal(asked[0], asked[1])
        for gate, shift in zip(gates, (0, 1), strict=True):
            answer(gate, Questions(**gate.service.questions()))
            own = gate.service.labelled()
            rows = own["row_id"][own["validation"]]
            assert len(rows) == round(0.1 * 54 * (round_ + 1))
            gate.submit(Answers(rows, (truth()[rows] + shift) % CLASSES, "ann"))
    for gate in gates:
        gate.next()
    probes = [gate.classifier().probe for gate in gates]
    assert np.array_equal(probes[0].weight, probes[1].weight)
    right, wrong = (gate.status()["forecast"] for gate in gates)
    assert right["validation_rows"] == wrong["validation_rows"] == 16
    assert right["accuracy"][1] > 0.8 and wrong["accuracy"][1] < 0.2
    out = str(tmp_path / "labels")
    export_labels(gates[0], out)
    table = RowTable(Location.parse(out), "labels").scan(["row_id", "validation"])
    labelled = gates[0].service.labelled()
    assert set(table.column("row_id").to_numpy()[table.column("validation").to_numpy()]) == set(
        labelled["row_id"][labelled["validation"]]
    )


@pytest.mark.slow
def test_the_tolerance_of_an_open_gate_ends_it_and_opens_it_again(tmp_path: Path) -> None:
    gate = opened(tmp_path, tolerance=0.0)
    for _ in range(2):
        answer(gate, gate.next())
    gate.next()
    answer(gate, Questions(**gate.service.questions()))
    gate.learn()
    assert gate.status()["stopped_by"] is None
    gain = gate.status()["forecast"]["gain"][1]
    told = gate_set(gate, {"tolerance": min(1.0, gain + 0.01)})
    assert told["stopped_by"] == "tolerance" and len(again(gate).next().row_ids) == 0
    told = gate_set(gate, {"tolerance": max(0.0, gain - 0.001), "cost_per_label": 1, "worth_per_point": 1e9})
    assert told["stopped_by"] is None and len(again(gate).next().row_ids) == 54
    with pytest.raises(UsageError, match="both"):
        gate_set(gate, {"cost_per_label": None})
    without = opened(tmp_path / "without", validation_share=0.0)
    with pytest.raises(UsageError, match="without validation rows"):
        gate_set(without, {"tolerance": 0.1})


class Slow:
    """A desk whose people answer a part of what lies there each time that somebody looks."""

    where = "a desk"

    def __init__(self, per_look: int) -> None:
        self.per_look, self.waiting, self.done = per_look, dict[int, int](), dict[int, int]()

    def send(self, questions: Questions) -> int:
        new = [row for row in questions.row_ids.tolist() if row not in self.waiting | self.done]
        self.waiting |= {row: int(truth()[row]) for row in new}
        return len(new)

    def collect(self) -> Collected:
        for row in sorted(self.waiting)[: self.per_look]:
            self.done[row] = self.waiting.pop(row)
        rows = np.array(sorted(self.done), dtype=np.int64)
        labels = np.array([self.done[row] for row in rows.tolist()], dtype=np.int64)
        return Collected((Answers(rows, labels, "cay"),), ("line 3: somebody wrote hello",))


@pytest.mark.slow
def test_a_run_waits_for_people_and_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pool, targets = inputs(tmp_path)
    desk, stops = Slow(40), 0
    while True:
        try:
            labels = gate_rounds({**SETTINGS, "max_rounds": 2}, pool, targets, str(tmp_path / "out"), desk)
            break
        except StoppedError as error:
            stops += 1
            assert "wait for labels at a desk" in error.cause
    assert stops == 2  # 54 rows a round, 40 answers a look, which also bring what came before
    assert len(labels) == labels.manifest.summary["labels"] == 2 * 54
    assert "somebody wrote hello" in capfd.readouterr().err
    assert desk.send(Questions(0, *(np.zeros(0, int),) * 5)) == 0


@pytest.mark.slow
def test_requests_in_a_file_for_people_are_no_formulas_and_come_back(tmp_path: Path) -> None:
    pool, targets = inputs(tmp_path)
    names = [f"={name}" for name in NAMES]
    gate = GateSession.open({**SETTINGS, "classes": names}, pool, targets, str(tmp_path / "gate"))
    answer(gate, gate.next())
    requests, answers = tmp_path / "requests.csv", tmp_path / "ann.csv"
    gate_next(gate, out=str(requests))
    rows = list(csv.DictReader(requests.open()))
    assert rows and all(row["predicted"] in [f"'{name}" for name in names] for row in rows)
    answers.write_text("key,label\n" + "".join(f"{row['key']},{row['predicted']}\n" for row in rows))
    told = gate_submit(gate, str(answers))
    assert (told["labels"], told["problems"]) == (len(rows), [])
    gate_next(gate, out=str(tmp_path / "requests.parquet"))
    predicted = pq.read_table(tmp_path / "requests.parquet").column("predicted").to_pylist()
    assert predicted and set(predicted) <= set(names)


def test_files_of_two_annotators(tmp_path: Path) -> None:
    gate = opened(tmp_path)
    requests = tmp_path / "requests.csv"
    told = gate_next(gate, out=str(requests))
    assert told.pop("blocking") == []  # nobody has begun with the round
    assert told == {"round": 0, "requested": 54, "sent": 0, "where": None, "file": str(requests), "stopped_by": None}
    rows = [line["row_id"] for line in csv.DictReader(requests.open())]
    labels = {row: NAMES[truth()[int(row)]] for row in rows}
    other = {**labels, rows[0]: NAMES[(truth()[int(rows[0])] + 1) % CLASSES]}

    def write(name: str, said: dict[str, str], *more: str) -> str:
        lines = ["key,label", *(f"sample-{row},{label}" for row, label in said.items()), *more]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return str(tmp_path / name)

    ann, bob = write("ann.csv", labels, "sample-1000,ant", "sample-0,ant"), write("bob.csv", other)
    first = gate_submit(gate, [ann])
    assert (first["answers"], first["labels"], first["changed"]) == (54, 54, 0)
    assert ["sample-1000" in p or "held out" in p for p in first["problems"]] == [True, True]
    assert gate_submit(again(gate), [ann])["answers"] == 0  # the same file changes nothing
    assert gate_submit(gate, [bob]) == {
        "answers": 54,
        "labels": 0,
        "unasked": 0,
        "changed": 0,
        "outstanding": 0,
        "problems": [],
    }
    assert gate.status()["disputed"] == 1
    cay = gate_submit(gate, [bob], annotator="cay")
    assert (cay["answers"], cay["changed"]) == (54, 1)  # two of three say so now
    table = export_labels(gate, str(tmp_path / "labels"))
    label = dict(zip(table.row_ids().tolist(), table.scan(["label"]).column("label").to_pylist(), strict=True))
    assert NAMES[label[int(rows[0])]] == other[rows[0]]
    read = datasets.load_dataset(str(tmp_path / "labels"), split="train", cache_dir=str(tmp_path / "cache"))
    assert read["label"][:] == table.scan(["label"]).column("label").to_pylist()
    (answers,) = (tmp_path / "labels").glob("answers-*.parquet")
    said = pq.read_table(answers)
    assert said.num_rows == 3 * 54
    assert {r["annotator"]: NAMES[r["label"]] for r in said.to_pylist() if str(r["row_id"]) == rows[0]} == {
        "ann": labels[rows[0]],
        "bob": other[rows[0]],
        "cay": other[rows[0]],
    }


def test_an_export_is_replaced_by_a_later_one(tmp_path: Path) -> None:
    gate, out = opened(tmp_path), str(tmp_path / "labels")
    with pytest.raises(InputError, match="before there are predictions"):
        export_labels(gate, out, 0.9)
    assert len(export_labels(gate, out)) == 0
    answer(gate, gate.next())
    assert len(export_labels(gate, out)) == 54
    answer(gate, gate.next())
    table = export_labels(gate, out, pseudo_labels=0.8)
    assert len(table) == 108 and sorted(p.name for p in (tmp_path / "labels").glob("labels-*")) == [
        "labels-0000000108.parquet"
    ]
    place = Location.parse(out).child("pseudo_labels")
    pseudo = RowTable(place, "pseudo_labels").scan(["row_id", "label", "confidence"])
    rows = pseudo.column("row_id").to_numpy()
    assert len(rows) and not set(rows) & set(table.row_ids()) and not set(rows) & {*HELD, *REJECTED}
    assert pseudo.column("confidence").to_numpy().min() >= 0.8
    assert (pseudo.column("label").to_numpy() == truth()[rows]).mean() > 0.9
    assert pseudo.schema.field("confidence").type == pa.float32()
    assert load_manifest(place).summary["rows"] == len(rows)
    other = opened(tmp_path / "other", seed=1)
    with pytest.raises(UsageError, match="labels of another gate"):
        export_labels(other, out)


def test_labels_of_copies_are_told_apart_with_their_own_confidence(tmp_path: Path) -> None:
    """Every row twice, so that half of what is exported is somebody's label of the other one."""
    random = np.random.default_rng(0)
    pool, _ = inputs(tmp_path)
    features = np.repeat(random.standard_normal((ROWS // 2, DIM)), 2, axis=0) + 0.002 * random.standard_normal(
        (ROWS, DIM)
    )
    place = Location.parse(str(tmp_path / "twice"))
    table = pa.table({"row_id": np.arange(ROWS), "target": vector_column(features.astype(np.float32))})
    finish(place, "targets", {}, {}, [write_table(place, "0.parquet", table)], {})
    gate = GateSession.open(
        {**SETTINGS, "seed_fraction": 0.3, "validation_share": 0.0},
        pool,
        RowTable(place, "targets"),
        str(tmp_path / "gate"),
    )
    asked = gate.next().row_ids
    gate.submit(Answers(asked, (asked // 2) % CLASSES, "ann"))
    gate.next()
    out = str(tmp_path / "labels")
    export_labels(gate, out, pseudo_labels=0.0)
    place = Location.parse(out).child("pseudo_labels")
    found = RowTable(place, "pseudo_labels").scan(["row_id", "label", "confidence", "source"]).to_pandas()
    shared, other = found[found.source == "shared"], found[found.source == "pseudo"]
    mine, there = set(asked.tolist()), set(found.row_id.tolist())
    assert set(shared.row_id) == {row ^ 1 for row in mine} & there
    assert (shared.label == (shared.row_id // 2) % CLASSES).all()
    both = sum(row ^ 1 in mine for row in mine) // 2
    assert both and shared.confidence.max() <= (9 + both) / (10 + both) + 1e-6
    assert len(shared) + len(other) == len(found) and len(other)
    assert load_manifest(place).summary["shared"] == len(shared)


def test_a_gate_of_version_0_1_0_keeps_its_numbers_for_copies(tmp_path: Path) -> None:
    new = opened(tmp_path)
    assert new.rule.copy_similarity is None and not new.rule.copies_by_numbers and new.learning().by_group
    file = tmp_path / "gate" / "gate.json"
    content = json.loads(file.read_text())
    for name in ("copy_similarity", "copy_margin"):
        assert content["settings"].pop(name) is None
    file.write_text(json.dumps(content))
    for former in (again(new), opened(tmp_path)):  # opening it with its settings does not make it another
        rule = former.rule
        assert (rule.copy_similarity, rule.copy_margin, rule.shared_confidence) == (0.7, 0.2, 0.95)
        assert not former.learning().by_group
        assert former.settings.content() == new.settings.content()
    with pytest.raises(UsageError, match="copy_similarity"):
        opened(tmp_path, copy_similarity=0.9)


@pytest.mark.slow
def test_a_pool_without_labels_needs_only_the_names_of_its_classes(tmp_path: Path) -> None:
    pool, targets = inputs(tmp_path, labelled=False)
    with pytest.raises(InputError, match="gate needs two or more"):
        GateSession.open({}, pool, targets, str(tmp_path / "gate"))
    gate = GateSession.open({**SETTINGS, "max_rounds": 2}, pool, targets, str(tmp_path / "gate"))
    with gate.hosted():
        while len((questions := gate.next()).row_ids):
            answer(gate, questions)
    assert gate.status()["accuracy"] is None
    assert len(export_labels(gate, str(tmp_path / "labels"))) == 108

    class All:
        def answer(self, row_ids: Any) -> Answers:
            return Answers(row_ids, truth()[row_ids], "ann")

    labels = gate_rounds({**SETTINGS, "max_rounds": 2}, pool, targets, str(tmp_path / "loop"), All())
    assert labels.manifest.summary["full_accuracy"] is None
    assert labels.manifest.summary["random_curve"] == [[54, None], [108, None]]


def test_predictions_of_the_users_own_model(tmp_path: Path) -> None:
    gate = opened(tmp_path)
    rows = np.setdiff1d(np.arange(ROWS), [*HELD, *REJECTED])
    random = np.random.default_rng(1)
    probabilities = random.dirichlet(np.ones(CLASSES), size=len(rows))

    def write(**columns: Any) -> str:
        table = pa.table({"row_id": rows, "probabilities": probabilities.tolist(), **columns})
        pq.write_table(table, tmp_path / "predictions.parquet")
        return str(tmp_path / "predictions.parquet")

    answer(gate, gate.next())
    told = gate_next(gate, predictions=write())
    assert (told["round"], told["requested"]) == (1, 54)
    assert gate.service.gate_status()["learned_answers"] is None  # nothing of ours was fitted
    refused = {
        "without nulls": {"probabilities": [p[:-1] for p in probabilities.tolist()]},
        "no distribution": {"probabilities": (2 * probabilities).tolist()},
        "are double": {"probabilities": probabilities[:, 0]},
        "are not the gate's": {"row_id": rows + ROWS},
        "have no prediction": {"row_id": np.r_[rows[1], rows[1:]]},
    }
    for message, columns in refused.items():
        with pytest.raises(InputError, match=message):
            gate.next(read_predictions(write(**columns), CLASSES))
    with pytest.raises(InputError, match="has columns"):
        read_predictions(str(next((tmp_path / "pool").glob("*.parquet"))), CLASSES)


def test_predictions_in_blocks_of_classes_ask_for_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    for name, ranges in (("one", [(0, CLASSES)]), ("two", [(0, 2), (2, CLASSES)])):
        monkeypatch.setattr("coevo_ray.pipelines.gate.learning.class_ranges", lambda *_, ranges=ranges: ranges)
        gate = opened(tmp_path / name)
        with gate.hosted():
            answer(gate, gate.next())
            asked.append({**vars(gate.next()), **gate.service.pseudo_labels(0.5)})
    np.testing.assert_equal(asked[1], asked[0])
    assert len(asked[0]["row_ids"]) and len(asked[0]["row_id"])


def test_files_are_predicted_in_parts_of_training_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = opened(tmp_path)
    answer(gate, gate.next())
    gate.next()
    learning, classifier, ranges = gate.learning(), gate.classifier(), [(0, 3), (3, CLASSES)]
    monkeypatch.setattr("coevo_ray.pipelines.gate.learning._PREDICTED_ROWS", 50)
    expected = np.setdiff1d(np.arange(ROWS), [*HELD, *REJECTED])
    rows, lengths = [], []
    for index in range(len(gate.targets.files)):
        made = list(learning._predict_file(index, classifier, ranges))
        for row_ids, first, rest in zip(made[::3], made[1::3], made[2::3], strict=True):
            rows += row_ids.tolist()
            lengths.append(len(row_ids))
            p = classifier(read_targets(gate.targets, row_ids))
            np.testing.assert_allclose(np.concatenate([first, rest], axis=1), p, atol=1e-6)
    assert rows == expected.tolist()
    assert max(lengths) == 50 and sum(length < 50 for length in lengths) == len(gate.targets.files)


@pytest.mark.slow
def test_rows_that_arrive_are_decided_in_python_and_in_ray_data(tmp_path: Path) -> None:
    gate = opened(tmp_path)
    with pytest.raises(InputError, match="learned nothing yet"):
        gate.offer(np.ones((2, DIM)))
    with pytest.raises(UsageError, match="is not hosted"):
        gate.stage()
    random = np.random.default_rng(5)
    true = random.integers(0, CLASSES, 64)
    features = (np.eye(DIM)[true] + 0.35 * random.standard_normal((64, DIM)) + 1.0).astype(np.float32)
    features[3] = np.nan
    with gate.hosted():
        answer(gate, gate.next())
        gate.next()
        dataset = ray.data.from_items([{"row_id": 5000 + i, "target": row} for i, row in enumerate(features)])
        table = dataset.map_batches(gate.stage(), batch_size=16, batch_format="numpy").to_pandas().set_index("row_id")
        again = gate.offer(features, row_ids=np.arange(64) + 5000)  # as a batch that is tried again
        assert table.loc[again.row_id, "action"].tolist() == again.action.tolist()
        fresh = gate.offer(features[:2])
        assert fresh.row_id.tolist() == [5064, 5065]
        asked = set(again.row_id[again.action == "annotate"]) | set(fresh.row_id[fresh.action == "annotate"])
        assert asked and asked <= set(gate.next().row_ids.tolist())
        assert again.reason[3] == "unusable" and table.loc[5003, "pseudo_label"] == -1
        sure = again.action == "pseudo_label"
        assert (again.label[sure] == true[sure]).all()
        questions = gate.next()
        labels = np.array([true[r - 5000] if r >= 5000 else truth()[r] for r in questions.row_ids])
        gate.submit(Answers(questions.row_ids, labels, "ann"))
        assert len(gate.next().row_ids)  # it has learned from them, and predicted them anew
    status = GateSession(gate.location).status()
    assert status["offered"] == 66 and status["rows"] == gate.rows + 65
    with pytest.raises(InputError, match="have 16 dimensions"):
        gate.offer(features[:, :-1], np.full((64, CLASSES), 1 / CLASSES, np.float32))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    gate = opened(tmp_path)
    questions = gate.next()
    with pytest.raises(InputError, match=r"outside 0\.\.3"):
        gate.submit(Answers(questions.row_ids[:1], np.array([CLASSES]), "ann"))
    with pytest.raises(UsageError, match="without an annotator"):
        gate.submit(Answers(questions.row_ids[:1], np.array([0]), ""))
    pool, targets = inputs(tmp_path)
    place = str(tmp_path / "gate")
    with pytest.raises(UsageError, match="classes"):  # another label set
        GateSession.open({**SETTINGS, "classes": ("ant", "bee")} | {"classes": (*NAMES, "eel")}, pool, targets, place)
    with pytest.raises(InputError, match="name all of them"):
        GateSession.open({**SETTINGS, "classes": ("ant", "bee")}, pool, targets, str(tmp_path / "few"))
    with pytest.raises(InputError, match="no gate was opened"):
        GateSession(Location.parse(str(tmp_path / "nowhere")))
    inputs(tmp_path, seed=1)  # other features at the same place
    with pytest.raises(InputError, match="is of other data"):
        again(gate)
    assert json.loads((tmp_path / "gate" / "gate.json").read_text())["classes"] == list(NAMES)


def test_a_gate_that_is_behind_another_process_stops(tmp_path: Path) -> None:
    gate = opened(tmp_path)
    questions = gate.next()
    behind = again(gate)
    assert behind.status()["outstanding"] == 54
    answer(gate, questions)
    with pytest.raises(StoppedError, match="another process"):
        answer(behind, questions, "bob")
    answer(again(gate), questions, "bob")
    assert again(gate).status()["answers"] == 108


@pytest.mark.slow
def test_every_row_may_be_labelled(tmp_path: Path) -> None:
    gate = opened(tmp_path, seed_fraction=1.0)
    answer(gate, gate.next())
    assert len(gate.next().row_ids) == 0 and gate.status()["stopped_by"] == "exhausted"


def test_a_class_that_nobody_saw_yet_is_no_obstacle(tmp_path: Path) -> None:
    gate = opened(tmp_path)
    with gate.hosted():
        for _ in range(3):
            rows = gate.next().row_ids
            gate.submit(Answers(rows, np.full(len(rows), 2), "ann"))
    assert gate.status()["labels"] == 3 * 54 and gate.pool.classes == CLASSES


def test_commands(coevo_ray: Command, tmp_path: Path) -> None:
    inputs(tmp_path)
    places = ("--pool", str(tmp_path / "pool"), "--targets", str(tmp_path / "targets"))
    gate = ("--gate", str(tmp_path / "gate"))
    result = coevo_ray("gate", "open", *places, "--out", gate[1], "--classes", ",".join(NAMES), "--max-rounds", "2")
    assert result.returncode == 0, result.stderr
    for round_ in range(2):
        told = coevo_ray("gate", "next", *gate, "--json")
        assert json.loads(told.stdout)["round"] == round_
        assert ("gate: learned from" in told.stderr) == (round_ > 0)
        taken = coevo_ray("gate", "submit", *gate, "--json")  # the label column answers
        assert json.loads(taken.stdout)["labels"] == json.loads(told.stdout)["requested"]
    status = json.loads(coevo_ray("gate", "status", *gate, "--json").stdout)
    assert status["stopped_by"] == "max_rounds" and status["classes"] == list(NAMES)
    result = coevo_ray("gate", "export", *gate, "--out", str(tmp_path / "labels"), "--pseudo-labels", "0.9", "--json")
    assert json.loads(result.stdout)["labels"] == status["labels"]
    (tmp_path / "ann.csv").write_text("row_id,label\n1,ant\n2,elephant\n")
    result = coevo_ray("gate", "submit", *gate, "--file", str(tmp_path / "ann.csv"), "--json")
    assert result.returncode == 3 and json.loads(result.stdout)["answers"] == 1
    assert "line 3" in result.stderr
    result = coevo_ray("gate", "submit", *gate, "--file", str(tmp_path / "ann.csv"))
    assert re.search(r"^problems +1 *$", result.stdout, re.MULTILINE), result.stdout
    assert "elephant" not in result.stdout and "elephant" in result.stderr
    told = json.loads(coevo_ray("gate", "set", *gate, "--max-rounds", "5", "--json").stdout)
    assert told["changed"]["max_rounds"][1] == 5 and told["stopped_by"] is None
    for arguments, message in (
        (("gate", "set", *gate), "gate set of nothing"),
        (("gate", "open", *places, "--out", gate[1], "--classes", "a,b,c,d"), "classes"),
        (("gate", "--out", "x", "status", *gate), "put the options after it"),
        (("gate", "--out", "x"), "without --pool, --targets"),
        (("gate", "next", *gate, "--out", "requests.txt"), "name a .csv or .parquet"),
        (("gate", "open", *places, "--out", gate[1], "--url", "http://x"), "without an annotator"),
        (("gate", "open", *places, "--out", "x", "--annotator", "paper"), "give one of label_column, file_drop, label"),
        (("gate", "open", *places, "--out", "x", "--annotator", "file_drop"), "without --folder"),
        (("gate", "export", *gate, "--out", str(tmp_path / "pool")), "holds something else: pool"),
    ):
        result = coevo_ray(*arguments)
        assert result.returncode == 2 and message in result.stderr, result.stderr


@pytest.mark.slow
def test_people_answer_a_rounds_file_bit_by_bit(coevo_ray: Command, tmp_path: Path) -> None:
    """In place, as a spreadsheet does, and with slips."""
    inputs(tmp_path)
    places = ("--pool", str(tmp_path / "pool"), "--targets", str(tmp_path / "targets"), "--out", str(tmp_path / "gate"))
    all_rounds = ("gate", *places, "--annotator", "file_drop", "--folder", str(tmp_path / "desk"), "--max-rounds", "1")
    gate = ("--gate", str(tmp_path / "gate"))
    assert coevo_ray(*all_rounds).returncode == 4
    file = tmp_path / "desk" / "requests" / "round-0000.csv"
    asked = list(csv.DictReader(file.read_text().splitlines()))

    def save(first: int, **slips: str) -> None:
        done = [{**row, "label": str(truth()[int(row["row_id"])]) if i < first else ""} for i, row in enumerate(asked)]
        done[0] |= slips
        with file.open("w", newline="") as out:
            writer = csv.DictWriter(out, list(done[0]))
            writer.writeheader()
            writer.writerows(done)

    save(len(asked) // 2, row_id="999999")
    result = coevo_ray(*all_rounds)
    assert result.returncode == 4 and "line 2: row_id '999999' is not in the pool" in result.stderr, result.stderr
    waiting = len(asked) - len(asked) // 2 + 1
    told = json.loads(coevo_ray("gate", "next", *gate, "--json").stdout)
    assert (told["requested"], told["sent"], told["where"]) == (waiting, 0, str(tmp_path / "desk"))
    save(len(asked) - 1)
    taken = json.loads(coevo_ray("gate", "submit", *gate, "--json").stdout)
    assert (taken["labels"], taken["outstanding"]) == (waiting - 1, 1)
    told = coevo_ray("gate", "next", *gate, "--json")
    assert json.loads(told.stdout)["blocking"] == [asked[-1]["key"]]
    assert f"waits for 1 of its {len(asked)} rows: {asked[-1]['key']}; " in told.stderr and "--set-aside" in told.stderr
    result = coevo_ray(*all_rounds)
    assert result.returncode == 4 and "gate next --set-aside" in result.stderr
    # Nobody knows the last one: the gate does without it, and stops as it was told to.
    told = coevo_ray("gate", "next", *gate, "--set-aside", "--json")
    assert json.loads(told.stdout)["stopped_by"] == "max_rounds" and "1 row without a label" in told.stderr
    assert coevo_ray("gate", "next", *gate, "--set-aside").returncode == 0
    result = coevo_ray(*all_rounds, "--json")
    assert result.returncode == 0 and json.loads(result.stdout)["labels"] == len(asked) - 1, result.stderr


class Killed(BaseException):
    """The process dies here."""


def steps_with_kills(folder: Path, kill_at: int | None, before: bool, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two rounds in plain processes; at the n-th write one of them dies, and the command is given again."""
    writes = 0
    with monkeypatch.context() as patch:
        for name in ("write_bytes", "create_bytes", "delete_file"):
            real = getattr(Location, name)

            def dying(place: Location, *parts: Any, real: Any = real) -> Any:
                nonlocal writes
                writes += 1
                if writes == kill_at and before:
                    raise Killed
                result = real(place, *parts)
                if writes == kill_at:
                    raise Killed
                return result

            patch.setattr(Location, name, dying)

        def command(step: Any) -> Any:
            for _ in range(2):  # once it dies, then it is given again
                try:
                    return step(GateSession(Location.parse(str(folder / "gate"))))
                except Killed:
                    pass
            raise AssertionError("it died twice")

        command(lambda gate: gate.next())
        for round_ in range(2):
            rows = command(lambda gate: gate.service.questions())["row_ids"]
            for part, who in ((rows[::2], "ann"), (rows, "bob"), (rows[::3], "cay")):
                wrong = (truth()[part] + (who == "cay")) % CLASSES
                command(lambda gate, part=part, wrong=wrong, who=who: gate.submit(Answers(part, wrong, who)))
            p = np.random.default_rng(round_).dirichlet(np.ones(CLASSES), size=ROWS).astype(np.float32)
            known = np.setdiff1d(np.arange(ROWS), [*HELD, *REJECTED])
            command(lambda gate, p=p, known=known: gate.next([(known, p[known])]))
        command(lambda gate: export_labels(gate, str(folder / "labels")))
    gate = GateSession(Location.parse(str(folder / "gate")))
    columns = ["row_id", "label", "annotator", "round", "votes", "annotators"]
    exported = RowTable(Location.parse(str(folder / "labels")), "labels").scan(columns)
    said = {name: values for name, values in gate.service.answers().items() if name != "time"}
    return writes, exported.to_pylist(), gate.service.questions(), said


@pytest.mark.slow
def test_killed_at_any_write_nothing_is_lost_or_counted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path / "start")
    copies = 0

    def start() -> Path:
        nonlocal copies
        copies += 1
        folder = tmp_path / f"copy{copies}"
        shutil.copytree(tmp_path / "start" / "gate", folder / "gate")
        return folder

    writes, *expected = steps_with_kills(start(), None, True, monkeypatch)
    assert writes > 10
    for kill_at in range(1, writes + 1):  # a minute under load
        for before in (True, False):
            _, *found = steps_with_kills(start(), kill_at, before, monkeypatch)
            np.testing.assert_equal(found, expected, err_msg=f"killed {'before' if before else 'after'} {kill_at}")


@pytest.mark.slow
def test_killed_commands_go_on(tmp_path: Path) -> None:
    """The same with real processes and SIGKILL, while they learn; of those that were killed nothing is left."""
    inputs(tmp_path)
    places = ("--pool", str(tmp_path / "pool"), "--targets", str(tmp_path / "targets"))
    gate = ("--gate", str(tmp_path / "gate"))

    def command(*arguments: str) -> Marked:
        return Marked([sys.executable, "-m", "coevo_ray", "gate", *arguments], tmp_path)

    assert command("open", *places, "--out", gate[1], "--max-rounds", "3").wait() == 0
    delays, all_killed = iter((2.0, 4.0, 6.0, 8.0, 10.0, 14.0)), []
    while GateSession(Location.parse(gate[1])).status()["stopped_by"] is None:
        for name in ("next", "submit"):
            killed = command(name, *gate)
            time.sleep(next(delays, 0.0))
            killed.kill()
            killed.assert_gone(killed=True)
            all_killed.append(killed)
            again = command(name, *gate, "--json")
            assert again.wait() == 0, again.err.read_text()
    with_kills = GateSession(Location.parse(gate[1]))
    pool, targets = inputs(tmp_path)
    labels = gate_rounds({"max_rounds": 3}, pool, targets, str(tmp_path / "loop"))
    table = export_labels(with_kills, str(tmp_path / "labels"))
    columns = ["row_id", "label", "round"]
    assert table.scan(columns).equals(labels.scan(columns))
    for killed in all_killed:
        killed.assert_agents_gone()
