"""Rows that are visited again and again: where a training that goes by steps stands in them (DESIGN section 5.5).

Two sets of rows of different sizes are stepped through side by side. Each has its own passes, and what a step uses of
either follows from the step's number alone: a restart needs no position but that, whatever the number of workers.
"""

from __future__ import annotations

from dataclasses import dataclass

from coevo_ray.errors import InputError


@dataclass(frozen=True)
class Cycle:
    """Passes over some rows in batches of nearly equal size.

    A last batch of a few rows would give each of them many times the weight of the others, and that in each pass: so a
    pass is cut evenly.

    Attributes:
        rows: rows of a pass, 1 or more.
        most: most rows of a batch.

    Raises:
        InputError: one of them is below 1.
    """

    rows: int
    most: int

    def __post_init__(self) -> None:
        if min(self.rows, self.most) < 1:
            raise InputError(f"a cycle of {self.rows} rows in batches of {self.most}", "both must be 1 or more")

    @property
    def steps(self) -> int:
        """Batches of a pass."""
        return -(-self.rows // self.most)

    @property
    def batch(self) -> int:
        """Rows of a batch; the last of a pass has fewer by less than `steps`."""
        return -(-self.rows // self.steps)

    def at(self, step: int) -> tuple[int, int]:
        """The pass that a step is in, and the rows of that pass which come before it.

        Args:
            step: 0 for the first step of all.
        """
        number, inside = divmod(step, self.steps)
        return number, inside * self.batch

    def visits(self, step: int) -> int:
        """Rows that all steps before this one use, a row being counted in each of its passes."""
        number, inside = self.at(step)
        return number * self.rows + inside
