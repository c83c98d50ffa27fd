"""The gate on arriving rows: looked up, decided, appended, without a rebuild (docs/design.md#gate-online)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from coevo_ray.core.arrays import Arrays, BoolArray, Float16Array, Float32Array, Float64Array, Int8Array, Int64Array
from coevo_ray.core.gate.config import OfferConfig
from coevo_ray.core.gate.gate import AnnotationGate
from coevo_ray.core.gate.rules import chance_corrected, margin_gain, published_gain, votes_of
from coevo_ray.core.graph.growing import GrowingIndex
from coevo_ray.core.graph.unit_rows import UnitRows, single
from coevo_ray.errors import InputError

ACTIONS = ("annotate", "pseudo_label", "skip")
REASONS = ("gain", "sure", "near", "low_gain", "stopped", "unusable")
_ANNOTATE, _PSEUDO_LABEL, _SKIP = range(3)
_GAIN, _SURE, _NEAR, _LOW_GAIN, _STOPPED, _UNUSABLE = range(6)


@dataclass(frozen=True, eq=False)
class Decisions:
    """Decisions on arriving rows.

    Attributes:
        action: int8[b], place in `ACTIONS`: ask for a label, take the sure class as one, or neither.
        reason: int8[b], place in `REASONS`: `gain` (above 0, and as much as that of a full round's rows), `sure`,
            `near` (a copy of a row that is labelled or requested, or near one that no predictions have seen yet),
            `low_gain`, `stopped` (the gate has, or its budget is spent), `unusable` (zero or not finite).
        gain: float32[b], expected gain of a label; 0 for unusable rows.
        label: int64[b], the class that model and neighbours believe in; -1 for unusable rows.
        confidence: float32[b], its probability; 0 for unusable rows.
    """

    action: Int8Array
    reason: Int8Array
    gain: Float32Array
    label: Int64Array
    confidence: Float32Array

    def arrays(self) -> Arrays:
        """For saving."""
        return {name: getattr(self, name) for name in ("action", "reason", "gain", "label", "confidence")}

    @property
    def usable(self) -> BoolArray:
        """bool[b], rows that were taken in."""
        usable: BoolArray = self.reason != _UNUSABLE
        return usable


class OnlineGate:
    """A gate whose pool grows.

    Args:
        gate: the gate; from here on its graph is `index`.
        index: its rows and their neighbours.
        mean: float32[d], taken off arriving features before they are compared; None takes nothing off.
        config: settings.
    """

    def __init__(
        self, gate: AnnotationGate, index: GrowingIndex, mean: Float32Array | None, config: OfferConfig
    ) -> None:
        self.gate, self.index, self.config = gate, index, config
        self._mean = mean
        gate.use_graph(index)
        self._looked: tuple[int, Float16Array, tuple[Any, Any]] | None = None

    def offer(self, features: Float16Array, probabilities: Float32Array) -> Decisions:
        """Decides on a batch and takes its usable rows in; rows of one batch are each other's neighbours only later.

        Args:
            features: float16[b, d], in the space of the gate's own.
            probabilities: float32[b, C], the model's.

        Raises:
            InputError: shapes do not fit, the probabilities are no distributions, or the gate has no predictions yet.
        """
        decisions = self.decide(features, probabilities)
        self.accept(features, decisions)
        return decisions

    def decide(self, features: Float16Array, probabilities: Float32Array) -> Decisions:
        """The decision that `offer` would make; changes nothing.

        Raises:
            InputError: as `offer`.
        """
        self._check(features, probabilities)
        unit, usable = self._unit(features)
        found = self.index.search(unit[usable])
        self._looked = (self.index.rows, features, found)
        count = len(features)
        decisions = Decisions(
            np.full(count, _SKIP, np.int8),
            np.full(count, _UNUSABLE, np.int8),
            np.zeros(count, np.float32),
            np.full(count, -1, np.int64),
            np.zeros(count, np.float32),
        )
        own = probabilities[usable].astype(np.float64)
        fused = self._fused(own, *found)
        decisions.gain[usable] = self._gain(own, fused, *found)
        decisions.label[usable], decisions.confidence[usable] = fused.argmax(axis=1), fused.max(axis=1)
        places = np.flatnonzero(usable)
        near = self._near(*found)
        level, left = self.gate.inner.level, 0 if self.gate.stopped_by is not None else self.gate.labels_left
        picked: list[int] = []
        for i, place in enumerate(places):
            worth = decisions.gain[place] >= level and decisions.gain[place] > 0
            if worth and left > 0 and not near[i] and not self._near_picked(unit, place, picked):
                action, reason, left = _ANNOTATE, _GAIN, left - 1
                picked.append(place)
            elif decisions.confidence[place] >= self.config.sure:
                action, reason = _PSEUDO_LABEL, _SURE
            else:
                action, reason = _SKIP, _LOW_GAIN if not worth else _STOPPED if left <= 0 else _NEAR
            decisions.action[place], decisions.reason[place] = action, reason
        return decisions

    def accept(self, features: Float16Array, decisions: Decisions) -> None:
        """Takes in what was decided: rows join the graph, those to annotate become requests.

        Args:
            features: float16[b, d], as they were decided on.
            decisions: what `decide` gave, now or before a restart.
        """
        unit, usable = self._unit(features)[0], decisions.usable
        first = self.index.rows
        looked, self._looked = self._looked, None
        same = looked is not None and looked[0] == first and looked[1] is features
        found = looked[2] if looked is not None and same else self.index.search(unit[usable])
        self.index.append(unit[usable], *found)
        confidence = chance_corrected(decisions.confidence[usable], self.gate.config.classes).astype(np.float32)
        self.gate.grow(decisions.label[usable], confidence, decisions.gain[usable])
        asked = np.flatnonzero(decisions.action[usable] == _ANNOTATE)
        if len(asked):
            self.gate.open_more(first + asked, decisions.gain[usable][asked])

    def rejoin(self, features: Float16Array) -> None:
        """Adds rows to the graph that the gate already knows, after a restart.

        Args:
            features: float16[m, d], usable rows in the order in which they came.
        """
        unit = self._unit(features)[0]
        self.index.append(unit, *self.index.search(unit))

    def _unit(self, features: Float16Array) -> tuple[Float32Array, BoolArray]:
        """Rows of length 1, and which have a direction; the others are zero."""
        raw = single(features)
        usable = np.isfinite(raw).all(axis=1)
        raw[~usable] = 0.0
        if self._mean is not None:
            raw[usable] -= self._mean
        usable &= np.abs(raw).max(axis=1, initial=0) > 0
        unit = np.zeros_like(raw)
        if usable.any():
            unit[usable] = UnitRows.of(raw[usable]).read(slice(None))
        return unit, usable

    def _fused(self, own: Float64Array, indices: Any, similarities: Any) -> Float64Array:
        """The model's and the neighbours' distributions together; of neighbours only class and confidence are kept."""
        config, classes = self.gate.config, self.gate.config.classes
        width = min(config.neighbours, self.index.k)
        index = indices[:, :width]
        heard = (index >= 0) & ~self.gate.inner.beliefs.untold[index]  # labels for validation tell nothing
        weight = np.where(heard, np.maximum(similarities[:, :width].astype(np.float64), 0.0) ** 4, 0.0)
        best, probability = self.gate.predictions(index.ravel())
        best, probability = best.reshape(index.shape), probability.reshape(index.shape).astype(np.float64)
        mass = weight.sum(axis=1, keepdims=True)
        share = np.divide(weight, mass, out=np.zeros_like(weight), where=mass > 0)
        rest = (1.0 - probability) / (classes - 1)  # what a neighbour leaves to every other class
        said = np.repeat((share * rest).sum(axis=1, keepdims=True), classes, axis=1)
        np.add.at(said, (np.arange(len(own))[:, None], best), share * (probability - rest))
        vote = np.where(mass > 0, config.vote_weight, 0.0)
        fused: Float64Array = (1.0 - vote) * own + vote * said
        return fused

    def _gain(self, own: Float64Array, fused: Float64Array, indices: Any, similarities: Any) -> Float64Array:
        config = self.gate.config
        if config.rule == "margin":
            return margin_gain(fused if config.vote == "distributions" else own)
        best, probability = self.gate.predictions(indices.ravel())
        vote = votes_of(
            indices,
            similarities,
            chance_corrected(probability, config.classes).reshape(indices.shape),
            best.reshape(indices.shape),
            config.classes,
            min_similarity=config.min_similarity,
        )
        return published_gain(chance_corrected(own.max(axis=1), config.classes), own.argmax(axis=1), vote)

    def _near(self, indices: Any, similarities: Any) -> BoolArray:
        """Tests which rows are copies of asked rows, or near ones that no predictions have seen: bool[b]."""
        asked = np.zeros(self.index.rows, dtype=np.bool_)
        asked[self.gate.inner.asked()] = True
        unseen = np.zeros(self.index.rows, dtype=np.bool_)
        unseen[self.gate.inner.asked(unseen=True)] = True
        there = indices >= 0
        copies = there & asked[indices] & (similarities > self.config.same)
        close = there & unseen[indices] & (similarities > self.gate.config.apart)
        near: BoolArray = (copies | close).any(axis=1)
        return near

    def _near_picked(self, unit: Float32Array, place: int, picked: list[int]) -> bool:
        if not picked:
            return False
        return bool((unit[picked] @ unit[place]).max() > min(self.config.same, self.gate.config.apart))

    def _check(self, features: Float16Array, probabilities: Float32Array) -> None:
        dim, classes = self.index.dim, self.gate.config.classes
        if features.ndim != 2 or features.shape[1] != dim or features.dtype != np.float16:
            have = f"{features.dtype}{list(features.shape)}"
            raise InputError(f"offered features {have}, the gate's have {dim} dimensions", f"give float16[b, {dim}]")
        if probabilities.shape != (len(features), classes):
            raise InputError(
                f"predictions {list(probabilities.shape)} for {len(features)} offered rows and {classes} classes",
                "give one distribution over the classes for each row",
            )
        sums = probabilities.sum(axis=1, dtype=np.float64)
        wrong = ~((np.abs(sums - 1.0) <= 1e-2) & (probabilities.min(axis=1, initial=0) >= 0))
        if wrong.any():
            raise InputError(
                f"{int(wrong.sum())} of {len(wrong)} offered rows have predictions that are no distribution, first at "
                f"{np.flatnonzero(wrong)[:5].tolist()}",
                "give probabilities: sum 1, none below 0",
            )
        if not self.gate.has_predictions:
            raise InputError("the gate has no predictions to compare arriving rows with", "label its first round")
