"""Who chooses rows of an open pool: retrieval as it ships, its options, simple rules, and who knows the labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.labels.curve import rounds
from benchmarks.labels.data import Ids, Vectors
from benchmarks.labels.method import Labelled
from benchmarks.labels.methods import Gate
from benchmarks.retrieval.data import FOREIGN, Case
from coevo_ray.config import RetrieveSettings
from coevo_ray.core.gate import readings
from coevo_ray.core.gate.gate import AnnotationGate
from coevo_ray.core.graph.unit_rows import UnitRows, mean_row
from coevo_ray.core.probes.light_classifier import LightClassifier, fit_light_classifier
from coevo_ray.core.retrieval import Linear, choose, choose_anchors, copy_margin, find_copies, rank, score_rows

_HEAD = 4  # as pipelines.retrieve
_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class State:
    """A gate that has learned, and an open pool beside it.

    Attributes:
        case: the pools.
        gate: it has the labels and predictions.
        now: what is labelled.
        fitted: the gate's classifier.
        random: of all chance.
    """

    case: Case
    gate: AnnotationGate
    now: Labelled
    fitted: LightClassifier
    seed: int

    @cached_property
    def mean(self) -> Vectors:
        """Of the own rows, float32[d]."""
        return mean_row(self.case.own.features.astype(np.float16))

    @cached_property
    def own(self) -> UnitRows:
        """Directions of the own rows."""
        return UnitRows.about(self.case.own.features.astype(np.float16), self.mean)[0]

    @cached_property
    def open(self) -> Vectors:
        """Directions of the open rows, float32[M, d]."""
        return UnitRows.about(self.case.features.astype(np.float16), self.mean)[0].read(slice(None))

    @cached_property
    def model(self) -> Linear:
        """What says an open row's gain."""
        probe = self.fitted.probe
        return Linear(probe.weight, probe.bias, probe.mean, probe.scale, self.fitted.temperature)

    @cached_property
    def gains(self) -> Vectors:
        """Of the open rows, float32[M]."""
        return self.model.gain(self.case.features.astype(np.float16))

    @cached_property
    def copies(self) -> npt.NDArray[np.bool_]:
        """Which open rows are copies of own ones, as the default settings say."""
        return self.copies_by(RetrieveSettings(budget=1))

    def copies_by(self, of: RetrieveSettings) -> npt.NDArray[np.bool_]:
        """Which open rows are copies of own ones."""
        graph = self.case.own.graph
        return find_copies(self.open, self.own, of.same, copy_margin(graph, of.stray), graph.k)

    def chance(self) -> np.random.Generator:
        """The same for every method."""
        return np.random.default_rng([self.seed, 6])


def learned(case: Case, seed: int, counts: list[int], decay_rows: float) -> State:
    """A gate with labels of own rows, asked for round by round.

    Args:
        case: the pools.
        seed: of the gate.
        counts: labels after each round.
        decay_rows: the head's weight decay times labels.
    """
    method = Gate(case.own, seed, calibrated=True)
    *_, (now, _) = rounds(case.own, method, counts, decay_rows)
    method.learn(now)
    first = np.arange(len(now.rows)) < now.first
    features = case.own.features[now.rows]
    fitted = fit_light_classifier(features, now.labels, first, case.own.classes, decay_rows=decay_rows)
    return State(case, method.gate, now, fitted, seed)


def retrieved(state: State, budget: int, **options: Any) -> Ids:
    """What `coevo-ray retrieve` takes, on arrays and without Ray: int64[m].

    Args:
        state: gate and open pool.
        budget: rows wanted.
        options: of `RetrieveSettings`, other than the defaults.
    """
    settings = RetrieveSettings(budget=budget, **options)
    anchors, worth = choose_anchors(*readings.gains(state.gate.inner), settings.anchors)
    gains = state.gains if settings.gain != "anchors" else None
    scored = score_rows(state.open, state.own.read(anchors), worth, gains, settings.near_by(gains is not None))
    order = rank(np.arange(len(state.open)), scored.score)
    copies = state.copies_by(settings) if options.keys() & {"same", "stray"} else state.copies
    order = order[~copies[order]]
    head = _HEAD * budget
    while True:
        places = order[:head]
        picks = choose(
            lambda at, places=places: state.open[places[at]],  # type: ignore[misc]  # a default binds the loop's
            len(places),
            budget,
            same=settings.same,
            apart=settings.apart,
        )
        if len(picks) >= budget or head >= len(order):
            return places[picks]
        head *= 2


