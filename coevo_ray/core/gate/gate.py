"""The annotation gate: chooses the rows to label (Info-Coevolution, arXiv 2506.08070; docs/design.md#gate).

Rows are positions 0..N-1 of the neighbour graph. A gate works in rounds: predictions come in, rows are requested,
labels are submitted, until `stopped_by` names a reason. It keeps 12 bytes for each row beside the graph and what the
labels need, and 4 for each of near-duplicates and groups; its whole state can be saved between any two calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from coevo_ray.core.arrays import ArrayMapping, Arrays, BoolArray, Float32Array, Int32Array, Int64Array
from coevo_ray.core.gate import readings
from coevo_ray.core.gate.class_blocks import ClassBlocks
from coevo_ray.core.gate.config import GateConfig, Requests
from coevo_ray.core.gate.forecast import Forecast
from coevo_ray.core.gate.intake import LabelIntake
from coevo_ray.core.gate.refusal import refuse
from coevo_ray.core.gate.rounds import RoundDraw
from coevo_ray.core.gate.state import GateState
from coevo_ray.core.gate.stop import StopReason, stop_reason, stop_terms
from coevo_ray.core.graph.types import Neighbours
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError


class AnnotationGate:
    """Decides which rows to label next, and when to stop.

    Args:
        config: settings.
        graph: neighbours of N rows.
        candidates: bool[N], rows that may be asked about; the others still vote.

    Attributes:
        inner: the state of all rows, for `readings` and `online`.

    Raises:
        InputError: the candidates do not fit the graph, or there are none.
    """

    def __init__(self, config: GateConfig, graph: Neighbours, candidates: BoolArray) -> None:
        self.config = config
        self.inner = GateState(config, graph, candidates)
        self._draw, self._intake = RoundDraw(self.inner), LabelIntake(self.inner)

    # -- asking --------------------------------------------------------------------------------------------------

    def draw_seed(self, count: int) -> Requests:
        """Random candidates for round 0; `open_round` makes them the open requests.

        Args:
            count: rows, cut to `max_labels`.

        Raises:
            InputError: round 0 is over, or there are fewer candidates without a label.
        """
        if self.inner.rounds > 0:
            raise InputError(f"round {self.rounds} is open; random rows are for round 0", "call request")
        if len(self.inner.open) > 0 or self.stopped_by is not None:
            return self.inner.requests()
        return self._draw.draw_first(count)

    def draw(self) -> Requests:
        """Rows to label: unanswered rows of the open round, else a new round's; none once the gate has stopped.

        Depends only on the gate's state, and does not change it.

        Raises:
            InputError: there are no predictions yet.
        """
        if len(self.inner.open) > 0 or self.stopped_by is not None:
            return self.inner.requests()
        if not self.inner.predicted:
            raise InputError("the gate has no predictions", "call request_seed for random rows, or update_predictions")
        return self._draw.draw_next()

    def open_round(self, requests: Requests) -> None:
        """Makes drawn rows the open requests; nothing where there are none, or a round is open.

        Raises:
            InputError: they are not of the next round, or name a row that may not be asked about.
        """
        state = self.inner
        if len(state.open) > 0 or len(requests.positions) == 0:
            return
        if requests.round != state.rounds:
            raise InputError(f"requests of round {requests.round}, round {state.rounds} is next", "draw them again")
        refuse(~np.isin(requests.positions, state.unlabelled()), requests.positions, "may not be asked about")
        self._open(requests.positions, requests.gains)

    def _open(self, positions: Int64Array, gains: Float32Array) -> None:
        state = self.inner
        if state.predicted and state.first_gain is None:
            state.first_gain = state.mean_gain()
        state.open = np.concatenate([state.open, positions.astype(np.int64)])
        state.open_gains = np.concatenate([state.open_gains, gains.astype(np.float32)])

    def request_seed(self, count: int) -> Requests:
        """Random candidates for round 0, as the open requests; the same ones until they are answered.

        Raises:
            InputError: as `draw_seed`.
        """
        self.open_round(self.draw_seed(count))
        return self.inner.requests()

    def request(self) -> Requests:
        """Rows to label, as the open requests: see `draw`.

        Raises:
            InputError: there are no predictions yet.
        """
        self.open_round(self.draw())
        return self.inner.requests()

    # -- learning ------------------------------------------------------------------------------------------------

    def check_answers(self, positions: Int64Array, labels: Int64Array, names: Int64Array | None = None) -> None:
        """Refuses answers that no gate of these candidates and classes can take, whatever was requested.

        Args:
            positions: int64[n], answered rows.
            labels: int64[n].
            names: int64[n], what an error calls the rows (their row_ids); their positions when not given.

        Raises:
            InputError: a row is unknown or no candidate, a label is outside 0..C-1, or a row has two labels.
        """
        self.inner.beliefs.check_labels(positions, labels, names)
        refuse(~self.inner.candidates[positions], positions if names is None else names, "may not be asked about")

    def submit(self, positions: Int64Array, labels: Int64Array) -> int:
        """Takes labels of requested rows; the round closes with the last of its answers.

        Args:
            positions: int64[n], requested rows; any part of them, in any order.
            labels: int64[n] in 0..C-1.

        Returns:
            Number of new labels; a repeated label changes nothing.

        Raises:
            InputError: a row is unknown or was not requested, a label is outside 0..C-1, or two labels of a row differ;
                nothing is taken.
        """
        return self._intake.submit(positions, labels)

    def volunteer(self, positions: Int64Array, labels: Int64Array) -> int:
        """Takes unrequested labels, as round -1: they teach like others, but are not a random sample.

        Args:
            positions: int64[n], rows without a label that are not open.
            labels: int64[n] in 0..C-1.

        Returns:
            Number of new labels; a repeated label changes nothing.

        Raises:
            InputError: a row is no candidate or is requested, and as `submit`; nothing is taken.
        """
        return self._intake.volunteer(positions, labels)

    def relabel(self, positions: Int64Array, labels: Int64Array) -> None:
        """Replaces labels of labelled rows, after annotators revised them.

        Args:
            positions: int64[n].
            labels: int64[n] in 0..C-1.

        Raises:
            InputError: a row has no label, or a label is outside 0..C-1; nothing is taken.
        """
        self._intake.relabel(positions, labels)

    def set_aside(self) -> int:
        """Closes the open round without the rows that have no label: they are not requested again.

        A later label of theirs counts as unrequested.

        Returns:
            Number of rows that were set aside; 0 where no round is open.

        Raises:
            InputError: no row of the round has a label yet.
        """
        return self._intake.set_aside()

    def check_aside(self) -> None:
        """Refuses what `set_aside` does.

        Raises:
            InputError: no row of the open round has a label yet.
        """
        self._intake.check_aside()

    def update_predictions(self, probabilities: Float32Array | ClassBlocks) -> None:
        """Takes the model's new predictions and computes all gains from them.

        Args:
            probabilities: float32[N, C], class probabilities of all rows; or a block of classes at a time.

        Raises:
            InputError: they do not fit the graph and the classes, or are no distributions; nothing changes.
        """
        state = self.inner
        said = state.beliefs.take_predictions(probabilities)
        state.predicted, state.seen = True, len(state.labelled)
        state.set_level()
        state.note_said(said)

    def note_loss(self, round_: int, loss: float) -> None:
        """Takes the loss that was measured after a round; a repeat for the same round replaces it.

        Args:
            round_: a closed round, or -1 for a measurement before any round was closed.
            loss: mean cross-entropy in nats, best on rows that were chosen at random.

        Raises:
            InputError: the round is not closed, or the loss is no number of 0 or more.
        """
        self.inner.note_loss(round_, loss)

    def check_loss(self, round_: int, loss: float) -> None:
        """Refuses what `note_loss` does.

        Raises:
            InputError: the round is not closed, or the loss is no number of 0 or more.
        """
        self.inner.check_loss(round_, loss)

    # -- arriving rows -------------------------------------------------------------------------------------------

    def use_graph(self, graph: Neighbours) -> None:
        """Continues with another graph of the same rows: one that grows.

        Raises:
            InputError: it has another number of rows.
        """
        if self.config.draw == "top" and self.config.typical > 0 and graph.rows == self.rows:
            self._draw.groups(1)  # of the graph as it was built: the lists of its rows change as others arrive
        self.inner.use_graph(graph)

    def grow(self, best: Int64Array, confidence: Float32Array, gain: Float32Array) -> None:
        """Adds rows appended to the graph as candidates; a gate that has ended stays ended.

        More rows change the inputs of the stop, not why it ended: only other terms open it again.

        Args:
            best: int64[b], their classes.
            confidence: float32[b], chance-corrected.
            gain: float32[b].
        """
        if len(best) and (reason := self.stopped_by) is not None:
            self.inner.ended = (reason, stop_terms(self.config))
        self.inner.grow(best, confidence, gain)

    def open_more(self, positions: Int64Array, gains: Float32Array) -> None:
        """Adds rows to the open requests; if no round is open, they make the next one.

        Args:
            positions: int64[n].
            gains: float32[n].

        Raises:
            InputError: a row is open or labelled already, or is no candidate.
        """
        free = np.isin(positions, self.inner.unlabelled()) & ~np.isin(positions, self.inner.open)
        refuse(~free, positions, "may not be asked about")
        self._open(positions, gains)

    @property
    def labels_left(self) -> int:
        """Number of rows that the budget still allows."""
        left = self.inner.labels_left()
        return (self.rows - self.labelled_rows if left is None else left) - self.outstanding

    # -- status --------------------------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """Rows, those that arrived included."""
        return len(self.inner.candidates)

    @property
    def rounds(self) -> int:
        """Closed rounds, which is the number of the open or next one."""
        return self.inner.rounds

    @property
    def labelled_rows(self) -> int:
        """Accepted labels."""
        return len(self.inner.labelled)

    @property
    def outstanding(self) -> int:
        """Requested rows that are not answered."""
        return self._intake.outstanding

    @property
    def aside_rows(self) -> int:
        """Rows that were set aside and have no label."""
        return int((~self.inner.beliefs.labelled[self.inner.aside]).sum())

    @property
    def has_predictions(self) -> bool:
        """Tests whether there are predictions to request rows by."""
        return self.inner.predicted

    @property
    def mean_gain(self) -> float | None:
        """Mean gain of the unlabelled candidates, 0 if there are none; None before the first predictions."""
        return self.inner.mean_gain()

    @property
    def stopped_by(self) -> StopReason | None:
        """The reason why no new round will be requested; None while one will."""
        state = self.inner
        if state.ended is not None and state.ended[1] == stop_terms(self.config):
            return state.ended[0]
        return stop_reason(
            self.config,
            candidates=int(state.candidates.sum()) - self.aside_rows,
            worthwhile=int((state.candidates & ~state.beliefs.covered()).sum()),
            labelled=self.labelled_rows,
            rounds=state.rounds,
            mean_gain=self.mean_gain,
            first_gain=state.first_gain,
            measured=[state.measured[r] for r in sorted(state.measured)],
            forecast=self.forecast,
        )

    @property
    def forecast(self) -> Forecast | None:
        """Accuracy with further labels; None before the first predictions, or without rows for validation."""
        return self.inner.forecast()

    def is_validating(self, positions: Int64Array) -> BoolArray:
        """Tests which rows have labels that the model must not learn from, bool[n]."""
        return self.inner.beliefs.untold[positions]

    def open_requests(self) -> Requests:
        """Requests of the open round without an answer."""
        return self.inner.requests()

    @property
    def open_positions(self) -> Int64Array:
        """int64[r], requests of the open round, answered or not."""
        return self.inner.open.copy()

    def rounds_of(self, positions: Int64Array) -> Int32Array:
        """The round that requested each row, int32[n]; -1 where none did, or the row has no label yet."""
        return readings.rounds_of(self.inner, positions)

    def is_labelled(self, positions: Int64Array) -> BoolArray:
        """Tests which rows have a label, bool[n]."""
        return self.inner.beliefs.labelled[positions]

    def labels(self) -> tuple[Int64Array, Int64Array, Int32Array]:
        """Accepted labels: positions int64[L], labels int64[L], rounds int32[L], in the order of the answers."""
        return readings.labels(self.inner)

    def predictions(self, positions: Int64Array) -> tuple[Int64Array, Float32Array]:
        """Class int64[n] and probability float32[n] of each row, see `readings.predictions`."""
        return readings.predictions(self.inner, positions)

    # -- state ---------------------------------------------------------------------------------------------------

    def state(self) -> tuple[JsonObject, Arrays]:
        """Everything needed to continue from here: JSON-able fields, and copies of the arrays by name."""
        return self.inner.save()

    def restore(self, fields: Mapping[str, Any], arrays: ArrayMapping) -> None:
        """Restores the result of `state`; all earlier knowledge is replaced.

        Raises:
            InputError: a part is missing, or the state is of another graph, other candidates or other classes.
        """
        self.inner.restore(fields, arrays)

    @classmethod
    def from_state(
        cls, config: GateConfig, graph: Neighbours, fields: Mapping[str, Any], arrays: ArrayMapping
    ) -> AnnotationGate:
        """Makes a gate from the result of `state`.

        Raises:
            InputError: as `restore`.
        """
        if "candidates" not in arrays:
            raise InputError("a gate's state without candidates", "restore it from a backup, or start over")
        gate = cls(config, graph, arrays["candidates"].astype(np.bool_))
        gate.restore(fields, arrays)
        return gate
