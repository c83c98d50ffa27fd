"""The annotators' answers, in order of arrival."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from coevo_ray.core.arrays import AnyArray, Arrays, BoolArray, Float64Array, Int16Array, Int32Array, Int64Array
from coevo_ray.errors import InputError

MOST_ANNOTATORS = int(np.iinfo(np.int16).max)  # of a gate


@dataclass
class Answered:
    """All answers, in the order in which they came: several about a row where several annotators gave them."""

    row_ids: list[Int64Array] = field(default_factory=list)
    labels: list[Int64Array] = field(default_factory=list)
    rounds: list[Int32Array] = field(default_factory=list)
    times: list[Float64Array] = field(default_factory=list)
    annotators: list[Int16Array] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._index = {name: index for index, name in enumerate(self.names)}

    def __len__(self) -> int:
        """Answers in all."""
        return sum(len(part) for part in self.row_ids)

    def new(self, row_ids: Int64Array, labels: Int64Array, annotator: str) -> BoolArray:
        """Tests which answers differ from the annotator's last one about that row; of equal ones the first.

        Args:
            row_ids: int64[n].
            labels: int64[n], the same for rows that come twice.
            annotator: who gives them.

        Raises:
            InputError: there are as many annotators as a gate can have, and this is one more.
        """
        if annotator not in self._index and len(self.names) >= MOST_ANNOTATORS:
            raise InputError(
                f"{len(self.names):,} annotators have answered, a gate takes no more",
                "check the column annotator: use one name per person, not per answer",
            )
        new: BoolArray = np.zeros(len(row_ids), dtype=np.bool_)
        new[np.unique(row_ids, return_index=True)[1]] = True
        if annotator not in self._index:
            return new
        said = self.columns()
        own = said["annotator"] == self._index[annotator]
        rows, said_labels = said["row_id"][own][::-1], said["label"][own][::-1]  # the latest come first
        known, place = np.unique(rows, return_index=True)
        if len(known) == 0:
            return new
        at = np.minimum(np.searchsorted(known, row_ids), len(known) - 1)
        repeated: BoolArray = (known[at] == row_ids) & (said_labels[place[at]] == labels)
        return new & ~repeated

    def add(self, row_ids: Int64Array, labels: Int64Array, rounds: Int32Array, annotator: str, at: float) -> None:
        """Appends answers of one submission."""
        if annotator not in self._index:
            self._index[annotator] = len(self.names)
            self.names.append(annotator)
        rows = len(row_ids)
        self.row_ids.append(row_ids)
        self.labels.append(labels)
        self.rounds.append(rounds)
        self.times.append(np.full(rows, at))
        self.annotators.append(np.full(rows, self._index[annotator], dtype=np.int16))

    def columns(self) -> Arrays:
        """row_id, label, round, time (seconds since 1970), annotator (index into `names`)."""
        # Parts are joined once: thousands of submissions of one answer each would be joined at each further one.
        self.row_ids = [_joined(self.row_ids, np.int64)]
        self.labels = [_joined(self.labels, np.int64)]
        self.rounds = [_joined(self.rounds, np.int32)]
        self.times = [_joined(self.times, np.float64)]
        self.annotators = [_joined(self.annotators, np.int16)]
        return {
            "row_id": self.row_ids[0],
            "label": self.labels[0],
            "round": self.rounds[0],
            "time": self.times[0],
            "annotator": self.annotators[0],
        }

    @classmethod
    def restore(cls, columns: Arrays, names: list[str]) -> Answered:
        """From `columns()` and `names`."""
        return cls(
            [columns["row_id"]],
            [columns["label"]],
            [columns["round"]],
            [columns["time"]],
            [columns["annotator"]],
            list(names),
        )


def _joined(parts: Sequence[AnyArray], dtype: npt.DTypeLike) -> AnyArray:
    return np.concatenate([np.zeros(0, dtype), *parts])
