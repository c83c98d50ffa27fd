"""Draws the rows of a gate's next round."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Float64Array, Int32Array, Int64Array
from coevo_ray.core.gate.config import Requests
from coevo_ray.core.gate.draw import GainOrder, by_typicality, draw_apart, draw_in_proportion, draw_random, row_noise
from coevo_ray.core.gate.groups import NeighbourGroups, typicality
from coevo_ray.core.gate.herding import draw_herding
from coevo_ray.core.gate.rules import effective_classes
from coevo_ray.core.gate.state import UNASKED, GateState
from coevo_ray.errors import InputError

_APART_NEIGHBOURS = 8
_EVEN = 0.75  # of all classes, from which they are not skewed


class RoundDraw:
    """Draws from a gate's state, which it leaves as it is.

    Args:
        state: the gate's.
    """

    def __init__(self, state: GateState) -> None:
        self._state = state
        self._levels: NeighbourGroups | None = None  # groups of neighbours, once they are needed

    def draw_first(self, count: int) -> Requests:
        """Random candidates for round 0.

        Args:
            count: rows, cut to `max_labels`.

        Raises:
            InputError: there are fewer candidates without a label.
        """
        rows, left = self._state.unlabelled(), self._state.labels_left()
        count = count if left is None else min(count, left)
        validating = self._validating(count)
        if not 1 <= count <= len(rows):
            raise InputError(
                f"{count} random first rows are wanted of {len(rows)} candidates", f"ask for 1 to {len(rows)}"
            )
        first = draw_random(self._not_reserved(rows), count - len(validating), self._noise())
        return Requests(0, np.concatenate([first, validating]), np.zeros(count, dtype=np.float32))

    def draw_next(self) -> Requests:
        """Rows of the next round by the configured rule (arXiv 2506.08070 with `compat`)."""
        state = self._state
        rows, gain, left = state.unlabelled(), state.beliefs.gain, state.labels_left()
        count = min(state.config.round_size, len(rows) if left is None else left)
        validating = self._validating(count)
        rows = self._not_reserved(rows)
        worth = rows[gain[rows] > 0]  # others only where nothing else is left
        rows = worth if len(worth) else rows
        drawn = self._draw(rows, min(count - len(validating), len(rows)))
        drawn = np.concatenate([drawn, validating])
        return Requests(state.rounds, drawn, gain[drawn])

    def _not_reserved(self, rows: Int64Array) -> Int64Array:
        reserved = np.zeros(len(self._state.candidates), dtype=np.bool_)
        reserved[self._state.reserved] = True
        return rows[~reserved[rows]]

    def _validating(self, count: int) -> Int64Array:
        """Rows for validation among the next so many: as many as keep their share of all labels that were asked for.

        All that are left where nothing else is.
        """
        state = self._state
        left, asked = state.reserved_left(), int((state.label_rounds != UNASKED).sum())
        others = len(state.unlabelled()) - len(left)
        share = round(state.config.validated_share * (asked + count)) - int(state.validating.sum())
        return left[: min(max(share, count - others, 0), count)]

    def _draw(self, rows: Int64Array, count: int) -> Int64Array:
        gain, config = self._state.beliefs.gain, self._state.config
        if config.rule == "compat":
            return draw_in_proportion(rows, gain, count, self._noise())
        if config.power is not None:
            done = self._state.labelled_share
            last = config.power if config.last_power is None else config.last_power
            return draw_in_proportion(
                rows, gain ** np.float32(config.power + (last - config.power) * done), count, self._noise()
            )
        early = self._early()
        if early and config.draw != "top":
            return draw_herding(rows, gain, count, self._state.graph, self._state.told)
        order: Int64Array | GainOrder = GainOrder(rows, gain, self._noise())
        if early:
            group = self.groups(len(self._state.labelled) + count)
            order = by_typicality(order, count, group, self._state.beliefs.told, typicality(self._state.graph))
        return draw_apart(
            order,
            count,
            self._state.graph,
            neighbours=_APART_NEIGHBOURS,
            similarity=config.apart,
            taken=self._unseen(),
        )

    def _unseen(self) -> Int64Array:
        """Labelled rows whose answers have not reached the gains yet."""
        rows = self._state.labelled[self._state.seen :]
        return rows[~self._state.beliefs.untold[rows]]

    def _early(self) -> bool:
        """True while rows are drawn that stand for others, by herding or as the typical ones of groups.

        Where classes are skewed those are of the frequent ones: on CIFAR-10 with classes up to 50 times rarer than the
        first, the rows from the top were better by a point, and by 1.4 than herding.
        """
        config, state = self._state.config, self._state
        if config.rule == "compat" or config.power is not None or state.labelled_share >= config.typical:
            return False
        labels = state.beliefs.best[state.labelled[state.label_rounds == 0]]
        return effective_classes(np.bincount(labels, minlength=config.classes)) >= _EVEN * config.classes

    def groups(self, count: int) -> Int32Array:
        """The group of each row, int32[N], about `count` of them; rows that arrived are groups of their own."""
        if self._levels is None:
            self._levels = NeighbourGroups.of(self._state.graph)
        built = self._levels.about(count)
        group: Int32Array = np.arange(len(built), len(built) + len(self._state.candidates), dtype=np.int32)
        group[: len(built)] = built
        return group

    def _noise(self) -> Float64Array:
        return row_noise(self._state.graph.rows, self._state.config.seed, self._state.rounds)
