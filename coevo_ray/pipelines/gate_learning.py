"""What the gate's light classifier does, as Ray tasks: neither targets nor predictions come to the driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import torch
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from coevo_ray.core.calibration import apply_temperature, fit_temperature
from coevo_ray.core.probe import LinearProbe, cross_fitted_predictions
from coevo_ray.core.rows import Int64Array, choose_rows
from coevo_ray.pipelines.graph import read_targets
from coevo_ray.pool.pool import Pool
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vectors

Float32Array = npt.NDArray[np.float32]

_FOLDS = 5
# The accuracy of fewer rows is too coarse to tell whether it still rises: one row of 400 is a quarter of a point.
_LEAST_EVALUATED = 400
_LEAST_CALIBRATED = 50
# The penalty is one of these / labels (as scikit-learn's C has it). On frozen features of CIFAR-10 100 is best from 500
# to 2 000 labels (3 points above 20), on those of handwritten digits 3 (2 points above 100).
_DECAY_ROWS = (3.0, 10.0, 30.0, 100.0)
_USUAL_DECAY_ROWS = 30.0


@dataclass(frozen=True, eq=False)
class Classifier:
    """A light classifier with calibrated confidence.

    Attributes:
        probe: linear, over targets.
        temperature: its calibration.
    """

    probe: LinearProbe
    temperature: float

    def __call__(self, features: npt.NDArray[np.floating[Any]]) -> Float32Array:
        """Class probabilities, float32[n, C], of targets float[n, d]; uniform where one is not finite."""
        finite = np.isfinite(features).all(axis=1)
        predicted = np.full((len(features), self.probe.classes), 1.0 / self.probe.classes, dtype=np.float32)
        predicted[finite] = apply_temperature(self.probe.predict_proba(features[finite]), self.temperature)
        return predicted

    def save(self, file: Location) -> None:
        """Writes it as one safetensors file.

        Raises:
            StoppedError: the store refused.
        """
        file.write_bytes(save_safetensors({**self.probe.arrays(), "temperature": np.array([self.temperature])}))

    @classmethod
    def load(cls, file: Location) -> Classifier:
        """Reads what `save` wrote.

        Raises:
            InputError: there is none.
        """
        arrays = load_safetensors(file.read_bytes())
        return cls(LinearProbe.from_arrays(arrays), float(arrays["temperature"][0]))


def fit_labels(
    features: Float32Array,
    labels: Int64Array,
    first: npt.NDArray[np.bool_],
    classes: int,
    *,
    l2: float | None,
    calibrate: bool,
    seed: int,
    decay: float | None,
) -> dict[str, Any]:
    """Fits the gate's light classifier on all labels so far.

    Args:
        features: float32[n, d], of the labelled rows, by row.
        labels: int64[n].
        first: bool[n], the random first rows.
        classes: C.
        l2: weight decay; None for `decay` / n.
        calibrate: whether a temperature is fitted.
        seed: of the folds.
        decay: weight decay times labels; None chooses one by cross-entropy on the random first labels.

    Returns:
        `probe`, `temperature`, `decay_rows` (what was chosen); `cross_fitted`: accuracy on the random first labels,
        each predicted without its fold, an unbiased estimate that needs no further labels (None below 400 of them).
    """
    temperature, accuracy, chosen = 1.0, None, decay or _USUAL_DECAY_ROWS
    if first.sum() >= _LEAST_CALIBRATED:
        best: tuple[float, Float32Array] | None = None
        for rows in (chosen,) if decay is not None or l2 is not None else _DECAY_ROWS:
            strength = l2 if l2 is not None else rows / len(labels)
            predicted = cross_fitted_predictions(
                features, labels, classes, folds=_FOLDS, evaluate=first, l2=strength, seed=seed
            )
            right = predicted[np.arange(len(predicted)), labels[first]]
            loss = -float(np.log(np.maximum(right, 1e-12)).mean())
            if best is None or loss < best[0]:
                best, chosen = (loss, predicted), rows
        assert best is not None  # at least one is tried
        temperature = fit_temperature(best[1], labels[first]) if calibrate else 1.0
        if first.sum() >= _LEAST_EVALUATED:
            accuracy = float((best[1].argmax(axis=1) == labels[first]).mean())
    probe = LinearProbe.fit(features, labels, classes, l2 if l2 is not None else chosen / len(labels))
    return {"probe": probe, "temperature": temperature, "decay_rows": chosen, "cross_fitted": accuracy}


@dataclass(frozen=True)
class Learning:
    """The gate's light classifier over a pool's targets: linear, refitted on all labels after each round.

    Attributes:
        targets: features of the pool's rows.
        pool: folder of the pool.
        classes: C.
        calibrate: whether confidences are scaled to what cross-fitted predictions are right about.
        l2: weight decay; None chooses one by cross-entropy on the random first labels.
        seed: of folds and comparisons.
        cpus: of each task.
    """

    targets: RowTable
    pool: Location
    classes: int
    calibrate: bool
    l2: float | None
    seed: int
    cpus: float

    def fit(self, labelled: dict[str, Any], offered: Any, decay_rows: float | None = None) -> dict[str, Any]:
        """Fits on the labels so far: see `_fit`. `offered` may be an object reference."""
        fitted: dict[str, Any] = ray.get(self._task(Learning._fit, labelled, offered, decay_rows))
        return fitted

    def predict(self, fitted: dict[str, Any], offered: Any) -> list[Any]:
        """Object references of the predictions of all training rows, file by file, and of those that arrived.

        Each is (row_ids, float32[n, C]).
        """
        classifier = Classifier(fitted["probe"], fitted["temperature"])
        parts = [self._task(Learning._predict_file, index, classifier) for index in range(len(self.targets.files))]
        return [*parts, self._task(Learning._predict_offered, offered, classifier)]

    def compare(self, points: list[tuple[int, float]]) -> dict[str, Any]:
        """Held-out accuracy of the same classifier on as many random labels, and on all labels of the pool.

        Args:
            points: labels, and weight decay times labels, of each round.

        Returns:
            `random`: a number for each point, and `full`; None where the pool has no labels to compare with.
        """
        compared: dict[str, Any] = ray.get(self._task(Learning._compare, points))
        return compared

    def _task(self, method: Any, *arguments: Any) -> Any:
        return ray.remote(method).options(num_cpus=self.cpus).remote(self, *arguments)

    def _fit(
        self, labelled: dict[str, Any], offered: dict[str, npt.NDArray[Any]], decay_rows: float | None
    ) -> dict[str, Any]:
        """Ray task.

        Args:
            labelled: see `GateService.labelled`.
            offered: see `GateService.offered`.
            decay_rows: weight decay times labels; None chooses it.

        Returns:
            See `fit_labels`, and `test_accuracy` on the held-out split's labels (None without any).
        """
        torch.set_num_threads(max(1, int(self.cpus)))
        order = np.argsort(labelled["row_id"])
        row_ids, labels = labelled["row_id"][order], labelled["label"][order]
        features, first = self._features(row_ids, offered), labelled["round"][order] == 0
        fitted = fit_labels(
            features,
            labels,
            first,
            self.classes,
            l2=self.l2,
            calibrate=self.calibrate,
            seed=self.seed,
            decay=decay_rows,
        )
        return {**fitted, "test_accuracy": _Held(self.targets, self.pool).accuracy(fitted["probe"])}

    def _features(self, row_ids: Int64Array, offered: dict[str, npt.NDArray[Any]]) -> Float32Array:
        """Features of the pool's rows and of those that arrived, in the order given."""
        arrived = np.isin(row_ids, offered["row_id"])
        features = np.empty((len(row_ids), self._dim(offered)), dtype=np.float32)
        features[~arrived] = read_targets(self.targets, row_ids[~arrived])
        if arrived.any():
            by_row = np.argsort(offered["row_id"])
            place = by_row[np.searchsorted(offered["row_id"], row_ids[arrived], sorter=by_row)]
            features[arrived] = offered["features"][place]
        return features

    def _dim(self, offered: dict[str, npt.NDArray[Any]]) -> int:
        dim = offered["features"].shape[1]
        return int(dim or self.targets.schema().field("target").type.list_size)

    def _predict_file(self, index: int, classifier: Classifier) -> tuple[Int64Array, Float32Array]:
        """Ray task: class probabilities of one target file's training rows."""
        table = pa.concat_tables(self.targets.iter_file(index, ["target"]))
        row_ids = table.column("row_id").to_numpy()
        train = np.isin(row_ids, Pool(self.pool).train_ids(), assume_unique=True)
        return row_ids[train], classifier(vectors(table.column("target"))[train])

    def _predict_offered(
        self, offered: dict[str, npt.NDArray[Any]], classifier: Classifier
    ) -> tuple[Int64Array, Float32Array]:
        """Ray task: class probabilities of the rows that arrived."""
        if len(offered["row_id"]) == 0:
            return offered["row_id"], np.zeros((0, self.classes), dtype=np.float32)
        return offered["row_id"], classifier(offered["features"])

    def _compare(self, points: list[tuple[int, float]]) -> dict[str, Any]:
        """Ray task, for comparison only: it reads labels that the gate never sees."""
        torch.set_num_threads(max(1, int(self.cpus)))
        source, held = Pool(self.pool), _Held(self.targets, self.pool)
        labels = source.labels()
        known = np.intersect1d(self.targets.row_ids(), source.train_ids(), assume_unique=True)
        known = known[labels[known] >= 0]
        if len(known) == 0 or len(held.rows) == 0:
            return {"random": [None] * len(points), "full": None}
        features = read_targets(self.targets, known)

        def accuracy(rows: Int64Array, decay_rows: float) -> float | None:
            use = np.searchsorted(known, rows)
            decay = self.l2 if self.l2 is not None else decay_rows / len(rows)
            return held.accuracy(LinearProbe.fit(features[use], labels[rows], self.classes, decay))

        random = [accuracy(choose_rows(known, min(n, len(known)), self.seed + 1), decay) for n, decay in points]
        return {"random": random, "full": accuracy(known, points[-1][1])}


class _Held:
    """Held-out rows with targets and labels."""

    def __init__(self, targets: RowTable, pool: Location) -> None:
        source = Pool(pool)
        labels = source.labels()
        rows = np.intersect1d(targets.row_ids(), source.test_ids(), assume_unique=True)
        self.rows = rows[labels[rows] >= 0]
        self.labels = labels[self.rows]
        self.features = read_targets(targets, self.rows) if len(self.rows) else None

    def accuracy(self, probe: LinearProbe) -> float | None:
        """Share of held-out rows that are classified rightly; None without any."""
        if self.features is None:
            return None
        return float((probe.predict_proba(self.features).argmax(axis=1) == self.labels).mean())
