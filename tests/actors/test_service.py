"""One contract suite for the plain service, the actor, and both after a crash."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coevo_ray.actors.actor import SelectionHandle, Services, StoredPart, start_selection
from coevo_ray.actors.gate_service import GateService
from coevo_ray.actors.ledger_service import LedgerService
from coevo_ray.actors.protocols import GateCalls, LedgerCalls
from coevo_ray.core.feed.epoch_plan import plan_epoch
from coevo_ray.core.gate.config import GateConfig, OfferConfig
from coevo_ray.core.gate.gate import AnnotationGate
from coevo_ray.core.gate.online import OnlineGate
from coevo_ray.core.graph.graph import build_graph
from coevo_ray.core.graph.growing import GrowingIndex
from coevo_ray.core.graph.unit_rows import unit_rows
from coevo_ray.core.selection.ledger import SelectionLedger
from coevo_ray.core.selection.policies import make_policy
from coevo_ray.errors import InputError, StoppedError
from coevo_ray.store.journal import Journal
from coevo_ray.store.location import Location
from coevo_ray.training.supervised.selected_rows import SelectedRows

ROWS, CLASSES = 60, 3
ROW_IDS = np.arange(ROWS, dtype=np.int64) * 3 + 5


class Make:
    """Builds the service where it is called; pickles into the actor."""

    def __init__(self, folder: str, policy: str = "rotation") -> None:
        self.folder, self.policy = folder, policy

    def __call__(self) -> Services:
        ledger = SelectionLedger(
            rows=ROWS, candidates=np.ones(ROWS, bool), policy=make_policy(self.policy), keep=0.3, epochs=40, seed=1
        )
        features = np.random.default_rng(0).normal(size=(ROWS, 8)).astype(np.float32)
        graph = build_graph(features, k=4)
        config = GateConfig(classes=CLASSES, round_size=7, seed=2, max_labels=20, validation_share=0.0)

        def online(gate: AnnotationGate) -> OnlineGate:
            return OnlineGate(gate, GrowingIndex(unit_rows(features), graph), None, OfferConfig(sure=0.6))

        return Services(
            LedgerService(Location(self.folder).child("ledger"), ledger),
            GateService(
                Location(self.folder).child("gate"),
                AnnotationGate(config, graph, np.ones(ROWS, bool)),
                ROW_IDS,
                online,
            ),
        )


class Subject:
    """What is under test, and how it is crashed: a new instance over the same journal, or a killed actor process."""

    def __init__(self, kind: str, folder: Path, policy: str = "rotation") -> None:
        self.kind, self.make = kind, Make(str(folder / "journal"), policy)
        run = f"{folder.parent.name}-{folder.name}"
        self.service: Any = self.make() if kind == "plain" else start_selection(run, self.make)

    def crash(self) -> None:
        if self.kind == "plain":
            self.service = self.make()
        else:
            ray.kill(self.service.actor, no_restart=False)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Plain and as an actor, without crashes and with; actors start in seconds, so one test kills them every day."""
    if "subject" not in metafunc.fixturenames:
        return
    if "crash" not in metafunc.fixturenames:
        metafunc.parametrize("subject", ["plain", "actor"], indirect=True)
        return
    daily = metafunc.function.__name__ == "test_the_gate_goes_on_alike_after_a_crash"
    cases = [
        pytest.param("plain", False, id="plain-steady"),
        pytest.param("plain", True, id="plain-crashing"),
        pytest.param("actor", False, id="actor-steady"),
        pytest.param("actor", True, id="actor-crashing", marks=() if daily else pytest.mark.slow),
    ]
    metafunc.parametrize(("subject", "crash"), cases, indirect=True)


@pytest.fixture
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    if request.param == "actor":
        request.getfixturevalue("ray_local")
    made = Subject(request.param, tmp_path, "infobatch" if "pruning" in request.fixturenames else "rotation")
    yield made
    if isinstance(made.service, SelectionHandle):
        made.service.stop()


