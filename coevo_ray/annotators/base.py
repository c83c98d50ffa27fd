"""Annotators answer label requests: at once (`Annotator`), or later and somewhere else (`Desk`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from coevo_ray.core.arrays import Float32Array, Int64Array


@dataclass(frozen=True, eq=False)
class Questions:
    """Rows of one round that still need a label, with details to show an annotator.

    Attributes:
        round: number of the round, from 0.
        row_ids: int64[n], increasing.
        gains: float32[n], expected gain of each label; 0 for random rows.
        predicted: int64[n], the model's class; -1 where there is no prediction yet.
        confidence: float32[n], the model's probability of that class; NaN where there is none.
        asked: int64[m], all rows of the round, increasing, including those answered meanwhile.
    """

    round: int
    row_ids: Int64Array
    gains: Float32Array
    predicted: Int64Array
    confidence: Float32Array
    asked: Int64Array


@dataclass(frozen=True, eq=False)
class Answers:
    """Labels of one annotator; possibly fewer than were asked for.

    Attributes:
        row_ids: int64[n], rows that were asked about.
        labels: int64[n].
        annotator: who gave them.
    """

    row_ids: Int64Array
    labels: Int64Array
    annotator: str


@dataclass(frozen=True, eq=False)
class Collected:
    """Answers so far.

    Attributes:
        answers: one per annotator, at most one label per row in each; everything so far, including earlier collections
            (known labels change nothing).
        problems: answers that were refused, each with its place (file and line, or task), cause and remedy.
    """

    answers: tuple[Answers, ...]
    problems: tuple[str, ...] = ()


class Annotator(Protocol):
    """Answers at once."""

    def answer(self, row_ids: Int64Array) -> Answers:
        """Labels for some rows.

        Args:
            row_ids: int64[n], increasing.

        Raises:
            InputError: none of them can be answered.
        """
        ...


@runtime_checkable
class Desk(Protocol):
    """Takes questions and has answers later: files, an annotation tool."""

    def send(self, questions: Questions) -> int:
        """Sends questions to people; idempotent, since rows already sent are not sent again.

        Returns:
            Rows that were new.

        Raises:
            InputError: the questions do not fit the existing ones.
            StoppedError: the store or the tool cannot be reached; send them again.
        """
        ...

    def collect(self) -> Collected:
        """All answers so far, earlier rounds included.

        Raises:
            InputError: the existing content is not ours.
            StoppedError: the store or the tool cannot be reached.
        """
        ...

    @property
    def where(self) -> str:
        """A folder or a page where people answer, for messages."""
        ...
