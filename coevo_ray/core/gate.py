"""The annotation gate: which rows deserve a label (Info-Coevolution, arXiv 2506.08070; DESIGN 5.4).

Rows are positions 0..N-1 of the neighbour graph. A gate lives through rounds: predictions come in, rows are requested,
labels are submitted, until `stopped_by` names a reason. It keeps 12 bytes for each row beside the graph and what the
labels need, and 4 for each of near-duplicates and groups; its whole state can be saved between any two calls.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coevo_ray.core.gate_beliefs import refuse
from coevo_ray.core.gate_book import UNASKED, GateBook
from coevo_ray.core.gate_config import GateConfig, Requests
from coevo_ray.core.gate_draw import (
    by_gain,
    by_typicality,
    draw_apart,
    draw_in_proportion,
    draw_random,
    row_noise,
)
from coevo_ray.core.gate_rules import effective_classes
from coevo_ray.core.gate_stop import StopReason
from coevo_ray.core.graph import Neighbours
from coevo_ray.core.groups import NeighbourGroups, typicality
from coevo_ray.errors import InputError

__all__ = ["AnnotationGate", "GateConfig", "Requests", "StopReason"]

Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]

_APART_NEIGHBOURS = 8
_EVEN = 0.75  # of all classes, from which they are not skewed


class AnnotationGate(GateBook):
    """Decides which rows are labelled next, and when enough are.

    Args:
        config: settings.
        graph: neighbours of N rows.
        candidates: bool[N], rows that may be asked about; the others still vote.

    Raises:
        InputError: the candidates do not fit the graph, or there are none.
    """

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
        order = by_gain(rows, gain, noise)
        if self._typical_next():
            group = self._groups(self.labelled_rows + count)
            order = by_typicality(order, count, group, self._beliefs.labelled, typicality(self._graph))
        return draw_apart(
            order,
            count,
            self._graph,
            neighbours=_APART_NEIGHBOURS,
            similarity=config.apart,
            taken=self._rows[self._seen :],  # what was answered there has not reached the gains yet
        )

    def _typical_next(self) -> bool:
        """Whether the next rows are the typical ones of groups.

        Where classes are skewed those are of the frequent ones: on CIFAR-10 with classes up to 50 times rarer than the
        first, the rows from the top were better by a point.
        """
        config, share = self.config, self.labelled_rows / int(self._candidates.sum())
        if config.rule == "compat" or config.power is not None or share >= config.typical:
            return False
        labels = self._beliefs.best[self._rows[self._row_rounds == 0]]
        return effective_classes(np.bincount(labels, minlength=config.classes)) >= _EVEN * config.classes

    def _groups(self, count: int) -> Int64Array:
        """The group of each row, int64[N], about `count` of them; rows that arrived are groups of their own."""
        if self._levels is None:
            self._levels = NeighbourGroups.of(self._graph)
        known = self._levels.about(count)
        group: Int64Array = len(known) + np.arange(self.rows)
        group[: len(known)] = known
        return group

    def _noise(self) -> npt.NDArray[np.float64]:
        return row_noise(self._graph.rows, self.config.seed, self._rounds)

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