@pytest.fixture
def pruning() -> None:
    """Gives the subject a policy with weights: InfoBatch."""


@pytest.fixture
def crash(request: pytest.FixtureRequest, subject: Subject) -> Callable[[], None]:
    """Called between steps: crashes the subject in one of the two runs of a test."""
    return subject.crash if request.param else lambda: None


def predictions(seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).dirichlet(np.ones(CLASSES), size=ROWS).astype(np.float32)


def arriving(seed: int, rows: int = 9) -> tuple[Any, Any, Any]:
    """row_ids, features and predictions of rows that come later, in an order of their own."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(rows, 8)).astype(np.float16)
    features[0, 0] = np.nan
    row_ids = random.permutation(np.arange(1000 * seed, 1000 * seed + rows)) + 500
    p = random.dirichlet(np.ones(CLASSES), size=rows).astype(np.float32)
    p[1:4] = 1 / CLASSES  # nobody could be less sure
    return row_ids, features, p


@pytest.mark.slow
def test_select_is_the_same_until_and_after_commit(subject: Subject, crash: Callable[[], None]) -> None:
    first = subject.service.ledger.select(0).row_ids
    crash()
    assert np.array_equal(subject.service.ledger.select(0).row_ids, first)
    assert subject.service.ledger.commit(0) is True
    crash()
    assert subject.service.ledger.commit(0) is False
    assert np.array_equal(subject.service.ledger.select(0).row_ids, first)
    assert subject.service.ledger.usage().sum() == len(first)


@pytest.mark.slow
@pytest.mark.usefixtures("pruning")
def test_workers_read_a_part_of_an_epoch_each_and_see_its_batches(subject: Subject, crash: Callable[[], None]) -> None:
    ledger = subject.service.ledger
    for epoch in range(3):
        rows = ledger.select(epoch).row_ids
        ledger.report_losses(epoch, rows, 2 + np.sin(rows))
        ledger.commit(epoch)
    order: dict[str, Any] = {"seed": 4, "global_batch": 7, "block_starts": np.arange(0, ROWS, 6), "window_blocks": 2}
    selected = SelectedRows(ledger, 3)
    crash()
    ranks = [list(plan_epoch(selected, **order).rank_batches(rank, 3)) for rank in range(3)]
    subset = ledger.select(3)
    assert subset.weights is not None and len(np.unique(subset.weights)) > 1
    assert len(selected) == len(subset) == sum((batch.weights > 0).sum() for rank in ranks for batch in rank)
    for rank, batches in enumerate(ranks):
        expected = plan_epoch(subset, **order).rank_batches(rank, 3)
        for found, wanted in zip(batches, expected, strict=True):
            assert np.array_equal(found.row_ids, wanted.row_ids) and np.array_equal(found.weights, wanted.weights)


@pytest.mark.slow
def test_usage_counts_each_epoch_once(subject: Subject, crash: Callable[[], None]) -> None:
    expected = np.zeros(ROWS, dtype=int)
    for epoch in range(20):  # over a snapshot and some records after it
        expected[subject.service.ledger.select(epoch).row_ids] += 1
        subject.service.ledger.commit(epoch)
        subject.service.ledger.commit(epoch)
    crash()
    assert np.array_equal(subject.service.ledger.usage(), expected)
    assert sum(count * rows for count, rows in subject.service.ledger.usage_histogram().items()) == expected.sum()
    assert np.array_equal(np.sort(subject.service.ledger.select(20).row_ids), subject.service.ledger.select(20).row_ids)


@pytest.mark.slow
def test_epochs_out_of_order_are_refused(subject: Subject) -> None:
    with pytest.raises(InputError, match="epoch 3"):
        subject.service.ledger.select(3)
    with pytest.raises(InputError, match="epoch 2"):
        subject.service.ledger.commit(2)


@pytest.mark.slow
def test_requests_stay_until_they_are_answered(subject: Subject, crash: Callable[[], None]) -> None:
    first = subject.service.gate.request(10)
    crash()
    assert np.array_equal(subject.service.gate.request(10), first)
    assert len(first) == 10
    assert set(first) <= set(ROW_IDS.tolist())
    labels = np.arange(10) % CLASSES
    subject.service.gate.submit(first[:6], labels[:6], "ann")
    crash()
    assert np.array_equal(subject.service.gate.request(10), first[6:])


@pytest.mark.slow
def test_labels_are_counted_once_and_keep_their_annotator(subject: Subject, crash: Callable[[], None]) -> None:
    first = subject.service.gate.request(10)
    labels = (np.arange(10) % CLASSES).astype(np.int64)
    assert subject.service.gate.submit(first, labels, "ann") == (10, 10, 0, 0)
    crash()
    assert subject.service.gate.submit(first, labels, "ann") == (0, 0, 0, 0)
    subject.service.gate.submit(first, labels, "bob")  # a second opinion on each
    assert subject.service.gate.gate_status()["answers"] == 20
    subject.service.gate.update_predictions((ROW_IDS, predictions(1)))
    second = subject.service.gate.request()
    assert len(second) == 7
    assert not set(second) & set(first)
    crash()
    assert np.array_equal(subject.service.gate.request(), second)
    subject.service.gate.submit(second, np.zeros(7, dtype=np.int64), "bob")
    crash()
    labelled = subject.service.gate.labelled()
    assert labelled["row_id"].tolist() == [*first.tolist(), *second.tolist()]
    assert labelled["label"].tolist() == [*labels.tolist(), *[0] * 7]
    assert labelled["round"].tolist() == [0] * 10 + [1] * 7
    assert [labelled["names"][i] for i in labelled["annotator"]] == ["ann"] * 10 + ["bob"] * 7
    assert subject.service.gate.gate_status()["labels"] == 17


def test_a_submission_tells_what_it_changed(tmp_path: Path) -> None:
    service: Any = Make(str(tmp_path / "journal"))()
    first = service.gate.request(3)
    assert service.gate.submit(first, np.array([0, 1, 2]), "ann") == (3, 3, 0, 0)
    assert service.gate.submit(first, np.array([0, 2, 2]), "bob") == (3, 0, 0, 0)
    assert service.gate.submit(first[1:], np.array([2, 0]), "cay") == (2, 0, 0, 1)
    assert service.gate.submit(first[1:], np.array([2, 0]), "cay") == (0, 0, 0, 0)
    assert service.gate.submit(first[1:2], np.array([1]), "bob") == (1, 0, 0, 1)


@pytest.mark.slow
def test_a_submission_made_again_tells_what_it_changed_at_first(subject: Subject, crash: Callable[[], None]) -> None:
    """Ray makes a call again whose answer was lost with the actor."""
    first = subject.service.gate.request(3)
    subject.service.gate.submit(first, np.array([0, 1, 2]), "ann", "one")
    said: tuple[Any, ...] = (first[1:], np.array([2, 2]), "bob", "two")
    assert subject.service.gate.submit(*said) == (2, 0, 0, 0)
    crash()
    assert subject.service.gate.submit(*said) == (2, 0, 0, 0)
    subject.service.gate.snapshot()
    crash()
    assert subject.service.gate.submit(*said) == (2, 0, 0, 0)
    assert subject.service.gate.submit(*said[:3], "three") == (0, 0, 0, 0)  # somebody who says the same again
    assert subject.service.gate.submit(*said[:3]) == (0, 0, 0, 0)
    assert subject.service.gate.gate_status()["answers"] == 5


@pytest.mark.slow
def test_wrong_answers_change_nothing(subject: Subject, crash: Callable[[], None]) -> None:
    first = subject.service.gate.request(5)
    for row_ids, labels in ((first[:1], [CLASSES]), (np.array([4]), [0]), (first[[0, 0]], [0, 1]), (first, [0])):
        with pytest.raises(InputError):
            subject.service.gate.submit(np.asarray(row_ids), np.asarray(labels), "ann")
    crash()
    assert len(subject.service.gate.labelled()["row_id"]) == 0
    assert np.array_equal(subject.service.gate.request(5), first)


@pytest.mark.slow
def test_annotators_who_differ_are_kept_and_resolved(subject: Subject, crash: Callable[[], None]) -> None:
    first = subject.service.gate.request(3)
    submit = subject.service.gate.submit if subject.kind == "actor" else lambda *a: subject.service.gate.submit(*a)
    submit(first, np.array([0, 1, 2]), "ann")
    crash()
    # What a call says was new is not looked at behind a crash: Ray asks again where the answer was lost.
    submit(first, np.array([0, 2, 2]), "bob")  # one says 1, one says 2: the first stays
    crash()
    assert subject.service.gate.gate_status()["disputed"] == 1
    assert subject.service.gate.labelled()["label"].tolist() == [0, 1, 2]
    submit(first[1:], np.array([2, 0]), "cay")  # two say 2 of the second row now
    crash()
    labelled = subject.service.gate.labelled()
    assert labelled["label"].tolist() == [0, 2, 2]
    assert [labelled["names"][i] for i in labelled["annotator"]] == ["ann", "bob", "ann"]
    assert labelled["votes"].tolist() == [2, 2, 2] and labelled["annotators"].tolist() == [2, 3, 3]
    submit(first[1:2], np.array([1]), "bob")  # bob takes it back
    crash()
    assert subject.service.gate.labelled()["label"].tolist() == [0, 1, 2]
    said = subject.service.gate.answers()
    assert len(said["row_id"]) == 3 + 3 + 2 + 1
    assert [
        (said["names"][a], int(v))
        for a, r, v in zip(said["annotator"], said["row_id"], said["label"], strict=True)
        if r == first[1]
    ] == [("ann", 1), ("bob", 2), ("cay", 2), ("bob", 1)]


@pytest.mark.slow
def test_a_round_is_closed_without_what_nobody_knows(subject: Subject, crash: Callable[[], None]) -> None:
    first = subject.service.gate.request(5)
    with pytest.raises(InputError, match="has a label"):
        subject.service.gate.set_aside(0)
    subject.service.gate.submit(first[:3], np.array([0, 1, 2]), "ann")
    crash()
    subject.service.gate.set_aside(0)
    crash()
    assert subject.service.gate.set_aside(0) == 0  # once is enough
    status = subject.service.gate.gate_status()
    assert (status["rounds"], status["outstanding"], status["set_aside"]) == (1, 0, 2)
    subject.service.gate.update_predictions((ROW_IDS, predictions(1)))
    crash()
    second = subject.service.gate.request()
    assert len(second) == 7 and not set(second) & set(first)
    assert subject.service.gate.set_aside(0) == 0 and subject.service.gate.gate_status()["outstanding"] == 7
    assert subject.service.gate.submit(first[3:], np.array([0, 0]), "bob", "late") == (2, 2, 2, 0)
    crash()
    assert subject.service.gate.gate_status()["set_aside"] == 0


@pytest.mark.slow
def test_arriving_rows_are_decided_once_and_asked_about(subject: Subject, crash: Callable[[], None]) -> None:
    first = subject.service.gate.request(5)
    subject.service.gate.submit(first, np.arange(5) % CLASSES, "ann")
    row_ids, features, p = arriving(1)
    with pytest.raises(InputError, match="no predictions"):
        subject.service.gate.offer(row_ids, features, p)
    subject.service.gate.update_predictions((ROW_IDS, predictions(0)))
    decided = subject.service.gate.offer(row_ids, features, p)
    crash()
    again = subject.service.gate.offer(row_ids[::-1].copy(), features[::-1], np.ones_like(p) / CLASSES)
    for name, values in decided.items():  # what was said first stands, whatever comes with the row now
        assert np.array_equal(again[name][::-1], values)
    asked = row_ids[decided["action"] == 0]
    assert 0 < len(asked) < 8 and set(subject.service.gate.request().tolist()) == set(asked.tolist())
    crash()
    with pytest.raises(InputError, match=rf"labels outside 0.*first rows \[{asked[0]}\]"):  # by name, not by position
        subject.service.gate.submit(asked[:1], np.array([CLASSES]), "ann")
    subject.service.gate.submit(asked, np.zeros(len(asked), dtype=np.int64), "ann")
    status = subject.service.gate.gate_status()
    assert (status["rows"], status["offered"], status["labels"]) == (ROWS + 8, 9, 5 + len(asked))
    for wrong, message in ((ROW_IDS[:9], "gate's already"), (np.repeat(row_ids[:1], 9), "not distinct integers")):
        with pytest.raises(InputError, match=message):
            subject.service.gate.offer(wrong, features, p)
    with pytest.raises(InputError, match="have no prediction"):
        subject.service.gate.update_predictions((ROW_IDS, predictions(0)))  # those of the new rows are missing
    assert subject.service.gate.fresh_ids(2).tolist() == [max(row_ids) + 1, max(row_ids) + 2]


def test_predictions_are_taken_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    make = Make(str(tmp_path / "journal"))
    service: Any = make()
    first = service.gate.request(5)
    service.gate.submit(first, np.arange(5) % CLASSES, "ann")
    service.gate.update_predictions((ROW_IDS, predictions(0)))
    before, bad = service.gate.gate.state(), predictions(1)
    bad[7, 2] += 0.5
    with pytest.raises(InputError, match="no distribution"):
        service.gate.update_predictions((ROW_IDS, bad))
    np.testing.assert_equal(service.gate.gate.state(), before)
    other: Any = make()
    other.gate.submit(np.setdiff1d(ROW_IDS, first)[:1], np.array([0]), "bob")  # a process that went ahead
    with pytest.raises(StoppedError):
        service.gate.update_predictions((ROW_IDS, predictions(1)))
    np.testing.assert_equal(service.gate.gate.state(), before)
    again: Any = make()
    np.testing.assert_equal(again.gate.gate.state(), other.gate.gate.state())


def test_predictions_in_the_object_store_are_those_that_are_sent(
    subject: Subject, tmp_path: Path, ray_local: None
) -> None:
    twin: Any = Make(str(tmp_path / "twin"))()
    first, p = twin.gate.request(5), predictions(3)
    for service in (subject.service, twin):
        service.gate.request(5)
        service.gate.submit(first, np.arange(5) % CLASSES, "ann")
    twin.gate.update_predictions((ROW_IDS, p))
    parts = [
        StoredPart(((0, CLASSES),), ray.put(ROW_IDS[some]), (ray.put(p[some]),))
        for some in (slice(0, 40), slice(40, ROWS))
    ]
    if isinstance(subject.service, SelectionHandle):
        subject.service.update_predictions(parts)
    else:
        subject.service.gate.update_predictions(*parts)
    assert np.array_equal(subject.service.gate.request(), twin.gate.request())
    np.testing.assert_equal(subject.service.gate.gains(), twin.gate.gains())


@pytest.mark.slow
def test_labels_that_nobody_asked_for_count_and_are_no_sample(subject: Subject, crash: Callable[[], None]) -> None:
    first = subject.service.gate.request(4)
    others = np.setdiff1d(ROW_IDS, first)[:2]
    taken = subject.service.gate.submit(np.concatenate([first, others]), np.zeros(6, dtype=np.int64), "ann")
    assert taken == (6, 6, 2, 0)
    crash()
    labelled = subject.service.gate.labelled()
    assert dict(zip(labelled["row_id"].tolist(), labelled["round"].tolist(), strict=True)) == {
        **dict.fromkeys(first.tolist(), 0),
        **dict.fromkeys(others.tolist(), -1),
    }
    assert subject.service.gate.gate_status()["rounds"] == 1
    subject.service.gate.update_predictions((ROW_IDS, predictions(0)))
    assert not set(subject.service.gate.request()) & set(labelled["row_id"].tolist())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.sampled_from(["ask", "predict", "part", "all", "again", "other", "unasked", "offer", "snapshot", "crash"]),
        max_size=25,
    )
)
def test_a_gate_restarted_after_any_step_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    """Each step is acknowledged, then the process may die: nothing that was acknowledged is lost or counted twice."""
    make = Make(str(tmp_path_factory.mktemp("any") / "journal"))
    service: Any = make()
    last: Any = None
    for number, step in enumerate(steps):
        random = np.random.default_rng(number)
        asked = service.gate.questions()["row_ids"]
        if step == "ask" and (service.gate.gate_status()["predicted"] or service.gate.gate_status()["rounds"] == 0):
            service.gate.request(*([] if service.gate.gate_status()["predicted"] else [5]))
        elif step == "predict":
            offered = service.gate.offered()["row_id"]
            service.gate.update_predictions(
                (ROW_IDS, predictions(number)), (offered, predictions(number + 1)[np.arange(len(offered)) % ROWS])
            )
        elif step == "offer" and service.gate.gate_status()["predicted"]:
            came = arriving(number + 1)
            decided = service.gate.offer(*came)
            np.testing.assert_equal(service.gate.offer(*came), decided)  # nothing counts twice
            assert len(decided["action"]) == 9 and service.gate.gate_status()["rows"] == ROWS + len(
                service.gate.offered()["row_id"]
            )
        elif step == "snapshot":
            service.gate.snapshot()
        elif step in ("part", "all", "other", "unasked"):
            rows = {
                "part": asked[::2],
                "all": asked,
                "other": service.gate.labelled()["row_id"],
                "unasked": ROW_IDS[::17],
            }[step]
            last = (rows, random.integers(0, CLASSES, len(rows)), f"who{number % 3}")
            service.gate.submit(*last)
        elif step == "again" and last is not None:
            service.gate.submit(*last)
            assert service.gate.submit(*last) == (0, 0, 0, 0)
        again: Any = make()
        for ask in ("questions", "labelled", "answers", "offered"):
            np.testing.assert_equal(getattr(again.gate, ask)(), getattr(service.gate, ask)())
        timed = {"offer_ms": None}  # how long offers took is not kept
        np.testing.assert_equal({**again.gate.gate_status(), **timed}, {**service.gate.gate_status(), **timed})
        if step == "crash":
            service = again
    labelled = service.gate.labelled()["row_id"]
    assert len(set(labelled.tolist())) == len(labelled)


@pytest.mark.slow
def test_the_gate_goes_on_alike_after_a_crash(subject: Subject, crash: Callable[[], None], tmp_path: Path) -> None:
    def rounds(service: Any, between: Callable[[], None]) -> list[list[int]]:
        asked = [service.gate.request(6)]
        service.gate.submit(asked[0], (asked[0] % CLASSES).astype(np.int64), "ann")
        for round_ in range(10):
            between()
            service.gate.update_predictions((ROW_IDS, predictions(round_)))
            row_ids = service.gate.request()
            if len(row_ids) == 0:
                break
            asked.append(row_ids)
            between()
            service.gate.submit(row_ids, (row_ids % CLASSES).astype(np.int64), "ann")
        return [a.tolist() for a in asked]

    twin: Any = Make(str(tmp_path / "twin"))()
    service = subject.service if subject.kind == "actor" else _Following(subject)
    assert rounds(service, crash) == rounds(twin, lambda: None)
    assert twin.gate.gate_status()["stopped_by"] == "max_labels"


class _Following:
    """Always the current plain service, also after a crash replaced it."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def __getattr__(self, name: str) -> Any:
        return getattr(self.subject.service, name)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.sampled_from(["select", "commit", "crash", "snapshot"]), max_size=30))
