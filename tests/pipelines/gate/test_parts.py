"""A gate whose graph lies in several actors asks for the rows that it asks for with the graph in one process."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.memory import family
from coevo_ray.actors import graph_actors
from coevo_ray.annotators.base import Answers, Questions
from coevo_ray.core.graph.types import GraphPart
from coevo_ray.errors import StoppedError, UsageError
from coevo_ray.pipelines.gate.session import GateSession
from coevo_ray.pipelines.graph import build_graph_artifact
from coevo_ray.store.graph_files import GraphFiles
from coevo_ray.store.location import Location
from tests.pipelines.gate.helpers import CLASSES, DIM, NAMES, inputs, truth

pytestmark = pytest.mark.usefixtures("ray_local")
SETTINGS: dict[str, Any] = {"classes": NAMES, "seed_fraction": 0.1, "round_fraction": 0.1, "relative_gain": 0.0}


def opened(folder: Path, actors: int, **settings: Any) -> GateSession:
    """A gate over a graph of nine files."""
    pool, targets = inputs(folder)
    place = Location.parse(str(folder / "gate" / "graph"))
    build_graph_artifact(pool, targets, place, neighbours=16, seed=0, cpus=0.5, centre=True, part_rows=1)
    assert len(GraphFiles.find(place).entries) == 9
    compute = {"actors": actors, "cpus": 0.5}
    return GateSession.open({**SETTINGS, "compute": compute, **settings}, pool, targets, str(folder / "gate"))


def answer(gate: GateSession, questions: Questions) -> None:
    gate.submit(Answers(questions.row_ids, truth()[questions.row_ids], "ann"))


def rounds(gate: GateSession, between: Any = lambda: None) -> list[Any]:
    """All that a gate says in two rounds and at the end of them."""
    said = list[Any]()
    with gate.hosted():
        for _ in range(2):
            questions = gate.next()
            said += [vars(questions), gate.service.gains() if said else None]
            between()
            answer(gate, questions)
    said.append(vars(gate.next()))
    with gate.hosted():
        said += [gate.service.pseudo_labels(0.5), gate.service.labelled(), gate.status()]
    for each in said:
        if isinstance(each, dict):
            each.pop("time", None)
            each.pop("gate", None)
    return said


def actors_of(kind: str) -> list[int]:
    """Processes of this session's actors of a class."""
    found = []
    for pid in family(os.getpid()):
        with suppress(OSError):
            if kind.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return sorted(found)


def test_parts_ask_for_the_same_rows_and_may_be_killed(tmp_path: Path) -> None:
    expected = rounds(opened(tmp_path / "one", 1))
    killed: list[int] = []

    def kill() -> None:
        """First a part, then the gate itself, with which its parts end."""
        parts = actors_of("GraphPartActor")
        assert len(parts) == 2
        killed.append(actors_of("SelectionActor")[0] if killed else parts[0])
        os.kill(killed[-1], signal.SIGKILL)

    gate = opened(tmp_path / "two", 2)
    np.testing.assert_equal(rounds(gate, kill), expected)
    assert len(set(killed)) == 2
    # Without Ray the parts are read when they are needed.
    plain = GateSession(gate.location)
    assert {**plain.status(), "gate": None} == {**expected[-1], "gate": None}
    np.testing.assert_equal(plain.service.pseudo_labels(0.5), expected[-3])


@pytest.mark.slow
def test_parts_by_the_published_rule_and_from_the_top(tmp_path: Path) -> None:
    for name, options in (("compat", {"rule": "compat", "validation_share": 0.0}), ("top", {"draw": "top"})):
        expected = rounds(opened(tmp_path / f"{name}-one", 1, **options))
        np.testing.assert_equal(rounds(opened(tmp_path / f"{name}-three", 3, **options)), expected)


def test_rows_that_arrive_join_a_graph_in_parts(tmp_path: Path) -> None:
    decided = []
    arrived = (np.eye(DIM)[np.arange(32) % CLASSES] + 1.0).astype(np.float32)
    for actors in (1, 2):
        gate = opened(tmp_path / str(actors), actors)
        with gate.hosted():
            answer(gate, gate.next())
            gate.next()
            decided.append([vars(gate.offer(arrived)), vars(gate.next())])
        assert gate.status()["rows"] == gate.rows + 32
    np.testing.assert_equal(decided[1], decided[0])


def test_more_actors_than_there_is_room_for_are_refused(tmp_path: Path) -> None:
    gate = opened(tmp_path, 50)
    with pytest.raises(UsageError, match=r"50 graph actors of 0\.5 CPUs"), gate.hosted():
        raise AssertionError("it started")


def _rows(part: GraphPart) -> int:
    return len(part)


def test_a_part_that_is_not_there_is_not_waited_for_without_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An actor that cannot start: the session has fewer CPUs."""
    monkeypatch.setenv("COEVO_RAY_STALL_SECONDS", "2")
    files = GraphFiles.find(opened(tmp_path, 1).location.child("graph"))
    actors = graph_actors.GraphActors([part.read for part in files.cut(1)], cpus=100)
    with pytest.raises(StoppedError, match="graph: no progress"):
        list(actors.each(_rows, ()))
