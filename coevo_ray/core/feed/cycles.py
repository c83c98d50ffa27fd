"""Positions in repeated passes over rows, for training that counts steps, not epochs (docs/design.md#feed).

Semi-supervised training steps through two sets of rows of different sizes side by side. Each set has its own passes,
and the rows of a step follow from its number alone, whatever the number of workers: a restart needs nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from coevo_ray.errors import InputError


@dataclass(frozen=True)
class Cycle:
    """Repeated passes over some rows, in batches of nearly equal size.

    A pass is cut evenly: in a last batch of a few rows, each would have many times the weight of the other rows, in
    every pass.

    Attributes:
        rows: rows of a pass, 1 or more.
        most: largest number of rows of a batch, 1 or more.

    Raises:
        InputError: one of them is below 1.

    Examples:
        >>> cycle = Cycle(rows=10, most=4)
        >>> cycle.steps, cycle.batch, cycle.at(step=4), cycle.visits(step=4)
        (3, 4, (1, 4), 14)
    """

    rows: int
    most: int

    def __post_init__(self) -> None:
        if min(self.rows, self.most) < 1:
            raise InputError(f"a cycle of {self.rows} rows in batches of {self.most}", "both must be 1 or more")

    @property
    def steps(self) -> int:
        """Number of batches of a pass."""
        return -(-self.rows // self.most)

    @property
    def batch(self) -> int:
        """Number of rows of a batch; the last batch of a pass may have fewer, by less than `steps`."""
        return -(-self.rows // self.steps)

    def at(self, step: int) -> tuple[int, int]:
        """Locates a step.

        Args:
            step: number of the step, from 0.

        Returns:
            Number of the step's pass, from 0, and the number of rows of that pass before the step.
        """
        number, inside = divmod(step, self.steps)
        return number, inside * self.batch

    def visits(self, step: int) -> int:
        """Returns the number of row visits of all steps before this one; a row counts once per pass."""
        number, inside = self.at(step)
        return number * self.rows + inside
