"""The annotation gate: which rows deserve a label, until it stops by itself (arXiv 2506.08070; DESIGN section 5.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from coevo_ray.core.gate_rules import (
    Beliefs,
    beliefs,
    draw_diverse,
    draw_in_proportion,
    margin_gain,
    published_gain,
)
from coevo_ray.core.graph import NeighbourGraph
from coevo_ray.core.rows import Int64Array, choose_rows
from coevo_ray.errors import InputError, UsageError


@dataclass(frozen=True)
class GateConfig:
    """Settings of a gate.

    Attributes:
        classes: C, 2 or more.
        round_size: rows of a round.
        neighbours, min_similarity: which neighbours vote.
        recheck_neighbours, recheck_similarity: which neighbours are near: their gain changes within a round (compat),
            and of them only the best is asked for in a round (margin).
        rule: "margin" (default) or "compat", the published gain and draw.
        seed: seed of random rows.
        relative_gain: stop when the mean gain of unlabelled rows falls below this share of the first one.
        accuracy_patience, accuracy_tolerance: stop after so many rounds without an accuracy that is better by more than
            the tolerance, but not before the mean gain has halved: a small sample is noisy.
        max_labels, max_rounds: never more.
    """

    classes: int
    round_size: int
    neighbours: int = 16
    min_similarity: float = 0.85
    recheck_neighbours: int = 8
    recheck_similarity: float = 0.9
    rule: Literal["margin", "compat"] = "margin"
    seed: int = 0
    relative_gain: float = 0.2
    accuracy_patience: int = 4
    accuracy_tolerance: float = 0.002
    max_labels: int = np.iinfo(np.int64).max
    max_rounds: int = np.iinfo(np.int64).max

    def __post_init__(self) -> None:
        sizes = (self.round_size, self.neighbours, self.recheck_neighbours, self.accuracy_patience)
        if self.classes < 2 or min(*sizes, self.max_labels, self.max_rounds) < 1:
            raise UsageError(f"a gate of {self}", "classes must be 2 or more, all other counts 1 or more")
        if self.rule not in ("margin", "compat"):
            raise UsageError(f"unknown rule {self.rule!r}", "use margin or compat")


@dataclass(frozen=True)
class Requests:
    """Rows that need a label now.

    Attributes:
        round: from 0, the random first one.
        row_ids: int64[n], increasing; rows of the graph.
        gains: float32[n]; 1 in the first round.
    """

    round: int
    row_ids: Int64Array
    gains: npt.NDArray[np.float32]


class AnnotationGate:
    """Asks, takes answers, and stops. All random choices are functions of (seed, round).

    Args:
        config: settings.
        graph: neighbours of N rows.
        candidates: bool[N], rows that may be asked about.

    Raises:
        InputError: shapes do not fit, or there are no candidates.
    """

    def __init__(self, config: GateConfig, graph: NeighbourGraph, candidates: npt.NDArray[np.bool_]) -> None:
        if candidates.shape != (graph.rows,) or not candidates.any():
            raise InputError(
                f"{int(candidates.sum())} candidates in an array of {candidates.shape} for {graph.rows} rows",
                "give one flag for each row of the graph, and at least one candidate",
            )
        self.config, self.graph, self.candidates = config, graph, candidates
        self.rounds = 0
        self._labels = np.full(graph.rows, -1, dtype=np.int64)
        self._round = np.full(graph.rows, -1, dtype=np.int32)
        self._outstanding = np.zeros(0, dtype=np.int64)
        self._probabilities: npt.NDArray[np.float32] | None = None
        self._gain: npt.NDArray[np.float64] | None = None
        self._first_gain: float | None = None
        self._accuracies: list[float] = []

    # -- what is known -------------------------------------------------------------------------------------------

    @property
    def outstanding(self) -> bool:
        """Whether requests wait for answers."""
        return len(self._outstanding) > 0

    @property
    def labelled_rows(self) -> int:
        """Number of labels."""
        return int((self._labels >= 0).sum())

    @property
    def mean_gain(self) -> float | None:
        """Mean gain of the candidates without a label; None before the first predictions, 0 when none is left."""
        if self._gain is None:
            return None
        open_ = self._open()
        return float(self._gain[open_].mean()) if len(open_) else 0.0

    @property
    def stopped_by(self) -> str | None:
        """Why no more labels are asked for: "exhausted", "max_labels", "max_rounds", "gain", "accuracy"; or None."""
        if self.rounds == 0 or self.outstanding:
            return None
        if len(self._open()) == 0:
            return "exhausted"
        if self.labelled_rows >= self.config.max_labels:
            return "max_labels"
        if self.rounds >= self.config.max_rounds:
            return "max_rounds"
        gain, first = self.mean_gain, self._first_gain
        if gain is None or not first:
            return None
        if gain < self.config.relative_gain * first:
            return "gain"
        if gain < 0.5 * first and self._accuracy_stands_still():
            return "accuracy"
        return None

    def labels(self) -> tuple[Int64Array, Int64Array, npt.NDArray[np.int32]]:
        """Labelled rows: row, label, round; increasing by row."""
        rows = np.flatnonzero(self._labels >= 0)
        return rows, self._labels[rows], self._round[rows]

    # -- asking --------------------------------------------------------------------------------------------------

    def request_seed(self, count: int) -> Requests:
        """Random rows to begin with; the same while they are unanswered.

        Raises:
            InputError: the first round is over, or there are fewer candidates.
        """
        if self.rounds > 0:
            raise InputError(f"{self.rounds} rounds are over", "random rows are only asked for at the start")
        if not self.outstanding:
            count = min(count, self.config.max_labels)
            self._outstanding = choose_rows(np.flatnonzero(self.candidates).astype(np.int64), count, self.config.seed)
        return Requests(0, self._outstanding, np.ones(len(self._outstanding), dtype=np.float32))

    def request(self) -> Requests:
        """The rows to label now: the same while some are unanswered, none when the gate has stopped.

        Raises:
            InputError: there are no predictions yet.
        """
        if not self.outstanding and self.stopped_by is None:
            if self._gain is None:
                raise InputError("the gate has no predictions", "call request_seed, then update_predictions")
            self._outstanding = self._draw(self._gain)
        rows = self._outstanding
        gains = np.ones(len(rows)) if self._gain is None else self._gain[rows]
        return Requests(self.rounds, rows, gains.astype(np.float32))

    def _draw(self, gain: npt.NDArray[np.float64]) -> Int64Array:
        config, rows = self.config, self._open()
        count = min(config.round_size, len(rows), config.max_labels - self.labelled_rows)
        if config.rule == "compat":
            return draw_in_proportion(gain, rows, count, config.seed, self.rounds)
        return draw_diverse(gain, rows, count, self.graph, config.recheck_neighbours, config.recheck_similarity)

    # -- learning ------------------------------------------------------------------------------------------------

    def check_answers(self, row_ids: Int64Array, labels: Int64Array) -> npt.NDArray[np.bool_]:
        """Which answers are new, bool[n]; answers that repeat a label that is there are not.

        Raises:
            InputError: a row was not asked for, a label is out of range or contradicts the one that is there.
        """
        if len(row_ids) != len(labels) or len(np.unique(row_ids)) != len(row_ids):
            raise InputError(
                f"{len(row_ids)} rows (some twice?) and {len(labels)} labels", "give one label for each row"
            )
        wrong = (labels < 0) | (labels >= self.config.classes)
        if wrong.any():
            raise InputError(f"label {labels[wrong][0]} is not in 0..{self.config.classes - 1}", "mend that answer")
        there = self._labels[row_ids]
        new = there < 0
        strange = new & ~np.isin(row_ids, self._outstanding)
        if strange.any():
            first = row_ids[strange][:3].tolist()
            raise InputError(f"{strange.sum()} rows were not asked for, first {first}", "answer only requested rows")
        differ = ~new & (there != labels)
        if differ.any():
            row = int(row_ids[differ][0])
            raise InputError(
                f"{differ.sum()} rows have another label already: row {row} has {self._labels[row]}",
                "decide which one holds; the first stays",
            )
        return new

    def submit(self, row_ids: Int64Array, labels: Int64Array) -> int:
        """Takes answers; returns how many were new. The round is over when all its rows are answered.

        Raises:
            InputError: as `check_answers`; nothing is taken then.
        """
        new = self.check_answers(row_ids, labels)
        rows = row_ids[new]
        self._labels[rows] = labels[new]
        self._round[rows] = self.rounds
        if self.config.rule == "compat" and self._gain is not None and len(rows):
            self._recheck(rows)
        was_open = self.outstanding
        self._outstanding = self._outstanding[~np.isin(self._outstanding, rows)]
        if was_open and not self.outstanding:
            self.rounds += 1
        return len(rows)

    def update_predictions(self, probabilities: npt.NDArray[np.float32]) -> None:
        """Takes class probabilities float32[N, C] of all rows and computes all gains.

        Raises:
            InputError: the shape does not fit, or values are not finite.
        """
        if probabilities.shape != (self.graph.rows, self.config.classes):
            need = (self.graph.rows, self.config.classes)
            raise InputError(f"predictions of shape {probabilities.shape}, need {need}", "predict all rows and classes")
        if not np.isfinite(probabilities).all():
            raise InputError("predictions are not finite", "check the classifier")
        self._probabilities = probabilities
        self._gain = self._gains(beliefs(probabilities, self._labels))
        if self._first_gain is None:
            self._first_gain = self.mean_gain

    def note_accuracy(self, round_: int, accuracy: float) -> None:
        """Takes the measured accuracy after a round; a repeat replaces it.

        Raises:
            InputError: the round is not the next one, or the accuracy is not in [0, 1].
        """
        if not 0 <= round_ <= len(self._accuracies) or not 0 <= accuracy <= 1:
            raise InputError(
                f"accuracy {accuracy} of round {round_}", f"next is round {len(self._accuracies)}, in [0, 1]"
            )
        self._accuracies[round_:] = [accuracy]

    def _gains(self, own: Beliefs) -> npt.NDArray[np.float64]:
        rule = published_gain if self.config.rule == "compat" else margin_gain
        gain = rule(self.graph, own, self.config.neighbours, self.config.min_similarity)
        gain[self._labels >= 0] = 0.0
        return gain

    def _recheck(self, rows: Int64Array) -> None:
        """Published update inside a round: near neighbours of new labels get their new gain if the label agrees with
        what was believed of them, else the larger of old and new."""
        assert self._gain is not None and self._probabilities is not None  # predictions came before the answers
        width = self.config.recheck_neighbours
        near = self.graph.similarities[rows, :width] > self.config.recheck_similarity
        index = self.graph.indices[rows, :width]
        near &= index >= 0
        touched, label = index[near], np.repeat(self._labels[rows], near.sum(axis=1))
        own = beliefs(self._probabilities, self._labels)
        fresh = self._gains(own)
        agrees = np.ones(self.graph.rows, dtype=bool)
        agrees[touched[own.best[touched] != label]] = False
        touched = np.unique(touched)
        old = self._gain[touched]
        self._gain[touched] = np.where(agrees[touched], fresh[touched], np.maximum(old, fresh[touched]))
        self._gain[self._labels >= 0] = 0.0

    def _open(self) -> Int64Array:
        return np.flatnonzero(self.candidates & (self._labels < 0)).astype(np.int64)

    def _accuracy_stands_still(self) -> bool:
        patience = self.config.accuracy_patience
        if len(self._accuracies) <= patience:
            return False
        before, lately = self._accuracies[:-patience], self._accuracies[-patience:]
        return max(lately) <= max(before) + self.config.accuracy_tolerance

    # -- state ---------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """All but the predictions, which come again: JSON-able fields and arrays."""
        fields = {"rounds": self.rounds, "first_gain": self._first_gain, "accuracies": list(self._accuracies)}
        return fields, {"labels": self._labels, "round": self._round, "outstanding": self._outstanding}

    def restore(self, fields: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Takes over a state.

        Raises:
            InputError: it belongs to another graph.
        """
        if len(arrays["labels"]) != self.graph.rows:
            raise InputError(
                f"the journal has {len(arrays['labels'])} rows, the graph {self.graph.rows}",
                "use another output folder",
            )
        self.rounds = int(fields["rounds"])
        self._first_gain = fields["first_gain"]
        self._accuracies = [float(a) for a in fields["accuracies"]]
        self._labels = arrays["labels"].astype(np.int64)
        self._round = arrays["round"].astype(np.int32)
        self._outstanding = arrays["outstanding"].astype(np.int64)
