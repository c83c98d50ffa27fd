"""Labels that annotators gave, in the order in which they came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from coevo_ray.core.rows import Int64Array


@dataclass
class Answered:
    """Accepted labels, in the order in which they came."""

    row_ids: list[Int64Array] = field(default_factory=list)
    labels: list[Int64Array] = field(default_factory=list)
    rounds: list[npt.NDArray[np.int32]] = field(default_factory=list)
    times: list[npt.NDArray[np.float64]] = field(default_factory=list)
    annotators: list[npt.NDArray[np.int16]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def add(self, row_ids: Int64Array, labels: Int64Array, round_: int, annotator: str, at: float) -> None:
        """Appends labels of one submission."""
        if annotator not in self.names:
            self.names.append(annotator)
        rows = len(row_ids)
        self.row_ids.append(row_ids)
        self.labels.append(labels)
        self.rounds.append(np.full(rows, round_, dtype=np.int32))
        self.times.append(np.full(rows, at))
        self.annotators.append(np.full(rows, self.names.index(annotator), dtype=np.int16))

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """row_id, label, round, time (seconds since 1970), annotator (index into `names`)."""
        return {
            "row_id": _joined(self.row_ids, np.int64),
            "label": _joined(self.labels, np.int64),
            "round": _joined(self.rounds, np.int32),
            "time": _joined(self.times, np.float64),
            "annotator": _joined(self.annotators, np.int16),
        }

    @classmethod
    def restore(cls, columns: dict[str, npt.NDArray[Any]], names: list[str]) -> Answered:
        """From `columns()` and `names`."""
        return cls(
            [columns["row_id"]],
            [columns["label"]],
            [columns["round"]],
            [columns["time"]],
            [columns["annotator"]],
            list(names),
        )


def _joined(parts: Sequence[npt.NDArray[Any]], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *parts])
