"""Arriving rows in Python and as a stage of Ray Data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coevo_ray.actors.protocols import GateCalls
from coevo_ray.core.arrays import AnyArray, Arrays, Float32Array, Int64Array
from coevo_ray.core.gate.online import ACTIONS, REASONS
from coevo_ray.core.probes.light_classifier import LightClassifier
from coevo_ray.errors import InputError


@dataclass(frozen=True, eq=False)
class Offer:
    """Decisions on offered rows, in the order given.

    Attributes:
        row_id: int64[b].
        action: str[b], `annotate`, `pseudo_label` or `skip`.
        reason: str[b], see `core.gate_online.Decisions`.
        gain: float32[b], expected gain of a label.
        label: int64[b], the class that model and neighbours believe in; -1 for unusable rows.
        confidence: float32[b], its probability.
    """

    row_id: Int64Array
    action: npt.NDArray[np.str_]
    reason: npt.NDArray[np.str_]
    gain: Float32Array
    label: Int64Array
    confidence: Float32Array

    @classmethod
    def of(cls, arrays: Arrays) -> Offer:
        """From what the service gives."""
        named = {"action": np.array(ACTIONS)[arrays["action"]], "reason": np.array(REASONS)[arrays["reason"]]}
        return cls(**{**arrays, **named})


@dataclass(frozen=True, eq=False)
class OfferStage:
    """Offers each batch to a hosted gate; see `GateSession.stage`.

    Attributes:
        service: the gate's, in the selection actor.
        features, predictions, row_id: names of columns.
        classifier: where there is no column of predictions.
    """

    service: GateCalls
    features: str
    predictions: str | None
    row_id: str
    classifier: LightClassifier | None

    def __call__(self, batch: Arrays) -> Arrays:
        """The batch with the decisions as further columns.

        Raises:
            InputError: a column is missing, or the gate refuses the batch.
        """
        wanted = [self.features, self.row_id, *([self.predictions] if self.predictions else [])]
        if missing := [name for name in wanted if name not in batch]:
            raise InputError(f"batches without {missing}, they have {sorted(batch)}", "name the columns in stage(...)")
        features = _matrix(batch[self.features])
        said = batch[self.predictions] if self.predictions else None
        predictions = _matrix(said) if said is not None else self._classify(features)
        decided = self.service.offer(
            batch[self.row_id].astype(np.int64), features.astype(np.float16), predictions.astype(np.float32)
        )
        offer = Offer.of(decided)
        label = np.where(offer.action == "pseudo_label", offer.label, -1)
        columns = {"action": offer.action, "reason": offer.reason, "gain": offer.gain, "confidence": offer.confidence}
        return {**batch, **columns, "pseudo_label": label}

    def _classify(self, features: AnyArray) -> Float32Array:
        assert self.classifier is not None  # stage() gives one or the other
        return self.classifier(features)


def _matrix(column: AnyArray) -> AnyArray:
    """Ray Data hands vectors over as one array, or as an array of arrays."""
    return np.stack(list(column)) if column.dtype == object else column
