"""The two durable services with some work for each: steps that a process may die in, and that may be made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from coevo_ray.actors.gate_service import GateService
from coevo_ray.actors.ledger_service import LedgerService
from coevo_ray.core.gate.config import GateConfig, OfferConfig
from coevo_ray.core.gate.gate import AnnotationGate
from coevo_ray.core.gate.online import OnlineGate
from coevo_ray.core.graph.graph import build_graph
from coevo_ray.core.graph.growing import GrowingIndex
from coevo_ray.core.graph.unit_rows import unit_rows
from coevo_ray.core.selection.ledger import SelectionLedger
from coevo_ray.core.selection.policies import make_policy
from coevo_ray.store.location import Location

ROWS, CLASSES = 60, 3
_ROW_IDS = np.arange(ROWS, dtype=np.int64) * 3 + 5
_FEATURES = np.random.default_rng(0).normal(size=(ROWS, 8)).astype(np.float32)
_EPOCHS, _ROUNDS = 6, 4

Step = Callable[[Any], object]


class Ledger:
    """The ledger of a training: subsets with weights, losses, scores, usage and snapshots."""

    name = "ledger"

    def make(self, folder: Path) -> LedgerService:
        """Opens it over a journal, as a process does after a restart."""
        candidates = np.arange(ROWS) % 7 != 0
        policy = make_policy("infobatch", least=0.5)
        ledger = SelectionLedger(rows=ROWS, candidates=candidates, policy=policy, keep=0.3, epochs=40, seed=1)
        return LedgerService(Location(str(folder)), ledger)

    def steps(self) -> list[Step]:
        """The calls of a training; each may be repeated."""
        made: list[Step] = []
        for epoch in range(_EPOCHS):
            made += [_select(epoch), _report(epoch, 0), _report(epoch, 1), _commit(epoch)]
            if epoch % 3 == 2:
                made += [_scores(epoch), lambda service: service.snapshot()]
        return made

    def state(self, service: Any) -> object:
        """All that it knows, to be compared."""
        fields, arrays = service.ledger.state(scores=True)
        return [fields, _plain(arrays)]


class Gate:
    """An annotation gate: requests, answers of several people, predictions, arriving rows and snapshots."""

    name = "gate"

    def __init__(self) -> None:
        self._graph = build_graph(_FEATURES, k=4)
        self._config = GateConfig(classes=CLASSES, round_size=7, seed=2, max_labels=40, validation_share=0.0)

    def make(self, folder: Path) -> GateService:
        """Opens it over a journal, as a process does after a restart."""

        def online(gate: AnnotationGate) -> OnlineGate:
            return OnlineGate(gate, GrowingIndex(unit_rows(_FEATURES), self._graph), None, OfferConfig(sure=0.6))

        gate = AnnotationGate(self._config, self._graph, np.ones(ROWS, bool))
        return GateService(Location(str(folder)), gate, _ROW_IDS, online)

    def steps(self) -> list[Step]:
        """The calls of commands and people; each may be repeated."""
        made: list[Step] = [lambda service: service.request(8)]
        for round_ in range(_ROUNDS):
            made += [_answer(round_, "ann", 2), _answer(round_, "bob", 1), _answer(round_, "cay", 3)]
            made += [_predict(round_), _learned(round_), lambda service: service.request()]
            if round_ in (1, 2):
                made.append(_offer(round_))
        return [*made, _answer(9, "ann", 2), lambda service: service.set_aside(_ROUNDS), lambda s: s.snapshot()]

    def state(self, service: Any) -> object:
        """All that it knows, to be compared; not when it was said, since a repeat says it later."""
        fields, arrays = service.gate.state()
        answers = {name: value for name, value in service.answers().items() if name != "time"}
        labelled = {name: value for name, value in service.labelled().items() if name != "time"}
        questions = dict(service.questions())
        tables = (arrays, answers, labelled, questions, service.offered())
        return [fields, service.history(), *(_plain(table) for table in tables)]


def _plain(arrays: Mapping[str, Any]) -> dict[str, object]:
    return {name: value.tobytes() if isinstance(value, np.ndarray) else value for name, value in arrays.items()}


def _select(epoch: int) -> Step:
    return lambda service: service.select(epoch)


def _commit(epoch: int) -> Step:
    return lambda service: service.commit(epoch)


def _report(epoch: int, part: int) -> Step:
    def step(service: LedgerService) -> object:
        rows = service.select(epoch).row_ids[part::2]
        return service.report_losses(epoch, rows, np.sin(rows + epoch).astype(np.float32) + 1)

    return step


def _scores(epoch: int) -> Step:
    random = np.random.default_rng(epoch)
    given = (random.permutation(ROWS)[:20], random.random(20), random.random(20), random.integers(0, 5, 20))
    return lambda service: service.set_scores(*given)


def _answer(round_: int, who: str, every: int) -> Step:
    """A person's answers about the rows of a round; the same rows when the step is made again."""

    def step(service: GateService) -> object:
        rows = service.questions()["asked"][::every]
        if len(rows) == 0:  # made again after the answer that closed the round
            return None
        labels = np.random.default_rng(round_ + len(who) * every).integers(0, CLASSES, len(rows))
        return service.submit(rows, labels, who, f"{who} {round_}")

    return step


def _predict(round_: int) -> Step:
    def step(service: GateService) -> object:
        rows = np.concatenate([_ROW_IDS, service.offered()["row_id"]])
        random = np.random.default_rng(100 + round_)
        service.update_predictions((rows, random.dirichlet(np.ones(CLASSES), len(rows)).astype(np.float32)))
        return None

    return step


def _learned(round_: int) -> Step:
    return lambda service: service.note_learned({"validation_loss": 1.0 / (1 + round_), "accuracy": 0.5})


def _offer(round_: int) -> Step:
    random = np.random.default_rng(round_)
    rows = random.permutation(np.arange(1000 * round_, 1000 * round_ + 9)) + 500
    features = random.normal(size=(9, 8)).astype(np.float16)
    probabilities = random.dirichlet(np.ones(CLASSES), 9).astype(np.float32)
    return lambda service: service.offer(rows, features, probabilities)
