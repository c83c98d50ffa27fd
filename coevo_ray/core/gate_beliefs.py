"""What the gate believes of every row, and the gain that follows from it (DESIGN 5.4)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from coevo_ray.core.gate_config import GateConfig
from coevo_ray.core.gate_rules import (
    Vote,
    chance_corrected,
    fused_distribution,
    margin_gain,
    neighbour_vote,
    published_gain,
)
from coevo_ray.core.graph import NeighbourGraph
from coevo_ray.errors import InputError

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

_BLOCK_VALUES = 1 << 22  # (row, class) cells worked on at a time


class Beliefs:
    """Confidence, class and gain of N rows.

    Args:
        config: settings.
        graph: neighbours of the rows.

    Attributes:
        best: uint16[N], predicted class; the label of a labelled row.
        confidence: float32[N], chance-corrected; 1 for labelled rows.
        gain: float32[N], expected gain of a label; 0 for labelled rows.
        labelled: bool[N].
    """

    def __init__(self, config: GateConfig, graph: NeighbourGraph) -> None:
        self._config, self._graph = config, graph
        self.best: npt.NDArray[np.uint16] = np.zeros(graph.rows, dtype=np.uint16)
        self.confidence: Float32Array = np.zeros(graph.rows, dtype=np.float32)
        self.gain: Float32Array = np.zeros(graph.rows, dtype=np.float32)
        self.labelled = np.zeros(graph.rows, dtype=np.bool_)

    def new_answers(self, requested: Int64Array, row_ids: Int64Array, labels: Int64Array) -> npt.NDArray[np.bool_]:
        """Which answers are new, bool[n]; a repeated answer with the same label is not.

        Args:
            requested: int64[r], rows that may be answered now.
            row_ids: int64[n], answered rows.
            labels: int64[n].

        Raises:
            InputError: a row is unknown or was not requested, a label is outside 0..C-1, or two labels of a row differ.
        """
        self.check_labels(row_ids, labels)
        old = self.labelled[row_ids]
        refuse(~old & ~np.isin(row_ids, requested), row_ids, "were not requested")
        refuse(old & (self.best[row_ids] != labels), row_ids, "have another label already")
        first = np.unique(row_ids, return_index=True)[1]
        new = np.zeros(len(row_ids), dtype=np.bool_)
        new[first] = True
        return new & ~old

    def check_labels(self, row_ids: Int64Array, labels: Int64Array) -> None:
        """Refuses what are no labels of rows.

        Raises:
            InputError: a row is unknown, a label is outside 0..C-1, or shapes and types do not fit.
        """
        kinds = {row_ids.dtype.kind, labels.dtype.kind}
        if row_ids.ndim != 1 or row_ids.shape != labels.shape or not kinds <= {"i", "u"}:
            have = f"row_ids {row_ids.dtype}{list(row_ids.shape)} and labels {labels.dtype}{list(labels.shape)}"
            raise InputError(have, "give one integer label for each row")
        rows, classes = self._graph.rows, self._config.classes
        refuse((row_ids < 0) | (row_ids >= rows), row_ids, f"are not among the graph's {rows}")
        refuse((labels < 0) | (labels >= classes), row_ids, f"have labels outside 0..{classes - 1}")
        _, first, same = np.unique(row_ids, return_index=True, return_inverse=True)
        refuse(labels != labels[first][same], row_ids, "have two labels in one submission")

    def take_labels(self, rows: Int64Array, labels: npt.NDArray[np.integer[Any]]) -> None:
        """Rows become labelled; the gains of others stay."""
        self.labelled[rows] = True
        self.best[rows] = labels
        self.confidence[rows] = 1.0
        self.gain[rows] = 0.0

    def take_predictions(self, probabilities: Float32Array) -> None:
        """Computes all gains from new predictions float32[N, C], in blocks of rows.

        Raises:
            InputError: they do not fit the graph and the classes, or are no distributions.
        """
        self._check(probabilities)
        known = self.labelled
        self.best = np.where(known, self.best, probabilities.argmax(axis=1)).astype(np.uint16)
        confidence = chance_corrected(probabilities.max(axis=1), self._config.classes)
        self.confidence = np.where(known, 1.0, confidence).astype(np.float32)
        block = max(1, _BLOCK_VALUES // self._config.classes)
        for start in range(0, self._graph.rows, block):
            rows = np.arange(start, min(start + block, self._graph.rows))
            if self._config.rule == "compat":
                self.gain[rows] = self._published(rows)
            else:
                fused = fused_distribution(probabilities[rows], self._vote(rows), self._config.neighbours)
                self.gain[rows] = margin_gain(fused)
        self.gain[known] = 0.0

    def recheck(self, answered: Int64Array) -> None:
        """The published update after answers: only near neighbours of the answered rows change.

        Those predicted as the answer says get their new gain, the others the larger of old and new.
        """
        width = self._config.recheck_neighbours
        index = self._graph.indices[answered, :width]
        near = (index >= 0) & (self._graph.similarities[answered, :width] > self._config.recheck_similarity)
        near &= ~self.labelled[index]
        agrees = near & (self.best[index] == self.best[answered][:, None])
        touched = np.unique(index[near]).astype(np.int64)
        if len(touched):
            new = self._published(touched)
            agreed = np.isin(touched, index[agrees])
            self.gain[touched] = np.where(agreed, new, np.maximum(self.gain[touched], new))

    def _vote(self, rows: Int64Array) -> Vote:
        return neighbour_vote(
            self._graph,
            self.confidence,
            self.best,
            self._config.classes,
            neighbours=self._config.neighbours,
            min_similarity=self._config.min_similarity,
            rows=rows,
        )

    def _published(self, rows: Int64Array) -> Float64Array:
        return published_gain(self.confidence[rows], self.best[rows], self._vote(rows))

    def _check(self, probabilities: Float32Array) -> None:
        shape = (self._graph.rows, self._config.classes)
        if probabilities.shape != shape or probabilities.dtype.kind != "f":
            raise InputError(
                f"predictions {probabilities.dtype}{list(probabilities.shape)}, need float{list(shape)}",
                "predict every row of the graph",
            )
        sums = probabilities.sum(axis=1, dtype=np.float64)
        good = (np.abs(sums - 1.0) <= 1e-2) & (probabilities.min(axis=1) >= 0)  # false for NaN too
        refuse(~good, np.arange(len(good)), "have predictions that are no distribution (sum 1, none below 0)")


def refuse(wrong: npt.NDArray[np.bool_], rows: npt.NDArray[np.integer[Any]], what: str) -> None:
    """Raises an InputError that counts the wrong rows and names the first; nothing when none is wrong.

    Args:
        wrong: bool[n].
        rows: int[n].
        what: what is wrong with them, after "N of n rows".

    Raises:
        InputError: a row is wrong.
    """
    if wrong.any():
        first = rows[wrong][:5].tolist()
        raise InputError(f"{int(wrong.sum())} of {len(rows)} rows {what}, first rows {first}", "correct those rows")
