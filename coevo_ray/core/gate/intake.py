"""Takes labels into a gate's state, and closes its rounds."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.gate.refusal import refuse
from coevo_ray.core.gate.state import UNASKED, GateState
from coevo_ray.errors import InputError


class LabelIntake:
    """Labels of requested rows, labels that came unasked, corrections; see the methods of `AnnotationGate`.

    Args:
        state: the gate's, which it changes.
    """

    def __init__(self, state: GateState) -> None:
        self._state = state

    @property
    def outstanding(self) -> int:
        """Requested rows that are not answered."""
        return int((~self._state.beliefs.labelled[self._state.open]).sum())

    def submit(self, positions: Int64Array, labels: Int64Array) -> int:
        """Takes labels int64[n] of requested rows int64[n]; returns how many are new.

        Raises:
            InputError: an answer cannot be taken; none is.
        """
        new = self._state.beliefs.new_answers(self._state.open, positions, labels)
        self._take(positions[new].astype(np.int64), labels[new], self._state.rounds)
        return int(new.sum())

    def volunteer(self, positions: Int64Array, labels: Int64Array) -> int:
        """Takes labels int64[n] of rows int64[n] that are not requested; returns how many are new.

        Raises:
            InputError: an answer cannot be taken; none is.
        """
        free = self._state.candidates.copy()
        free[self._state.open] = False
        new = self._state.beliefs.new_answers(np.flatnonzero(free), positions, labels)
        self._take(positions[new].astype(np.int64), labels[new], UNASKED)
        return int(new.sum())

    def relabel(self, positions: Int64Array, labels: Int64Array) -> None:
        """Replaces the labels of labelled rows int64[n] by int64[n].

        Raises:
            InputError: a row has no label, or a label is outside 0..C-1; nothing is taken.
        """
        beliefs = self._state.beliefs
        beliefs.check_labels(positions, labels)
        refuse(~beliefs.labelled[positions], positions, "have no label to replace")
        beliefs.take_labels(positions, labels)

    def set_aside(self) -> int:
        """Closes the open round without its unlabelled rows; returns their number.

        Raises:
            InputError: no row of the round has a label yet.
        """
        self.check_aside()
        if len(self._state.open) == 0:
            return 0
        waiting = self._state.requests().positions
        self._state.aside = np.concatenate([self._state.aside, waiting])
        self._close()
        return len(waiting)

    def check_aside(self) -> None:
        """Refuses what `set_aside` does.

        Raises:
            InputError: no row of the open round has a label yet.
        """
        if 0 < len(self._state.open) == self.outstanding:
            raise InputError(
                f"none of the {self.outstanding} rows of round {self._state.rounds} has a label",
                "label some, or wait for them",
            )

    def _take(self, positions: Int64Array, labels: Int64Array, round_: int) -> None:
        state = self._state
        state.labelled = np.concatenate([state.labelled, positions])
        requested = np.full(len(positions), round_, dtype=np.int32)
        state.label_rounds = np.concatenate([state.label_rounds, requested])
        # A label that came unasked is of no random row: the model learns from it like from others.
        untold = np.isin(positions, state.reserved) & (round_ != UNASKED)
        state.beliefs.take_labels(positions, labels, untold)
        if len(state.open) > 0 and self.outstanding == 0:
            self._close()

    def _close(self) -> None:
        state = self._state
        # Only now, not after each part of the answers, so that their parts and order do not matter.
        if state.config.rule == "compat" and state.predicted:
            state.beliefs.recheck(state.open[state.beliefs.labelled[state.open]])
        state.rounds += 1
        state.open, state.open_gains = state.open[:0], state.open_gains[:0]
