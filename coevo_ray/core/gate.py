"""The annotation gate: which rows deserve a label (Info-Coevolution, arXiv 2506.08070; DESIGN 5.4).

Rows are positions 0..N-1 of the neighbour graph. A gate lives through rounds: predictions come in, rows are requested,
labels are submitted, until `stopped_by` names a reason. It keeps 12 bytes for each row beside the graph and what the
labels need, and its whole state can be saved between any two calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from coevo_ray.core.gate_beliefs import Beliefs, refuse
from coevo_ray.core.gate_config import GateConfig, Requests
from coevo_ray.core.gate_draw import draw_diverse, draw_in_proportion, draw_random, row_noise
from coevo_ray.core.gate_stop import StopReason, stop_reason
from coevo_ray.core.graph import Neighbours
from coevo_ray.errors import InputError

__all__ = ["AnnotationGate", "GateConfig", "Requests", "StopReason"]

Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

_APART_NEIGHBOURS = 8
_COPIED = (
    0.95  # of labels that near-duplicates give: all were right among 38 000 real ones, 9 of 10 among CIFAR-10's 500
)
UNASKED = -1  # the round of labels that were not requested

_FIELDS = ("classes", "rounds", "predicted", "first_gain", "level", "seen", "measured")
_ARRAYS = ("candidates", "confidence", "best", "gain", "rows", "row_rounds", "open", "open_gains")


class AnnotationGate:
    """Decides which rows are labelled next, and when enough are.

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

    # -- asking --------------------------------------------------------------------------------------------------

    def draw_seed(self, count: int) -> Requests:
        """Random candidates for round 0; `open_round` makes them the open requests.

        Args:
            count: rows, cut to `max_labels`.

        Raises:
            InputError: round 0 is over, or there are fewer candidates without a label.
        """
        if self._rounds > 0:
            raise InputError(f"round {self._rounds} is open; random rows are for round 0", "call request")
        if len(self._open) > 0 or self.stopped_by is not None:
            return self._requests()
        rows = self._unlabelled()
        limit = self.config.max_labels
        count = count if limit is None else min(count, limit - self.labelled_rows)
        if not 1 <= count <= len(rows):
            raise InputError(
                f"{count} random first rows are wanted of {len(rows)} candidates", f"ask for 1 to {len(rows)}"
            )
        return Requests(0, draw_random(rows, count, self._noise()), np.zeros(count, dtype=np.float32))

    def draw(self) -> Requests:
        """Rows to label: what is unanswered of the open round, else a new round's; none once the gate has stopped.

        A function of the gate's state, which it leaves as it is.

        Raises:
            InputError: there are no predictions yet.
        """
        if len(self._open) > 0 or self.stopped_by is not None:
            return self._requests()
        if not self._predicted:
            raise InputError("the gate has no predictions", "call request_seed for random rows, or update_predictions")
        rows = self._unlabelled()
        left = len(rows) if self.config.max_labels is None else self.config.max_labels - self.labelled_rows
        worth = rows[self._beliefs.gain[rows] > 0]  # others only where nothing else is left
        rows = worth if len(worth) else rows
        drawn = self._draw(rows, min(self.config.round_size, left, len(rows)))
        return Requests(self._rounds, drawn, self._beliefs.gain[drawn])

    def open_round(self, requests: Requests) -> None:
        """Makes drawn rows the open requests; nothing where there are none, or a round is open.

        Raises:
            InputError: they are not of the next round, or name a row that may not be asked about.
        """
        if len(self._open) > 0 or len(requests.row_ids) == 0:
            return
        if requests.round != self._rounds:
            raise InputError(f"requests of round {requests.round}, round {self._rounds} is next", "draw them again")
        refuse(~np.isin(requests.row_ids, self._unlabelled()), requests.row_ids, "may not be asked about")
        if self._predicted and self._first_gain is None:
            self._first_gain = self.mean_gain
        self._open, self._open_gains = requests.row_ids.astype(np.int64), requests.gains.astype(np.float32)

    def request_seed(self, count: int) -> Requests:
        """Random candidates for round 0, as the open requests; the same ones until they are answered.

        Raises:
            InputError: as `draw_seed`.
        """
        self.open_round(self.draw_seed(count))
        return self._requests()

    def request(self) -> Requests:
        """Rows to label, as the open requests: see `draw`.

        Raises:
            InputError: there are no predictions yet.
        """
        self.open_round(self.draw())
        return self._requests()

    def _draw(self, rows: Int64Array, count: int) -> Int64Array:
        gain, noise, config = self._beliefs.gain, self._noise(), self.config
        if config.rule == "compat":
            return draw_in_proportion(rows, gain, count, noise)
        if config.power is not None:
            done = self.labelled_rows / int(self._candidates.sum())
            last = config.power if config.last_power is None else config.last_power
            return draw_in_proportion(
                rows, gain ** np.float32(config.power + (last - config.power) * done), count, noise
            )
        return draw_diverse(
            rows,
            gain,
            count,
            noise,
            self._graph,
            neighbours=_APART_NEIGHBOURS,
            similarity=config.apart,
            taken=self._rows[self._seen :],  # what was answered there has not reached the gains yet
        )

    def _requests(self) -> Requests:
        waiting = ~self._beliefs.labelled[self._open]
        return Requests(self._rounds, self._open[waiting], self._open_gains[waiting])

    def _noise(self) -> npt.NDArray[np.float64]:
        return row_noise(self._graph.rows, self.config.seed, self._rounds)

    def _unlabelled(self) -> Int64Array:
        return np.flatnonzero(self._candidates & ~self._beliefs.labelled)

    # -- learning ------------------------------------------------------------------------------------------------

    def check_answers(self, row_ids: Int64Array, labels: Int64Array) -> None:
        """Refuses answers that no gate of these candidates and classes can take, whatever was requested.

        Raises:
            InputError: a row is unknown or no candidate, a label is outside 0..C-1, or a row has two labels.
        """
        self._beliefs.check_labels(row_ids, labels)
        refuse(~self._candidates[row_ids], row_ids, "may not be asked about")

    def submit(self, row_ids: Int64Array, labels: Int64Array) -> int:
        """Takes labels of requested rows; the round closes with the last of its answers.

        Args:
            row_ids: int64[n], requested rows; any part of them, in any order.
            labels: int64[n] in 0..C-1.

        Returns:
            Newly accepted labels; what was accepted before changes nothing.

        Raises:
            InputError: a row is unknown or was not requested, a label is outside 0..C-1, or two labels of a row differ;
                nothing is taken.
        """
        new = self._beliefs.new_answers(self._open, row_ids, labels)
        self._take(row_ids[new].astype(np.int64), labels[new], self._rounds)
        return int(new.sum())

    def volunteer(self, row_ids: Int64Array, labels: Int64Array) -> int:
        """Takes labels that came unasked, of round -1: they teach like others, but are no random sample.

        Args:
            row_ids: int64[n], rows without a label that are not open.
            labels: int64[n] in 0..C-1.

        Returns:
            Newly accepted labels; what was accepted before changes nothing.

        Raises:
            InputError: a row is no candidate or is requested, and as `submit`; nothing is taken.
        """
        free = self._candidates.copy()
        free[self._open] = False
        new = self._beliefs.new_answers(np.flatnonzero(free), row_ids, labels)
        self._take(row_ids[new].astype(np.int64), labels[new], UNASKED)
        return int(new.sum())

    def relabel(self, row_ids: Int64Array, labels: Int64Array) -> None:
        """Replaces labels of labelled rows, where annotators came to another conclusion.

        Raises:
            InputError: a row has no label, or a label is outside 0..C-1; nothing is taken.
        """
        self._beliefs.check_labels(row_ids, labels)
        refuse(~self._beliefs.labelled[row_ids], row_ids, "have no label to replace")
        self._beliefs.take_labels(row_ids, labels)

    def _take(self, rows: Int64Array, labels: Int64Array, round_: int) -> None:
        self._rows = np.concatenate([self._rows, rows])
        self._row_rounds = np.concatenate([self._row_rounds, np.full(len(rows), round_, dtype=np.int32)])
        self._beliefs.take_labels(rows, labels)
        if len(self._open) > 0 and self.outstanding == 0:
            # Only now, not after each part of the answers, so that their parts and order do not matter.
            if self.config.rule == "compat" and self._predicted:
                self._beliefs.recheck(self._open)
            self._rounds += 1
            self._open, self._open_gains = self._open[:0], self._open_gains[:0]

    def update_predictions(self, probabilities: Float32Array) -> None:
        """Takes the model's new predictions and computes all gains from them.

        Args:
            probabilities: float32[N, C], class probabilities of all rows.

        Raises:
            InputError: they do not fit the graph and the classes, or are no distributions.
        """
        self._beliefs.take_predictions(probabilities)
        self._predicted, self._seen = True, len(self._rows)
        gains = self._beliefs.gain[self._unlabelled()]
        count = self.config.round_size
        self._level = float(np.partition(gains, -count)[-count]) if len(gains) >= count else 0.0

    def note_loss(self, round_: int, loss: float) -> None:
        """Takes the loss that was measured after a round; a repeat for the same round replaces it.

        Args:
            round_: a closed round, or -1 for a measurement before any round was closed.
            loss: mean cross-entropy in nats, best on rows that were chosen at random.

        Raises:
            InputError: the round is not closed, or the loss is no number of 0 or more.
        """
        self.check_loss(round_, loss)
        self._measured[int(round_)] = (self.labelled_rows, float(loss))

    def check_loss(self, round_: int, loss: float) -> None:
        """Refuses what `note_loss` does.

        Raises:
            InputError: the round is not closed, or the loss is no number of 0 or more.
        """
        if not -1 <= round_ < self._rounds:
            raise InputError(f"a loss of round {round_}; {self._rounds} rounds are closed", "note it afterwards")
        if not 0 <= loss < np.inf:
            raise InputError(f"loss {loss}", "give a number of 0 or more")

    # -- arriving rows ------------------------------------------------------------------------------------------

    def use_graph(self, graph: Neighbours) -> None:
        """Goes on with another graph of the same rows: one that grows.

        Raises:
            InputError: it has another number of rows.
        """
        if graph.rows != self.rows:
            raise InputError(f"a graph of {graph.rows} rows for a gate of {self.rows}", "give the graph of its rows")
        self._graph = graph
        self._beliefs.use_graph(graph)

    def grow(self, best: Int64Array, confidence: Float32Array, gain: Float32Array) -> None:
        """Takes in rows that were appended to the graph, which must be one that grows; all of them are candidates.

        Args:
            best: int64[b], their classes.
            confidence: float32[b], chance-corrected.
            gain: float32[b].
        """
        self._beliefs.grow(best, confidence, gain)
        self._candidates = np.concatenate([self._candidates, np.ones(len(best), dtype=np.bool_)])

    def open_more(self, rows: Int64Array, gains: Float32Array) -> None:
        """Adds rows to the open requests; where no round is open, they are the next one.

        Raises:
            InputError: a row is open or labelled already, or is no candidate.
        """
        refuse(~np.isin(rows, self._unlabelled()) | np.isin(rows, self._open), rows, "may not be asked about")
        if self._predicted and self._first_gain is None:
            self._first_gain = self.mean_gain
        self._open = np.concatenate([self._open, rows.astype(np.int64)])
        self._open_gains = np.concatenate([self._open_gains, gains.astype(np.float32)])

    @property
    def gain_level(self) -> float:
        """The gain with which a row would have been among those of a round when the latest predictions came."""
        return self._level

    @property
    def labels_left(self) -> int:
        """How many more rows the budget allows to ask about."""
        limit = len(self._candidates) if self.config.max_labels is None else self.config.max_labels
        return limit - self.labelled_rows - self.outstanding

    def asked_rows(self, *, unseen: bool = False) -> Int64Array:
        """Rows that are labelled or requested; `unseen`: of these, those whose labels no predictions have seen yet."""
        return np.concatenate([self._rows[self._seen :] if unseen else self._rows, self._open])

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

    def gains(self) -> tuple[Int64Array, Float32Array]:
        """Candidates without a label, int64[n], increasing, and what a label of each is expected to gain, float32[n].

        Raises:
            InputError: there are no predictions yet.
        """
        if not self._predicted:
            raise InputError("the gate has no gains before its first predictions", "label its first round, then next")
        rows = self._unlabelled()
        return rows, self._beliefs.gain[rows]

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
            candidates=int(self._candidates.sum()),
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

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
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
        arrays: dict[str, npt.NDArray[Any]] = {
            "candidates": self._candidates,
            "confidence": self._beliefs.confidence,
            "best": self._beliefs.best,
            "gain": self._beliefs.gain,
            "rows": self._rows,
            "row_rounds": self._row_rounds,
            "open": self._open,
            "open_gains": self._open_gains,
        }
        return fields, {name: array.copy() for name, array in arrays.items()}

    def restore(self, fields: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
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
        arrays: Mapping[str, npt.NDArray[Any]],
    ) -> AnnotationGate:
        """A gate in the state that `state` gave.

        Raises:
            InputError: as `restore`.
        """
        if "candidates" not in arrays:
            raise InputError("a gate's state without candidates", "restore it from a backup, or start anew")
        gate = cls(config, graph, arrays["candidates"].astype(np.bool_))
        gate.restore(fields, arrays)
        return gate
