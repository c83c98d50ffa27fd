"""The state of an annotation gate: labels, requests and beliefs of all rows, and how it is saved.

Rows are positions 0..N-1 of the neighbour graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from coevo_ray.core.arrays import ArrayMapping, Arrays, BoolArray, Float32Array, Int32Array, Int64Array, UInt16Array
from coevo_ray.core.gate.beliefs import Beliefs
from coevo_ray.core.gate.config import GateConfig, Requests
from coevo_ray.core.gate.forecast import Forecast, Measured, potential
from coevo_ray.core.gate.stop import StopReason
from coevo_ray.core.graph.types import Neighbours
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError

UNASKED = -1  # the round of labels that were not requested
_MOST_RESERVED = 5000  # the accuracy on so many is known to a point and a half
_OF_RESERVED = 0xFFFFFFFF  # stands for a round in the seed

_FIELDS = ("classes", "rounds", "predicted", "first_gain", "level", "seen", "measured")
_ARRAYS = ("candidates", "confidence", "best", "gain", "rows", "row_rounds", "open", "open_gains")


class GateState:
    """All that a gate knows of N rows.

    Args:
        config: settings.
        graph: neighbours of N rows.
        candidates: bool[N], rows that may be asked about; the others still vote.

    Attributes:
        config, graph, candidates: see above.
        beliefs: the predicted class, confidence and gain of each row, and which rows are labelled.
        labelled: int64[L], labelled positions in the order of their answers.
        label_rounds: int32[L], the round that requested each; `UNASKED` where none did.
        open: int64[r], requests of the open round, answered or not.
        open_gains: float32[r].
        aside: int64[a], positions that were requested and set aside.
        rounds: closed rounds.
        predicted: whether there are predictions.
        first_gain: mean gain when rows were first requested by gain, or None.
        level: the gain that the last row of a full round had when the latest predictions came (`set_level`).
        ended: why the gate had stopped when rows arrived, and the `stop_terms` of then; None where it had not.
        seen: labels that there were when the latest predictions came.
        measured: round -> labels and cross-entropy.
        reserved: int64[h], rows that are asked about for validation alone, in their order: a random part of the
            candidates, so that what is right of those with labels is right of all.
        learned: round -> labels that the model had learned from, and the potential that there was then (`forecast`).
        said: round -> int32[h], the class that the model said of each reserved row.

    Raises:
        InputError: the candidates do not fit the graph, or there are none.
    """

    def __init__(self, config: GateConfig, graph: Neighbours, candidates: BoolArray) -> None:
        if candidates.shape != (graph.rows,) or candidates.dtype != np.bool_:
            have = f"{candidates.dtype}{list(candidates.shape)}"
            raise InputError(f"candidates {have} for a graph of {graph.rows} rows", "give bool[N]")
        if not candidates.any():
            raise InputError("no row may be asked about", "leave at least one candidate")
        self.config, self.graph, self.candidates = config, graph, candidates.copy()
        self.beliefs = Beliefs(config, graph)
        self.labelled: Int64Array = np.zeros(0, dtype=np.int64)
        self.label_rounds: Int32Array = np.zeros(0, dtype=np.int32)
        self.open: Int64Array = np.zeros(0, dtype=np.int64)
        self.open_gains: Float32Array = np.zeros(0, dtype=np.float32)
        self.aside: Int64Array = np.zeros(0, dtype=np.int64)
        self.rounds, self.predicted, self.level, self.seen = 0, False, 0.0, 0
        self.first_gain: float | None = None
        self.measured: dict[int, tuple[int, float]] = {}
        self.ended: tuple[StopReason, list[float | None]] | None = None
        self.reserved = _reserved(candidates, config)
        self.learned: dict[int, tuple[int, float]] = {}
        self.said: dict[int, Int32Array] = {}

    def requests(self) -> Requests:
        """Requests of the open round without an answer."""
        waiting = ~self.beliefs.labelled[self.open]
        return Requests(self.rounds, self.open[waiting], self.open_gains[waiting])

    def unlabelled(self) -> Int64Array:
        """Candidates without a label that were not set aside, int64[n], increasing; reserved ones too."""
        free = self.candidates & ~self.beliefs.labelled
        free[self.aside] = False
        return np.flatnonzero(free)

    def reserved_left(self) -> Int64Array:
        """Reserved rows without a label that were neither requested nor set aside, in their order."""
        free = self.candidates & ~self.beliefs.labelled
        free[self.aside] = False
        free[self.open] = False
        return self.reserved[free[self.reserved]]

    def note_loss(self, round_: int, loss: float) -> None:
        """Takes the loss after a round, see `AnnotationGate.note_loss`.

        Raises:
            InputError: as `check_loss`.
        """
        self.check_loss(round_, loss)
        self.measured[int(round_)] = (len(self.labelled), float(loss))

    def check_loss(self, round_: int, loss: float) -> None:
        """Refuses what `note_loss` does.

        Raises:
            InputError: the round is not closed, or the loss is no number of 0 or more.
        """
        if not -1 <= round_ < self.rounds:
            raise InputError(f"a loss of round {round_}; {self.rounds} rounds are closed", "note it afterwards")
        if not 0 <= loss < np.inf:
            raise InputError(f"loss {loss}", "give a number of 0 or more")

    @property
    def validating(self) -> BoolArray:
        """bool[h], reserved rows with a label that was asked for."""
        return self.beliefs.untold[self.reserved]

    @property
    def told(self) -> Int64Array:
        """Labelled positions that the model may learn from, in the order of their answers."""
        return self.labelled[~self.beliefs.untold[self.labelled]]

    @property
    def learnable(self) -> int:
        """Rows that the model may learn from, those with labels included."""
        free = self.candidates & ~self.beliefs.untold
        free[self.aside[~self.beliefs.labelled[self.aside]]] = False
        free[self.reserved_left()] = False
        return int(free.sum())

    def note_said(self, said: UInt16Array) -> None:
        """Notes what new predictions, of class uint16[N], say of reserved rows, and the potential that they leave."""
        told, gain = len(self.told), self.mean_gain()
        if len(self.reserved) and told and gain is not None:
            self.learned[self.rounds - 1] = (told, potential(told / self.learnable, gain))
            self.said[self.rounds - 1] = said[self.reserved].astype(np.int32)

    def measured_rounds(self) -> list[Measured]:
        """Measurements of all rounds on the validation rows, in the order of rounds."""
        there = self.validating
        label = self.beliefs.best[self.reserved[there]]
        return [
            Measured(labels, left, self.said[round_][there] == label)
            for round_, (labels, left) in sorted(self.learned.items())
        ]

    def forecast(self) -> Forecast | None:
        """Accuracy with further labels; None before the first predictions, or where no row is reserved."""
        measured = self.measured_rounds()
        return Forecast.of(measured, max(self.learnable, measured[-1].labels)) if measured else None

    def asked(self, *, unseen: bool = False) -> Int64Array:
        """Positions that are labelled or requested; `unseen`: of these, those whose labels no predictions have seen."""
        return np.concatenate([self.labelled[self.seen :] if unseen else self.labelled, self.open])

    @property
    def labelled_share(self) -> float:
        """Labels over candidates."""
        return len(self.labelled) / int(self.candidates.sum())

    def labels_left(self) -> int | None:
        """Number of labels that the budget still allows, without open requests; None without a budget."""
        limit = self.config.max_labels
        return None if limit is None else limit - len(self.labelled)

    def set_level(self) -> None:
        """Notes the gain of the last row that a full round would take now.

        Where too few rows are worth a label for one, what the last full round asked for stays the measure; before there
        was one, the least gain of those few, all of which the next round asks for.
        """
        count, gains = self.config.round_size, self.beliefs.gain[self.unlabelled()]
        worth = gains[gains > 0]
        if len(worth) >= count:
            self.level = float(np.partition(worth, -count)[-count])
        elif self.level == 0.0 and len(worth):
            self.level = float(worth.min())

    def mean_gain(self) -> float | None:
        """Mean gain of the unlabelled candidates, 0 if there are none; None before the first predictions."""
        if not self.predicted:
            return None
        rows = self.unlabelled()
        return float(self.beliefs.gain[rows].mean(dtype=np.float64)) if len(rows) else 0.0

    def grow(self, best: Int64Array, confidence: Float32Array, gain: Float32Array) -> None:
        """Takes in rows that were appended to the graph, which must be one that grows; all of them are candidates.

        Args:
            best: int64[b], their classes.
            confidence: float32[b], chance-corrected.
            gain: float32[b].
        """
        self.beliefs.grow(best, confidence, gain)
        self.candidates = np.concatenate([self.candidates, np.ones(len(best), dtype=np.bool_)])

    def use_graph(self, graph: Neighbours) -> None:
        """Continues with another graph of the same rows.

        Raises:
            InputError: it has another number of rows.
        """
        if graph.rows != len(self.candidates):
            raise InputError(
                f"a graph of {graph.rows} rows for a gate of {len(self.candidates)}", "give the graph of its rows"
            )
        self.graph = graph
        self.beliefs.use_graph(graph)

    def save(self) -> tuple[JsonObject, Arrays]:
        """The whole state: JSON-able fields, and copies of the arrays by name."""
        fields = {
            "classes": self.config.classes,
            "rounds": self.rounds,
            "predicted": self.predicted,
            "first_gain": self.first_gain,
            "level": self.level,
            "seen": self.seen,
            "ended": None if self.ended is None else list(self.ended),
            "measured": [[r, *self.measured[r]] for r in sorted(self.measured)],
            "learned": [[r, *self.learned[r]] for r in sorted(self.learned)],
        }
        arrays: Arrays = {
            "candidates": self.candidates,
            "aside": self.aside,
            "confidence": self.beliefs.confidence,
            "best": self.beliefs.best,
            "gain": self.beliefs.gain,
            "rows": self.labelled,
            "row_rounds": self.label_rounds,
            "open": self.open,
            "open_gains": self.open_gains,
            "reserved": self.reserved,
            "untold": np.flatnonzero(self.beliefs.untold),
            "said": np.stack([self.said[r] for r in sorted(self.said)]) if self.said else _no_rounds(self.reserved),
        }
        return fields, {name: array.copy() for name, array in arrays.items()}

    def restore(self, fields: Mapping[str, Any], arrays: ArrayMapping) -> None:
        """Restores the result of `save`; all earlier knowledge is replaced.

        Raises:
            InputError: a part is missing, or the state is of another graph, other candidates or other classes.
        """
        missing = [name for name in _FIELDS if name not in fields] + [name for name in _ARRAYS if name not in arrays]
        if missing:
            raise InputError(f"a gate's state without {missing}", "restore it from a backup, or start over")
        self._check_fit(fields["classes"], arrays["candidates"])
        beliefs = Beliefs(self.config, self.graph, self.beliefs.group)
        beliefs.confidence = arrays["confidence"].astype(np.float32)
        beliefs.best, beliefs.gain = arrays["best"].astype(np.uint16), arrays["gain"].astype(np.float32)
        beliefs.labelled[arrays["rows"]] = True
        # States of version 0.1.0 have none of these: nothing was reserved.
        self.reserved = arrays.get("reserved", self.reserved[:0]).astype(np.int64)
        beliefs.untold[arrays.get("untold", self.reserved[:0])] = True
        self.beliefs, self.candidates = beliefs, arrays["candidates"].astype(np.bool_)
        self.aside = arrays.get("aside", self.aside[:0]).astype(np.int64)  # early states have none
        self.labelled, self.label_rounds = arrays["rows"].astype(np.int64), arrays["row_rounds"].astype(np.int32)
        self.open, self.open_gains = arrays["open"].astype(np.int64), arrays["open_gains"].astype(np.float32)
        self.rounds, self.seen = int(fields["rounds"]), int(fields["seen"])
        self.predicted, self.level = bool(fields["predicted"]), float(fields["level"])
        self.first_gain = None if fields["first_gain"] is None else float(fields["first_gain"])
        ended = fields.get("ended")  # early states have none
        self.ended = None if ended is None else (ended[0], list(ended[1]))
        self.measured = {int(r): (int(n), float(loss)) for r, n, loss in fields["measured"]}
        self.learned = {int(r): (int(n), float(left)) for r, n, left in fields.get("learned", [])}
        said = arrays.get("said", _no_rounds(self.reserved)).astype(np.int32)
        self.said = dict(zip(sorted(self.learned), said, strict=True))

    def _check_fit(self, classes: int, candidates: BoolArray) -> None:
        own = self.candidates
        fits = len(candidates) == self.graph.rows and np.array_equal(candidates[: len(own)], own)
        if classes != self.config.classes or not fits:
            raise InputError(
                f"a gate's state of {classes} classes and {len(candidates)} rows does not fit "
                f"{self.config.classes} classes and the candidates of {self.graph.rows} rows",
                "use the graph, candidates and classes that it was saved with",
            )


def _reserved(candidates: BoolArray, config: GateConfig) -> Int64Array:
    """Rows for validation, in random order: a function of the candidates and the seed."""
    rows = np.flatnonzero(candidates)
    count = min(round(config.validated_share * len(rows)), _MOST_RESERVED)
    random = np.random.Generator(np.random.PCG64([config.seed, _OF_RESERVED]))
    chosen: Int64Array = random.permutation(rows)[:count]
    return chosen


def _no_rounds(reserved: Int64Array) -> Int32Array:
    return np.zeros((0, len(reserved)), dtype=np.int32)
