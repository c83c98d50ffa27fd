"""The annotator's interface: whoever answers requests for labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from coevo_ray.core.rows import Int64Array


@dataclass(frozen=True)
class Answers:
    """Labels that came back; possibly fewer than were asked for.

    Attributes:
        row_ids: int64[n], a part of the requested ones.
        labels: int64[n].
        annotator: who gave them.
    """

    row_ids: Int64Array
    labels: Int64Array
    annotator: str


class Annotator(Protocol):
    """Answers requests."""

    def answer(self, row_ids: Int64Array) -> Answers:
        """Labels for some rows.

        Args:
            row_ids: int64[n], increasing.

        Raises:
            InputError: none of them can be answered.
        """
        ...
