"""What an annotation gate knows, how it is told, and how it is saved (DESIGN 5.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from coevo_ray.core.arrays import AnyArray, Arrays, BoolArray, Float32Array, Int32Array, Int64Array
from coevo_ray.core.gate.beliefs import Beliefs
from coevo_ray.core.gate.config import GateConfig, Requests
from coevo_ray.core.gate.groups import NeighbourGroups
from coevo_ray.core.gate.stop import StopReason, stop_reason
from coevo_ray.core.graph.types import Neighbours
from coevo_ray.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Self


# Of labels that near-duplicates give: all were right among 38 000 real ones, nine of ten among CIFAR-10's 500.
_COPIED = 0.95
UNASKED = -1  # the round of labels that were not requested

_FIELDS = ("classes", "rounds", "predicted", "first_gain", "level", "seen", "measured")
_ARRAYS = ("candidates", "confidence", "best", "gain", "rows", "row_rounds", "open", "open_gains")


class GateBook:
    """Requests, labels and beliefs of N rows; see `core.gate.AnnotationGate`, which changes them.

    Args:
        config: settings.
        graph: neighbours of N rows.
        candidates: bool[N], rows that may be asked about; the others still vote.

    Raises:
        InputError: the candidates do not fit the graph, or there are none.
    """

    def __init__(self, config: GateConfig, graph: Neighbours, candidates: BoolArray) -> None:
        if candidates.shape != (graph.rows,) or candidates.dtype != np.bool_:
            have = f"{candidates.dtype}{list(candidates.shape)}"
            raise InputError(f"candidates {have} for a graph of {graph.rows} rows", "give bool[N]")
        if not candidates.any():
            raise InputError("no row may be asked about", "leave at least one candidate")
        self.config = config
        self._graph = graph
        self._candidates = candidates.copy()
        self._aside: Int64Array = np.zeros(0, dtype=np.int64)  # rows that were asked about, and nobody could say
        self._beliefs = Beliefs(config, graph)
        self._rows: Int64Array = np.zeros(0, dtype=np.int64)  # labelled rows in the order of their answers,
        self._row_rounds: Int32Array = np.zeros(0, dtype=np.int32)  # and in which round each was requested
        self._open: Int64Array = np.zeros(0, dtype=np.int64)  # requests of the open round, answered or not
        self._open_gains: Float32Array = np.zeros(0, dtype=np.float32)
        self._rounds = 0
        self._predicted = False
        self._first_gain: float | None = None
        self._level = 0.0
        self._seen = 0  # labels that there were when the latest predictions came
        self._measured: dict[int, tuple[int, float]] = {}  # round -> labels and loss
        self._levels: NeighbourGroups | None = None  # of rows that lie together, once they are needed

    def _requests(self) -> Requests:
        waiting = ~self._beliefs.labelled[self._open]
        return Requests(self._rounds, self._open[waiting], self._open_gains[waiting])

    def _unlabelled(self) -> Int64Array:
        free = self._candidates & ~self._beliefs.labelled
        free[self._aside] = False
        return np.flatnonzero(free)

    # -- status --------------------------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """Rows, those that arrived included."""
        return len(self._candidates)

    @property
    def rounds(self) -> int:
        """Closed rounds, which is the number of the open or next one."""
        return self._rounds

    @property
    def labelled_rows(self) -> int:
        """Accepted labels."""
        return len(self._rows)

    @property
    def outstanding(self) -> int:
        """Requested rows that are not answered."""
        return int((~self._beliefs.labelled[self._open]).sum())

    @property
    def aside_rows(self) -> int:
        """Rows that were set aside and have no label."""
        return int((~self._beliefs.labelled[self._aside]).sum())

    def open_requests(self) -> Requests:
        """What is requested and not answered."""
        return self._requests()

    def rounds_of(self, rows: Int64Array) -> Int32Array:
        """In which round each row was requested; -1 where it was not, or has no label yet."""
        rounds = np.full(self._graph.rows, UNASKED, dtype=np.int32)
        rounds[self._rows] = self._row_rounds
        return rounds[rows]

    @property
    def open_rows(self) -> Int64Array:
        """int64[r], requests of the open round, answered or not."""
        return self._open.copy()

    @property
    def has_predictions(self) -> bool:
        """Whether there are predictions, from which rows can be requested."""
        return self._predicted

    def is_labelled(self, rows: Int64Array) -> BoolArray:
        """Which rows have a label, bool[n]."""
        return self._beliefs.labelled[rows]

    def copied_labels(self) -> tuple[Int64Array, Int64Array]:
        """Candidates without a label that are near-duplicates of labelled rows, all of which say the same.

        On CIFAR-10 with near-copies every such label was right, and full-data accuracy came with a third of the labels
        that it takes without them.

        Returns:
            Rows int64[n], increasing, and labels int64[n].
        """
        labels = self._beliefs.copied_labels()
        rows = np.flatnonzero((labels >= 0) & self._candidates)
        return rows, labels[rows]

    def pseudo_labels(self, least: float) -> tuple[Int64Array, Int64Array, Float32Array]:
        """Candidates without a label whose class is sure; near-duplicates of labelled rows have that label.

        Args:
            least: smallest probability of the class, as model and neighbours have it together.

        Returns:
            Rows int64[n], increasing; classes int64[n]; probabilities float32[n].

        Raises:
            InputError: there are no predictions yet, or `least` is no probability.
        """
        if not self._predicted or not 0 <= least <= 1:
            raise InputError(
                f"pseudo-labels of probability {least}" + ("" if self._predicted else " before there are predictions"),
                "label a round first" if 0 <= least <= 1 else "give a number from 0 to 1",
            )
        rows, labels, probability = self._beliefs.believed()
        copies, copied = self.copied_labels()
        place = np.searchsorted(rows, copies)
        labels[place], probability[place] = copied, np.maximum(probability[place], _COPIED)
        free = self._candidates[rows] & (probability >= least)
        return rows[free], labels[free], probability[free]

    def predictions(self, rows: Int64Array) -> tuple[Int64Array, Float32Array]:
        """The class of each row that the gate believes in, and its probability; a labelled row's own label, with 1.

        Returns:
            int64[n] and float32[n]; -1 and NaN for rows without a label before the first predictions.
        """
        known = self._predicted | self._beliefs.labelled[rows]
        chance = 1.0 / self.config.classes
        sure = self._beliefs.confidence[rows] * (1.0 - chance) + chance  # undoes the correction for chance
        best = np.where(known, self._beliefs.best[rows].astype(np.int64), -1)
        return best, np.where(known, sure, np.nan).astype(np.float32)

    def gains(self) -> tuple[Int64Array, Float32Array]:
        """Candidates without a label, int64[n], increasing, and what a label of each is expected to gain, float32[n].

        Raises:
            InputError: there are no predictions yet.
        """
        if not self._predicted:
            raise InputError("the gate has no gains before its first predictions", "label its first round, then next")
        rows = self._unlabelled()
        return rows, self._beliefs.gain[rows]

    @property
    def mean_gain(self) -> float | None:
        """Mean gain of the unlabelled candidates, 0 if there are none; None before the first predictions."""
        if not self._predicted:
            return None
        rows = self._unlabelled()
        return float(self._beliefs.gain[rows].mean(dtype=np.float64)) if len(rows) else 0.0

    @property
    def stopped_by(self) -> StopReason | None:
        """Why no new round will be requested, or None while one will."""
        return stop_reason(
            self.config,
            candidates=int(self._candidates.sum()) - self.aside_rows,
            worthwhile=int((self._candidates & ~self._beliefs.covered()).sum()),
            labelled=self.labelled_rows,
            rounds=self._rounds,
            mean_gain=self.mean_gain,
            first_gain=self._first_gain,
            measured=[self._measured[r] for r in sorted(self._measured)],
        )

    def labels(self) -> tuple[Int64Array, Int64Array, Int32Array]:
        """Accepted labels: rows int64[L], labels int64[L], rounds int32[L], in the order of the answers."""
        return self._rows.copy(), self._beliefs.best[self._rows].astype(np.int64), self._row_rounds.copy()

    # -- state ---------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """All that is needed to go on from here: JSON-able fields, and copies of the arrays by name."""
        fields = {
            "classes": self.config.classes,
            "rounds": self._rounds,
            "predicted": self._predicted,
            "first_gain": self._first_gain,
            "level": self._level,
            "seen": self._seen,
            "measured": [[r, *self._measured[r]] for r in sorted(self._measured)],
        }
        arrays: Arrays = {
            "candidates": self._candidates,
            "aside": self._aside,
            "confidence": self._beliefs.confidence,
            "best": self._beliefs.best,
            "gain": self._beliefs.gain,
            "rows": self._rows,
            "row_rounds": self._row_rounds,
            "open": self._open,
            "open_gains": self._open_gains,
        }
        return fields, {name: array.copy() for name, array in arrays.items()}

    def restore(self, fields: Mapping[str, Any], arrays: Mapping[str, AnyArray]) -> None:
        """Takes over what `state` gave; whatever the gate knew is replaced.

        Raises:
            InputError: a part is missing, or the state is of another graph, other candidates or other classes.
        """
        missing = [name for name in _FIELDS if name not in fields] + [name for name in _ARRAYS if name not in arrays]
        if missing:
            raise InputError(f"a gate's state without {missing}", "restore it from a backup, or start anew")
        candidates, own = arrays["candidates"], self._candidates
        fits = len(candidates) == self._graph.rows and np.array_equal(candidates[: len(own)], own)
        if fields["classes"] != self.config.classes or not fits:
            raise InputError(
                f"a gate's state of {fields['classes']} classes and {len(arrays['candidates'])} rows does not fit "
                f"{self.config.classes} classes and the candidates of {self._graph.rows} rows",
                "use the graph, candidates and classes that it was saved with",
            )
        beliefs = Beliefs(self.config, self._graph, self._beliefs.group)
        beliefs.confidence = arrays["confidence"].astype(np.float32)
        beliefs.best, beliefs.gain = arrays["best"].astype(np.uint16), arrays["gain"].astype(np.float32)
        beliefs.labelled[arrays["rows"]] = True
        self._beliefs, self._candidates = beliefs, candidates.astype(np.bool_)
        self._aside = arrays.get("aside", self._aside[:0]).astype(np.int64)  # there was none in former states
        self._rows, self._row_rounds = arrays["rows"].astype(np.int64), arrays["row_rounds"].astype(np.int32)
        self._open, self._open_gains = arrays["open"].astype(np.int64), arrays["open_gains"].astype(np.float32)
        self._rounds, self._predicted, self._seen = (
            int(fields["rounds"]),
            bool(fields["predicted"]),
            int(fields["seen"]),
        )
        self._first_gain = None if fields["first_gain"] is None else float(fields["first_gain"])
        self._level = float(fields["level"])
        self._measured = {int(r): (int(n), float(loss)) for r, n, loss in fields["measured"]}

    @classmethod
    def from_state(
        cls,
        config: GateConfig,
        graph: Neighbours,
        fields: Mapping[str, Any],
        arrays: Mapping[str, AnyArray],
    ) -> Self:
        """A gate in the state that `state` gave.

        Raises:
            InputError: as `restore`.
        """
        if "candidates" not in arrays:
            raise InputError("a gate's state without candidates", "restore it from a backup, or start anew")
        gate = cls(config, graph, arrays["candidates"].astype(np.bool_))
        gate.restore(fields, arrays)
        return gate
