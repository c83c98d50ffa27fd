"""The learning rate, by share of the work: schedules that end exactly with the last step, however many there are.

Subsets may differ in size from epoch to epoch, and some policies know the size of an epoch only when it begins. So the
position in the schedule runs from 0 (first step) to 1 (last step), and at each epoch's start the way that is left is
divided by the steps that are left: those of this epoch, which are known, and those planned for later ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Schedule = Literal["onecycle", "cosine", "constant"]

_START = 1 / 25  # of the peak, where the rise begins
_END = _START / 1e4  # where one-cycle ends


def rate_factor(schedule: Schedule, warm_up: float, position: float) -> float:
    """The learning rate as a share of its peak.

    Args:
        schedule: `onecycle` rises as half a cosine from 1/25 to 1 and falls so to 4e-6 (Smith and Topin 2019, as in
            PyTorch); `cosine` rises linearly from 1/25 and falls as half a cosine to 0; `constant` stays.
        warm_up: share of the way in which it rises; 0 begins at the peak.
        position: in [0, 1].
    """
    if position < warm_up:
        way = position / warm_up
        return _START + (1 - _START) * (way if schedule != "onecycle" else 0.5 - 0.5 * math.cos(math.pi * way))
    if schedule == "constant":
        return 1.0
    low = _END if schedule == "onecycle" else 0.0
    way = (position - warm_up) / (1 - warm_up)
    return low + (1 - low) * (0.5 + 0.5 * math.cos(math.pi * way))


def steps_of(rows: int, global_batch: int) -> int:
    """Steps of an epoch with so many rows."""
    return -(-rows // global_batch)


class Progress:
    """The position in the schedule, step by step.

    Args:
        state: an earlier result of `state`, to go on from there; None to begin.
    """

    def __init__(self, state: dict[str, float] | None = None) -> None:
        # The way from `_base` to 1 has `_left` strides, of which `_made` are made.
        self._base, self._made, self._left = 0.0, 0, 0
        if state is not None:
            self._base, self._made, self._left = state["base"], int(state["made"]), int(state["left"])

    def state(self) -> dict[str, float]:
        """The position, for a checkpoint."""
        return {"base": self._base, "made": self._made, "left": self._left}

    @property
    def position(self) -> float | None:
        """In [0, 1], of the last step that was made; None before the first."""
        return None if self._left == 0 else self._base + (1 - self._base) * (self._made / self._left)

    def plan(self, steps: int, later: Sequence[int] = ()) -> None:
        """Plans the way that is left, at the start of an epoch.

        Args:
            steps: steps of this epoch, 1 or more.
            later: planned steps of each later epoch.
        """
        left = steps + sum(later)
        here = self.position
        if here is None:
            # As if a step had been made one stride before the start. A single step is the start, not the end.
            left = max(2, left)
            here = -1 / (left - 1)
        self._base, self._made, self._left = here, 0, left

    def step(self) -> float:
        """Advances to the next step; its position in [0, 1]."""
        self._made += 1
        position = self.position
        assert position is not None
        return min(1.0, max(0.0, position))