def test_any_steps_equal_a_run_without_crashes(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    make = Make(str(tmp_path_factory.mktemp("any") / "journal"))
    service: Any = make()
    twin: Any = Make(str(tmp_path_factory.mktemp("twin") / "journal"))()
    epoch = 0
    for step in steps:
        if step == "crash":
            service = make()
        elif step == "snapshot":
            service.ledger.snapshot()
        elif step == "select":
            assert np.array_equal(service.ledger.select(epoch).row_ids, twin.ledger.select(epoch).row_ids)
        else:
            service.ledger.select(epoch)
            twin.ledger.select(epoch)
            assert service.ledger.commit(epoch) == twin.ledger.commit(epoch)
            epoch += 1
    assert np.array_equal(service.ledger.usage(), twin.ledger.usage())


def test_what_cannot_be_journalled_is_not_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service: Any = Make(str(tmp_path / "journal"))()
    service.ledger.select(0)

    def refuse(*_: object, **__: object) -> None:
        raise StoppedError("the store refused", "mend it")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", refuse)
        with pytest.raises(StoppedError):
            service.ledger.commit(0)
    assert service.ledger.usage().sum() == 0
    assert service.ledger.commit(0) is True


def test_a_request_that_cannot_be_made_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Make(str(tmp_path / "journal"))
    service: Any = make()
    with pytest.raises(InputError):
        service.gate.request()  # there are no predictions

    def refuse(*_: object, **__: object) -> None:
        raise StoppedError("the store refused", "mend it")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", refuse)
        with pytest.raises(StoppedError):
            service.gate.request(5)
    again: Any = make()
    assert again.gate.gate_status()["labels"] == 0  # what the journal holds can be replayed
    first = service.gate.request(5)
    again = make()
    assert np.array_equal(again.gate.request(5), first)


def test_another_runs_journal_is_refused(tmp_path: Path) -> None:
    make = Make(str(tmp_path / "journal"))
    service: Any = make()
    service.ledger.select(0)
    service.ledger.commit(0)
    service.ledger.snapshot()
    other = SelectionLedger(
        rows=ROWS, candidates=np.ones(ROWS, bool), policy=make_policy("random"), keep=0.3, epochs=40, seed=1
    )
    with pytest.raises(InputError, match="policy"):
        LedgerService(Location(make.folder).child("ledger"), other)


def no_services() -> Services:
    return Services()


@pytest.mark.slow
def test_services_that_are_not_there_are_named(ray_local: None, tmp_path: Path) -> None:
    handle = start_selection(f"none-{tmp_path.name}", no_services)
    with pytest.raises(InputError, match="hosts no ledger"):
        handle.ledger.select(0)
    with pytest.raises(InputError, match="hosts no gate"):
        handle.gate.gate_status()
    handle.stop()


@pytest.mark.parametrize(("protocol", "service"), [(LedgerCalls, LedgerService), (GateCalls, GateService)])
def test_a_service_is_what_its_protocol_says(protocol: type, service: type) -> None:
    """What mypy checks of the plain service, for the actor too: names, parameters and defaults."""

    def calls(kind: type) -> dict[str, inspect.Signature]:
        return {name: inspect.signature(f) for name, f in vars(kind).items() if callable(f) and name[0] != "_"}

    assert calls(protocol) == calls(service)


@pytest.mark.slow
def test_calls_take_keywords_and_only_those_of_the_protocol(subject: Subject) -> None:
    assert len(subject.service.gate.request(rows=4)) == 4
    assert subject.service.ledger.commit(epoch=subject.service.ledger.select(epoch=0).epoch) is True
    if subject.kind == "actor":
        with pytest.raises(AttributeError, match="no method 'restart'"):
            subject.service.gate.restart()
        again = pickle.loads(pickle.dumps(subject.service))
        assert again.gate.gate_status()["outstanding"] == 4
