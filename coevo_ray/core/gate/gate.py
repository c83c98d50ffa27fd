"""The annotation gate: which rows deserve a label (Info-Coevolution, arXiv 2506.08070; DESIGN 5.4).

Rows are positions 0..N-1 of the neighbour graph. A gate lives through rounds: predictions come in, rows are requested,
labels are submitted, until `stopped_by` names a reason. It keeps 12 bytes for each row beside the graph and what the
labels need, and 4 for each of near-duplicates and groups; its whole state can be saved between any two calls.
"""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Float32Array, Int64Array
from coevo_ray.core.gate.beliefs import refuse
from coevo_ray.core.gate.config import GateConfig, Requests
from coevo_ray.core.gate.rounds import AskingGate
from coevo_ray.core.gate.state import UNASKED
from coevo_ray.core.gate.stop import StopReason
from coevo_ray.core.graph.types import Neighbours
from coevo_ray.errors import InputError

__all__ = ["AnnotationGate", "GateConfig", "Requests", "StopReason"]


class AnnotationGate(AskingGate):
    """Decides which rows are labelled next, and when enough are.

    Args:
        config: settings.
        graph: neighbours of N rows.
        candidates: bool[N], rows that may be asked about; the others still vote.

    Raises:
        InputError: the candidates do not fit the graph, or there are none.
    """

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
            self._close()

    def _close(self) -> None:
        # Only now, not after each part of the answers, so that their parts and order do not matter.
        if self.config.rule == "compat" and self._predicted:
            self._beliefs.recheck(self._open[self._beliefs.labelled[self._open]])
        self._rounds += 1
        self._open, self._open_gains = self._open[:0], self._open_gains[:0]

    def set_aside(self) -> int:
        """Closes the open round without the rows that have no label: they are not requested again.

        A label of theirs that comes later counts as one that came unasked.

        Returns:
            Rows that were set aside; 0 where no round is open.

        Raises:
            InputError: no row of the round has a label yet.
        """
        self.check_aside()
        if len(self._open) == 0:
            return 0
        waiting = self._requests().row_ids
        self._aside = np.concatenate([self._aside, waiting])
        self._close()
        return len(waiting)

    def check_aside(self) -> None:
        """Refuses what `set_aside` does.

        Raises:
            InputError: no row of the open round has a label yet.
        """
        if 0 < len(self._open) == self.outstanding:
            raise InputError(
                f"none of the {len(self._open)} rows of round {self._rounds} has a label",
                "label some, or wait for them",
            )

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
        if self.config.rule == "margin" and self.config.typical > 0:
            self._groups(1)  # of the graph as it was built: the lists of its rows change as others arrive
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
