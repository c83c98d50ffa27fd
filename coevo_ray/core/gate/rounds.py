"""What an annotation gate asks about next (DESIGN 5.4)."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Float64Array, Int64Array
from coevo_ray.core.gate.beliefs import refuse
from coevo_ray.core.gate.config import Requests
from coevo_ray.core.gate.draw import (
    by_gain,
    by_typicality,
    draw_apart,
    draw_in_proportion,
    draw_random,
    row_noise,
)
from coevo_ray.core.gate.groups import NeighbourGroups, typicality
from coevo_ray.core.gate.rules import effective_classes
from coevo_ray.core.gate.state import GateBook
from coevo_ray.errors import InputError

_APART_NEIGHBOURS = 8
_EVEN = 0.75  # of all classes, from which they are not skewed


class AskingGate(GateBook):
    """Draws and opens rounds of requests; see `core.gate.AnnotationGate`, which learns from their answers."""

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

    def _noise(self) -> Float64Array:
        return row_noise(self._graph.rows, self.config.seed, self._rounds)