def at_random(state: State, budget: int) -> Ids:
    """Any rows."""
    return state.chance().permutation(len(state.case.features))[:budget]


def nearest(state: State, budget: int) -> Ids:
    """Rows most similar to an own row."""
    others = state.own.read(slice(None)).T
    similarity = [(state.open[i : i + _BLOCK] @ others).max(axis=1) for i in range(0, len(state.open), _BLOCK)]
    order: Ids = np.argsort(-np.concatenate(similarity), kind="stable")
    return order[:budget]


def top_gain(state: State, budget: int) -> Ids:
    """Rows that the classifier is least sure of."""
    return np.argsort(-state.gains, kind="stable")[:budget]


def useful_rows(state: State, budget: int) -> Ids:
    """Random ones of the open rows that show a class and are no copies; it knows which."""
    case = state.case
    rows = state.chance().permutation(len(case.features))
    rows = rows[(case.origin[rows] != FOREIGN) & ~np.isin(case.origin[rows], case.own.rows)]
    first: Ids = np.sort(np.unique(case.origin[rows], return_index=True)[1])  # of each image one
    return np.asarray(rows[first][:budget])


def wrong_rows(state: State, budget: int) -> Ids:
    """Useful rows that the head classifies wrongly, at random, then others; it knows the labels."""
    rows = useful_rows(state, len(state.case.features))
    predicted = state.now.probe.predict_proba(state.case.features[rows]).argmax(axis=1)
    return rows[np.argsort(predicted == state.case.labels[rows], kind="stable")][:budget]


def balanced_rows(state: State, budget: int) -> Ids:
    """Useful rows so that classes come as near to equally many labels as they can; it knows the labels."""
    rows = useful_rows(state, len(state.case.features))
    labels, classes = state.case.labels[rows], state.case.own.classes
    have = np.bincount(state.now.labels, minlength=classes)
    turn = np.empty(len(rows), dtype=np.int64)  # the how-manieth of its class a row would be
    for label in range(classes):
        members = np.flatnonzero(labels == label)
        turn[members] = have[label] + np.arange(len(members))
    return rows[np.argsort(turn, kind="stable")][:budget]


def own_rows(state: State, budget: int) -> Ids:
    """What the gate would ask about next: rows of its own pool, int64[budget]."""
    wider = replace(state.gate.config, round_size=budget)
    return AnnotationGate.from_state(wider, state.case.own.graph, *state.gate.state()).request().positions


DEFAULT, RANDOM, TOP_GAIN, OWN = "retrieve", "random", "top_gain", "own_pool"
# Name -> settings of retrieval. `retrieve` is as it ships; of the others each shows one option.
OPTIONS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "retrieve_near_0.25": {"near": 0.25},
    "retrieve_near_1": {"near": 1.0},
    "retrieve_copies_by_same": {"stray": 0.0},
    "retrieve_copies_by_same_near_0.25": {"stray": 0.0, "near": 0.25},
    "retrieve_not_apart": {"apart": 0.95},
    "retrieve_anchors_gain": {"gain": "anchors"},
}
RULES: dict[str, Callable[[State, int], Ids]] = {
    RANDOM: at_random,
    "nearest": nearest,
    TOP_GAIN: top_gain,
    "knows_useful": useful_rows,
    "knows_wrong": wrong_rows,
    "knows_balanced": balanced_rows,
}


def rows_by(name: str, state: State, budget: int) -> Ids:
    """Open rows that a method takes."""
    return retrieved(state, budget, **OPTIONS[name]) if name in OPTIONS else RULES[name](state, budget)
