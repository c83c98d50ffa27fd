"""A service restarted from any prefix of its journal has what was acknowledged until then."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ray.exceptions import ActorDiedError, ActorUnavailableError

from coevo_ray.actors import ledger_service as service_module
from coevo_ray.actors.actor import SelectionHandle, Services, start_selection
from coevo_ray.actors.ledger_service import LedgerService
from coevo_ray.core.selection.ledger import SelectionLedger
from coevo_ray.core.selection.policies import make_policy
from coevo_ray.errors import InputError, StoppedError
from coevo_ray.store.journal import Journal
from coevo_ray.store.location import Location

ROWS = 60
STEPS = ["select", "commit", "report", "repeat", "late", "scores", "snapshot", "crash"]


class Make:
    """Builds the service where it is called; pickles into the actor."""

    def __init__(self, folder: str, policy: str = "scored", options: dict[str, Any] | None = None) -> None:
        self.folder, self.policy, self.options = folder, policy, options or {}

    def __call__(self, seed: int = 0) -> LedgerService:
        ledger = SelectionLedger(
            rows=ROWS,
            candidates=np.arange(ROWS) % 7 != 0,
            policy=make_policy(self.policy, **self.options),
            keep=0.3,
            epochs=40,
            seed=1,
        )
        random = np.random.default_rng(seed)
        ledger.set_scores(random.random(ROWS), random.random(ROWS), random.integers(0, 5, ROWS))
        return LedgerService(Location(self.folder), ledger)


class Hosted:
    """Builds the same service for an actor."""

    def __init__(self, folder: str, policy: str) -> None:
        self.make = Make(folder, policy)

    def __call__(self) -> Services:
        return Services(ledger=self.make())


def state(service: LedgerService) -> dict[str, Any]:
    """All that a ledger knows."""
    fields, arrays = service.ledger.state(scores=True)
    return {**fields, **{name: array.tobytes() for name, array in arrays.items()}}


def files(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).glob("*")}


def restart(make: Make, journal: dict[str, bytes], folder: Path) -> dict[str, Any]:
    folder.mkdir()
    for name, content in journal.items():
        (folder / name).write_bytes(content)
    return state(Make(str(folder), make.policy, make.options)())


def do(service: LedgerService, step: str, number: int) -> None:
    """One step; those that the state does not allow are left out."""
    ledger = service.ledger
    epoch = ledger.committed
    is_open = ledger.selected(epoch) is not None
    random = np.random.default_rng(number)
    if step == "select":
        service.select(epoch)
    elif step == "commit" and is_open:
        assert service.commit(epoch) and not service.commit(epoch)
    elif step in ("report", "repeat") and is_open:
        rows = random.permutation(service.select(epoch).row_ids)[:5]
        for _ in range(1 + (step == "repeat")):
            service.report_losses(epoch, rows, random.random(5), random.random(5))
    elif step == "late" and epoch:
        assert service.report_losses(epoch - 1, np.arange(4), np.full(4, 9.0)) == 0
    elif step == "scores":
        service.set_scores(random.permutation(ROWS)[:9], random.random(9), random.random(9), np.arange(9))
    elif step == "snapshot":
        service.snapshot()


@pytest.mark.parametrize(
    ("policy", "options"), [("scored", {}), ("entropy", {}), ("infobatch", {"least": 0.5}), ("repb", {})]
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.sampled_from(STEPS), max_size=25))
@example(steps=["scores", "snapshot", "crash", "snapshot"])
def test_every_prefix_of_the_journal_holds_what_was_acknowledged(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
    options: dict[str, Any],
    steps: list[str],
) -> None:
    monkeypatch.setattr(service_module, "_SNAPSHOT_EVERY", 3)
    monkeypatch.setattr("coevo_ray.store.journal._SMALL_BYTES", 4000)
    root = tmp_path_factory.mktemp("journal")
    make = Make(str(root / "journal"), policy, options)
    service = make()
    before: dict[str, bytes] = {}
    for number, step in enumerate(steps):
        if step == "crash":
            service = make()
        else:
            do(service, step, number)
        after = files(make.folder)
        assert restart(make, after, root / f"cut{number}") == state(service)
        # Killed after a record or a snapshot was written and before old ones were deleted.
        assert restart(make, {**before, **after}, root / f"left{number}") == state(service)
        before = after


def test_an_open_epoch_stays_when_a_restart_has_other_scores(tmp_path: Path) -> None:
    make = Make(str(tmp_path / "journal"))
    first = make().select(0).row_ids
    again = make(seed=5)
    assert np.array_equal(again.select(0).row_ids, first)
    assert not np.array_equal(Make(str(tmp_path / "fresh"))(seed=5).select(0).row_ids, first)


def test_weights_come_back_with_their_subset(tmp_path: Path) -> None:
    make = Make(str(tmp_path / "journal"), "infobatch", {"least": 0.5})
    service = make()
    for epoch in range(5):
        rows = service.select(epoch).row_ids
        service.report_losses(epoch, rows, np.sin(rows))
        service.commit(epoch)
    subset = service.select(5)
    assert subset.weights is not None and subset.weights.max() > 1
    again = make().select(5)
    assert again.weights is not None
    assert np.array_equal(again.row_ids, subset.row_ids) and np.array_equal(again.weights, subset.weights)


def refuse(*_: object, **__: object) -> None:
    raise StoppedError("the store refused", "mend it")


@pytest.mark.parametrize("step", ["select", "report", "scores", "commit"])
def test_what_cannot_be_journalled_has_not_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    service = Make(str(tmp_path / "journal"), "entropy")()
    if step != "select":
        service.select(0)
    before = state(service)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", refuse)
        with pytest.raises(StoppedError):
            do(service, step, 0)
    assert state(service) == before
    do(service, step, 0)
    assert (state(service) != before) == (step != "scores")  # policy entropy keeps no scores


def test_a_journal_of_other_candidates_is_refused(tmp_path: Path) -> None:
    make = Make(str(tmp_path / "journal"))
    make().select(0)
    other = SelectionLedger(
        rows=ROWS, candidates=np.arange(ROWS) % 7 == 0, policy=make_policy("rotation"), keep=0.3, epochs=40, seed=1
    )
    with pytest.raises(InputError, match="not of this run's candidates"):
        LedgerService(Location(make.folder), other)


def test_what_is_durable_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coevo_ray.store.journal._SMALL_BYTES", 4000)
    service = Make(str(tmp_path / "journal"), "entropy")()
    largest = 0
    for epoch in range(40):
        for row in service.select(epoch).row_ids:
            service.report_losses(epoch, np.array([row]), np.ones(1), np.ones(1))
        service.commit(epoch)
        largest = max(largest, sum(map(len, files(str(tmp_path / "journal")).values())))
    assert largest < 8000
    assert service.usage().sum() == 40 * 15


@pytest.fixture
def selection(ray_local: None, tmp_path: Path) -> Any:
    handle = start_selection(f"durability-{tmp_path.name}", Hosted(str(tmp_path / "journal"), "entropy"))
    yield handle
    handle.stop()


def kill(selection: SelectionHandle) -> None:
    """As the kernel does when memory runs out: the process has no time to do anything."""
    with pytest.raises((ActorDiedError, ActorUnavailableError)):
        ray.get(selection.actor.__ray_call__.options(max_task_retries=0).remote(_die))


def _die(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_actor_has_lost_nothing(selection: SelectionHandle) -> None:
    first = selection.ledger.select(0)
    rows = first.row_ids
    assert selection.ledger.report_losses(0, rows[:6], np.ones(6), np.ones(6)) == 6
    kill(selection)
    assert np.array_equal(selection.ledger.select(0).row_ids, rows)
    assert selection.ledger.report_losses(0, rows, np.zeros(len(rows)), np.zeros(len(rows))) == len(rows) - 6
    assert selection.ledger.commit(0) is True
    kill(selection)
    assert selection.ledger.commit(0) is False
    assert selection.ledger.scores(rows)["loss"].tolist() == [1.0] * 6 + [0.0] * (len(rows) - 6)
    assert selection.ledger.usage().sum() == len(rows)


def test_all_cpus_are_left_to_the_work(selection: SelectionHandle) -> None:
    """A training whose workers take every CPU would wait for ever for what an actor holds."""
    assert len(selection.ledger.select(0).row_ids)

    @ray.remote
    def work() -> int:
        return 1

    cpus = ray.cluster_resources()["CPU"]  # type: ignore[no-untyped-call]  # Ray leaves it untyped
    reference = work.options(num_cpus=cpus).remote()
    assert ray.get(reference, timeout=60) == 1
