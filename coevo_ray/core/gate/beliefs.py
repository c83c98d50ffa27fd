"""Beliefs of an annotation gate about every row, and the gain that follows (docs/design.md#gate-gain)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coevo_ray.core.arrays import (
    BoolArray,
    Float32Array,
    Float64Array,
    Int32Array,
    Int64Array,
    IntArray,
    UInt16Array,
)
from coevo_ray.core.gate.by_part import (
    distance_to_known,
    fuse_as_published,
    gain_as_published,
    look_alone,
    look_around,
    look_at_votes,
    vote_on,
)
from coevo_ray.core.gate.class_blocks import ClassBlocks, check_sound
from coevo_ray.core.gate.config import GateConfig
from coevo_ray.core.gate.refusal import refuse
from coevo_ray.core.gate.rules import published_gain
from coevo_ray.core.graph.copies import copy_groups
from coevo_ray.core.graph.types import Neighbours, over_rows
from coevo_ray.core.probes.label_agreement import Agreement
from coevo_ray.errors import InputError

_TORN, _ALONE = -1, -2
_SURE = 0.9  # chance-corrected confidence from which a row counts as known


class _Predicted(NamedTuple):
    """See the attributes of `Beliefs`; `said` uint16[N] is the model's own class, of labelled rows too."""

    best: UInt16Array
    confidence: Float32Array
    gain: Float32Array
    said: UInt16Array


