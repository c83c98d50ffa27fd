"""Who chooses the rows that get a label: the gate and its options, and simple rules beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.labels.data import Ids, LabelPool, Vectors
from benchmarks.labels.greedy import Farthest
from benchmarks.labels.method import Labelled, Method
from benchmarks.labels.uherding import UHerding
from coevo_ray.core.gate.config import GateConfig, Requests
from coevo_ray.core.gate.gate import AnnotationGate
from coevo_ray.core.probes.calibration import apply_temperature, fit_temperature
from coevo_ray.core.probes.probe import cross_fitted_predictions

_FOLDS = 5


class Random(Method):
    """Any rows."""

    def choose(self, now: Labelled, count: int) -> Ids:
        """See `Method`."""
        return self.random.permutation(self.unlabelled(now))[:count]


class Uncertain(Method):
    """Rows of the largest score of their class probabilities, from the top.

    Args:
        pool, seed: see `Method`.
        score: float32[n, C] -> float[n].
    """

    def __init__(self, pool: LabelPool, seed: int, score: Callable[[Vectors], npt.NDArray[Any]]) -> None:
        super().__init__(pool, seed)
        self._score = score

    def choose(self, now: Labelled, count: int) -> Ids:
        """See `Method`."""
        rows = self.random.permutation(self.unlabelled(now))  # so that ties are broken by chance
        return rows[np.argsort(-self._score(now.probabilities[rows]), kind="stable")[:count]]


def entropy(probabilities: Vectors) -> npt.NDArray[Any]:
    """Of each row's distribution, in nats."""
    value: npt.NDArray[Any] = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1)
    return value


def closeness(probabilities: Vectors) -> npt.NDArray[Any]:
    """1 - margin between the two likeliest classes."""
    top = np.partition(probabilities, -2, axis=1)
    value: npt.NDArray[Any] = 1.0 - (top[:, -1] - top[:, -2])
    return value


def unsureness(probabilities: Vectors) -> npt.NDArray[Any]:
    """1 - probability of the likeliest class."""
    value: npt.NDArray[Any] = 1.0 - probabilities.max(axis=1)
    return value


class KCenter(Method):
    """The farthest row from all that have a label, one after another; labels do not matter to it.

    Args:
        pool, seed: see `Method`.
    """

    def __init__(self, pool: LabelPool, seed: int) -> None:
        super().__init__(pool, seed)
        self._farthest: Farthest | None = None

    def choose(self, now: Labelled, count: int) -> Ids:
        """See `Method`."""
        if self._farthest is None:
            self._farthest = Farthest(self.pool.features, now.rows)
        return self._farthest.take(count)


class Gate(Method):
    """The annotation gate, a round at a time.

    Args:
        pool, seed: see `Method`.
        calibrated: whether the head's confidence is scaled as `coevo-ray gate` does, to what is right of the first rows
            when each is predicted without its fold.
        options: settings of `GateConfig` other than its defaults.
    """

    def __init__(self, pool: LabelPool, seed: int, *, calibrated: bool = False, **options: Any) -> None:
        super().__init__(pool, seed)
        # It is asked for as many labels as other methods: what would stop it is judged elsewhere.
        # Nor does it keep rows for validation: the head that it is given learns from every label.
        config = GateConfig(
            classes=pool.classes, round_size=1, seed=seed, relative_gain=0.0, validation_share=0.0, **options
        )
        self.gate = AnnotationGate(config, pool.graph, np.ones(len(pool.features), dtype=bool))
        self._calibrated = calibrated

    def choose(self, now: Labelled, count: int) -> Ids:
        """See `Method`."""
        self.learn(now)
        wider = replace(self.gate.config, round_size=count)
        self.gate = AnnotationGate.from_state(wider, self.pool.graph, *self.gate.state())
        return self.gate.request().positions

    def learn(self, now: Labelled) -> None:
        """Hands over labels and predictions."""
        if self.gate.rounds == 0:
            self.gate.open_round(Requests(0, now.rows, np.zeros(len(now.rows), dtype=np.float32)))
        new = now.rows[self.gate.labelled_rows :]
        self.gate.submit(new, now.labels[self.gate.labelled_rows :])
        temperature = self._temperature(now) if self._calibrated else 1.0
        self.gate.update_predictions(apply_temperature(now.probabilities, temperature))

    def _temperature(self, now: Labelled) -> float:
        first = np.arange(len(now.rows)) < now.first
        features = self.pool.features[now.rows]
        predicted = cross_fitted_predictions(features, now.labels, self.pool.classes, _FOLDS, first, now.decay)
        return fit_temperature(predicted, now.labels[: now.first])


GATE, FROM_THE_TOP = "gate", "gate_not_typical"
_TOP = {"draw": "top"}
_ANNEALED = {"power": 2.0, "last_power": 20.0}
# Name -> the gate's options. `gate` is the gate as it comes; of the others each shows one option.
GATES: dict[str, dict[str, Any]] = {
    GATE: {},
    "gate_calibrated": {"calibrated": True},
    "gate_compat": {"rule": "compat"},
    "gate_top": _TOP,
    "gate_not_apart": {**_TOP, "apart": 1.0},
    "gate_copies_asked": {"copies": False},
    "gate_votes_distributions": {"vote": "distributions"},
    "gate_votes_classes": {"vote": "classes", "min_similarity": 0.5},
    "gate_balance": {"balance": 0.5},
    "gate_power_4": {"power": 4.0},
    "gate_power_2_to_20": _ANNEALED,
    "gate_distance": {"distance_weight": 0.1},
    FROM_THE_TOP: {**_TOP, "typical": 0.0},
    "gate_always_typical": {**_TOP, "typical": 1.0},
}
SIMPLE: dict[str, Callable[[LabelPool, int], Method]] = {
    "random": Random,
    "entropy": lambda pool, seed: Uncertain(pool, seed, entropy),
    "margin": lambda pool, seed: Uncertain(pool, seed, closeness),
    "least_confidence": lambda pool, seed: Uncertain(pool, seed, unsureness),
    "k_center": KCenter,
}
UHERDING = "uherding"


# Those whose work for each chosen row grows with the pool: by the second even on thousands of rows.
GREEDY = (
    "activeml_badge",
    "activeml_typiclust",
    "activeml_coreset",
    "activeml_probcover",
    "activeml_falcun",
    "activeml_clue",
    "activeml_drop_query",
    UHERDING,
)


def make_method(name: str, pool: LabelPool, seed: int) -> Method:
    """A method by its name in the table."""
    if name == UHERDING:
        return UHerding(pool, seed)
    if name in SIMPLE:
        return SIMPLE[name](pool, seed)
    if name in GATES:
        return Gate(pool, seed, **GATES[name])
    from benchmarks.labels.peers import make_peer  # here, so that nothing else needs scikit-activeml

    return make_peer(name, pool, seed)