class Beliefs:
    """Confidence, class and gain of N rows.

    Args:
        config: settings.
        graph: neighbours of the rows.
        group: groups of near-duplicates, where they are known.

    Attributes:
        best: uint16[N], predicted class, of the model (compat) or of model and neighbours together (margin); the label
            of a labelled row.
        confidence: float32[N], of that class, chance-corrected; 1 for labelled rows.
        gain: float32[N], expected gain of a label; 0 for labelled rows.
        labelled: bool[N].
        untold: bool[N], labelled rows whose labels tell others nothing: validation rows.
        group: int32[n], groups of near-duplicates among the first n rows (`copy_groups`); None where they share
            nothing.
    """

    def __init__(self, config: GateConfig, graph: Neighbours, group: Int32Array | None = None) -> None:
        self._config, self._graph = config, graph
        self.best: UInt16Array = np.zeros(graph.rows, dtype=np.uint16)
        self.confidence: Float32Array = np.zeros(graph.rows, dtype=np.float32)
        self.gain: Float32Array = np.zeros(graph.rows, dtype=np.float32)
        self.labelled: BoolArray = np.zeros(graph.rows, dtype=np.bool_)
        self.untold: BoolArray = np.zeros(graph.rows, dtype=np.bool_)
        with_copies = config.rule == "margin" and config.copies
        if with_copies and group is None:
            group = copy_groups(graph, config.copy_similarity, config.copy_margin)
        self.group = group if with_copies else None
        self._copied: Int64Array | None = None  # until labels change

    def new_answers(self, requested: Int64Array, positions: Int64Array, labels: Int64Array) -> BoolArray:
        """Tests which answers are new, bool[n]; a repeated answer with the same label is not.

        Args:
            requested: int64[r], rows that may be answered now.
            positions: int64[n], answered rows of the graph.
            labels: int64[n].

        Raises:
            InputError: a row is unknown or was not requested, a label is outside 0..C-1, or two labels of a row differ.
        """
        self.check_labels(positions, labels)
        old = self.labelled[positions]
        refuse(~old & ~np.isin(positions, requested), positions, "were not requested")
        refuse(old & (self.best[positions] != labels), positions, "have another label already")
        first = np.unique(positions, return_index=True)[1]
        new = np.zeros(len(positions), dtype=np.bool_)
        new[first] = True
        return new & ~old

    def check_labels(self, positions: Int64Array, labels: Int64Array, names: Int64Array | None = None) -> None:
        """Refuses what are no labels of rows.

        Args:
            positions: int64[n], rows of the graph.
            labels: int64[n].
            names: int64[n], what an error calls the rows; their positions when not given.

        Raises:
            InputError: a row is unknown, a label is outside 0..C-1, or shapes and types do not fit.
        """
        kinds = {positions.dtype.kind, labels.dtype.kind}
        if positions.ndim != 1 or positions.shape != labels.shape or not kinds <= {"i", "u"}:
            have = f"positions {positions.dtype}{list(positions.shape)} and labels {labels.dtype}{list(labels.shape)}"
            raise InputError(have, "give one integer label for each row")
        rows, classes = self._graph.rows, self._config.classes
        names = positions if names is None else names
        refuse((positions < 0) | (positions >= rows), names, f"are not among the graph's {rows}")
        refuse((labels < 0) | (labels >= classes), names, f"have labels outside 0..{classes - 1}")
        _, first, same = np.unique(positions, return_index=True, return_inverse=True)
        refuse(labels != labels[first][same], names, "have two labels in one submission")

    @property
    def told(self) -> BoolArray:
        """bool[N], labelled rows that tell others of their labels."""
        return self.labelled & ~self.untold

    def take_labels(self, rows: Int64Array, labels: IntArray, untold: BoolArray | None = None) -> None:
        """Rows become labelled; the gains of others stay.

        Args:
            rows: int64[n].
            labels: int[n].
            untold: bool[n], those whose labels tell others nothing; None for none of them, and no change of rows that
                are labelled already.
        """
        self.labelled[rows] = True
        if untold is not None:
            self.untold[rows] = untold
        self._copied = None
        self.best[rows] = labels
        self.confidence[rows] = 1.0
        self.gain[rows] = 0.0

    def take_predictions(self, predictions: Float32Array | ClassBlocks) -> UInt16Array:
        """Computes all gains from new predictions float32[N, C], at once or in blocks of classes.

        Nothing changes until the last block was read and is sound.

        Returns:
            uint16[N], the class that the model says of each row, whatever its label or its neighbours say.

        Raises:
            InputError: they do not fit the graph and the classes, or are no distributions.
        """
        blocks = [(0, predictions)] if isinstance(predictions, np.ndarray) else predictions
        new = self._published_from(blocks) if self._config.rule == "compat" else self._margin_from(blocks)
        new.gain[self.labelled | self.covered()] = 0.0
        self.best, self.confidence, self.gain = new.best, new.confidence, new.gain
        return new.said

    def _published_from(self, blocks: ClassBlocks) -> _Predicted:
        sound, said, sure = over_rows(self._graph, look_alone, self._config, blocks)
        check_sound(sound)
        best, confidence = self._with_labels(said, sure)
        (gain,) = over_rows(self._graph, gain_as_published, self._config, best, confidence)
        return _Predicted(best, confidence, gain, said)

    def _margin_from(self, blocks: ClassBlocks) -> _Predicted:
        looked = over_rows(self._graph, look_around, self._config, blocks, self.told, self.best)
        sound, said, fused, fused_sure, last = looked
        check_sound(sound)
        gain = self._by_votes(blocks, *self._with_labels(said, last)) if self._config.vote == "classes" else last
        best, confidence = self._with_labels(fused, fused_sure)
        return _Predicted(best, confidence, self._weighed(best, confidence, gain), said)

    def _with_labels(self, best: UInt16Array, confidence: Float32Array) -> tuple[UInt16Array, Float32Array]:
        """Class uint16[N] and confidence float32[N] of all rows, labelled ones by their label."""
        return np.where(self.labelled, self.best, best), np.where(self.labelled, np.float32(1.0), confidence)

    def _by_votes(self, blocks: ClassBlocks, best: UInt16Array, confidence: Float32Array) -> Float32Array:
        confidence = np.where(self.untold, np.float32(0.0), confidence)  # these do not vote
        gain: Float32Array = over_rows(self._graph, look_at_votes, self._config, blocks, best, confidence)[0]
        return gain

    def covered(self) -> BoolArray:
        """bool[N], rows with a labelled near-duplicate; rows that arrived later count as alone."""
        return self.copied_labels() >= -1

    def copied_labels(self) -> Int64Array:
        """Labels of unlabelled rows by their labelled near-duplicates, int64[N].

        -1 where they differ, -2 for rows that have none or are labelled themselves. Groups by the pool's own measure
        share nothing while their labels disagree too often.
        """
        if self._copied is not None:
            return self._copied
        copied = np.full(len(self.labelled), _ALONE, dtype=np.int64)
        if self.group is not None and (self._config.copies_by_numbers or self.agreement().trusted):
            group, rows = self.group, np.flatnonzero(self.told[: len(self.group)])
            low = np.full(len(group), np.iinfo(np.int64).max)
            high = np.full(len(group), _ALONE, dtype=np.int64)
            labels = self.best[rows].astype(np.int64)
            np.minimum.at(low, group[rows], labels)
            np.maximum.at(high, group[rows], labels)
            said = np.where(low == high, high, np.where(high >= 0, _TORN, _ALONE))
            copied[: len(group)] = said[group]
            copied[self.labelled] = _ALONE
        self._copied = copied
        return copied

    def agreement(self) -> Agreement:
        """Agreement of labels within groups of near-duplicates."""
        if self.group is None:
            return Agreement(0, 0.0)
        rows = np.flatnonzero(self.told[: len(self.group)])
        return Agreement.of(self.group[rows], self.best[rows])

    def _weighed(self, best: UInt16Array, confidence: Float32Array, gain: Float32Array) -> Float32Array:
        """The terms that options add to the margin: balance of classes, distance to what is known."""
        config = self._config
        if config.balance > 0 and (told := self.told).any():
            counts = np.bincount(best[told], minlength=config.classes)
            gain *= ((counts.mean() / np.maximum(counts, 1.0)) ** config.balance)[best].astype(np.float32)
        if config.distance_weight > 0:
            sure = ~self.untold & (self.labelled | (confidence >= _SURE))
            (distance,) = over_rows(self._graph, distance_to_known, sure)
            gain += (config.distance_weight * distance).astype(np.float32)
        return gain

    def use_graph(self, graph: Neighbours) -> None:
        """Continues with another graph of the same rows."""
        self._graph = graph

    def grow(self, best: Int64Array, confidence: Float32Array, gain: Float32Array) -> None:
        """Appends rows without a label."""
        self.best = np.concatenate([self.best, best.astype(np.uint16)])
        self.confidence = np.concatenate([self.confidence, confidence.astype(np.float32)])
        self.gain = np.concatenate([self.gain, gain.astype(np.float32)])
        self.labelled = np.concatenate([self.labelled, np.zeros(len(best), dtype=np.bool_)])
        self.untold = np.concatenate([self.untold, np.zeros(len(best), dtype=np.bool_)])
        self._copied = None

    def recheck(self, answered: Int64Array) -> None:
        """The published update after answers: only near neighbours of the answered rows change.

        Those predicted as the answer says get their new gain, the others the larger of old and new.
        """
        index, similarity = self._graph.near(answered, self._config.recheck_neighbours)
        near = (index >= 0) & (similarity > self._config.recheck_similarity)
        near &= ~self.labelled[index]
        agrees = near & (self.best[index] == self.best[answered][:, None])
        touched = np.unique(index[near]).astype(np.int64)
        if len(touched):
            new = self._published(touched)
            agreed = np.isin(touched, index[agrees])
            self.gain[touched] = np.where(agreed, new, np.maximum(self.gain[touched], new))

    def believed(self) -> tuple[Int64Array, Int64Array, Float32Array]:
        """The gate's belief about rows without a label.

        Returns:
            Rows int64[n], classes int64[n], probabilities float32[n].
        """
        rows, chance = np.flatnonzero(~self.labelled), 1.0 / self._config.classes
        if self._config.rule == "compat":
            fused = over_rows(self._graph, fuse_as_published, self._config, self.best, self.confidence)
            confidence, best = fused[0][rows], fused[1][rows]
        else:
            best, confidence = self.best[rows].astype(np.int64), self.confidence[rows].astype(np.float64)
        probability = confidence * (1.0 - chance) + chance
        return rows, best, probability.astype(np.float32)

    def _published(self, rows: Int64Array) -> Float64Array:
        vote = vote_on(self._graph.near(rows, self._config.neighbours), self._config, self.best, self.confidence)
        return published_gain(self.confidence[rows], self.best[rows], vote)
