"""The gate's light classifier, as Ray tasks: neither targets nor predictions come to the driver."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from coevo_ray.actors.actor import StoredPart
from coevo_ray.actors.protocols import LabelColumns, Ranges
from coevo_ray.core.arrays import AnyArray, Arrays, Float32Array, Int64Array
from coevo_ray.core.gate.class_blocks import BLOCK_CELLS, class_ranges
from coevo_ray.core.json import JsonObject
from coevo_ray.core.probes.label_doubt import DOUBTED, FOLDS, find_mistakes, fold_of, most_doubted, predict_folds
from coevo_ray.core.probes.light_classifier import LightClassifier, fit_light_classifier
from coevo_ray.core.probes.probe import LinearProbe, Scaling
from coevo_ray.core.rows.hashing import choose_rows
from coevo_ray.pool.pool import Pool
from coevo_ray.runtime.resources import Need, require
from coevo_ray.runtime.tasks import start_task, task_result
from coevo_ray.store.graph_files import read_targets
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vectors

# Rows that are predicted at a time: a block of the probe's.
_PREDICTED_ROWS = 1 << 16


def save_classifier(classifier: LightClassifier, file: Location) -> None:
    """Writes what predicts of a classifier, as one safetensors file.

    Raises:
        StoppedError: the store refused.
    """
    arrays = {**classifier.probe.arrays(), "temperature": np.array([classifier.temperature])}
    file.write_bytes(save_safetensors(arrays))


def load_classifier(file: Location) -> LightClassifier:
    """Reads what `save_classifier` wrote; what was measured of it is not there.

    Raises:
        InputError: there is none.
    """
    arrays = load_safetensors(file.read_bytes())
    return LightClassifier(LinearProbe.from_arrays(arrays), float(arrays["temperature"][0]), 0.0, None, None)


@dataclass(frozen=True, eq=False)
class Confusions:
    """Held-out rows by their label and the class that the light classifier says; only pairs that occur.

    Attributes:
        label: int64[k].
        predicted: int64[k].
        rows: int64[k], how many have both.
    """

    label: Int64Array
    predicted: Int64Array
    rows: Int64Array

    @classmethod
    def count(cls, labels: Int64Array, predicted: Int64Array) -> Confusions:
        """Counts the pairs of labels int64[n] and predictions int64[n], in increasing order of the two."""
        pairs, rows = np.unique(np.stack([labels, predicted]), axis=1, return_counts=True)
        return cls(pairs[0].astype(np.int64), pairs[1].astype(np.int64), rows.astype(np.int64))


class Doubted(NamedTuple):
    """Rows whose labels are doubted, most first.

    Attributes:
        row_ids: int64[n].
        labels: int64[n], that they have.
        likely: int64[n], classes that are likeliest by the features.
        doubt: float32[n], probabilities that the labels are wrong.
    """

    row_ids: Int64Array
    labels: Int64Array
    likely: Int64Array
    doubt: Float32Array


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
        scaling: see `LinearProbe.fit`.
        by_group: whether validation keeps near-duplicates on one side; gates of version 0.1.0 go on without.
        validates: whether the gate keeps rows for validation.
        graph_parts: in which the gate's graph lies: each is a process that has a block of predictions.
    """

    targets: RowTable
    pool: Location
    classes: int
    calibrate: bool
    l2: float | None
    seed: int
    cpus: float
    scaling: Scaling = "one"
    by_group: bool = True
    validates: bool = False
    graph_parts: int = 1

    def fit(
        self, labelled: LabelColumns, offered: ray.ObjectRef[Arrays], decay_rows: float | None = None
    ) -> tuple[LightClassifier, float | None]:
        """Fits on the labels so far: see `_fit`. `offered` may be an object reference."""
        fitted: tuple[LightClassifier, float | None] = self._result(Learning._fit, labelled, offered, decay_rows)
        return fitted

    def predict(self, classifier: LightClassifier, offered: Any, rows: int) -> list[StoredPart]:
        """Predicts all training rows, and those that arrived, in Ray tasks.

        Args:
            classifier: the classifier.
            offered: see `GateService.offered`, or a reference to it.
            rows: of the gate, by which predictions are cut into blocks of classes.

        Returns:
            References to the predictions, which stay in Ray's object store; Ray moves to the disk what is too much.
        """
        ranges = tuple(class_ranges(rows, self.classes, BLOCK_CELLS // self.graph_parts))
        streams = [
            self._stream(Learning._predict_file, index, classifier, ranges) for index in range(len(self.targets.files))
        ]
        streams.append(self._stream(Learning._predict_offered, offered, classifier, ranges))
        return [part for stream in streams for part in _parts(list(stream), ranges)]

    def compare(self, points: list[tuple[int, float]]) -> JsonObject:
        """Held-out accuracy of the same classifier on as many random labels, and on all labels of the pool.

        Args:
            points: labels, and weight decay times labels, of each round.

        Returns:
            `random`: a number for each point, and `full`; None where the pool has no labels to compare with, or fewer
            than the point.
        """
        compared: JsonObject = self._result(Learning._compare, points)
        return compared

    def confusions(self, classifier: LightClassifier) -> Confusions:
        """Labels of the held-out rows against the classes that a classifier says; empty where none has a label."""
        found: Confusions = self._result(Learning._confusions, classifier)
        return found

    def doubted(self, labelled: LabelColumns, offered: Arrays, count: int) -> tuple[int, Doubted]:
        """Counts labels that are more likely wrong than right (`core.probes.label_doubt`), and names the most doubted.

        Args:
            labelled: see `GateService.labelled`; of too few none is doubted (`noise_matrix.fewest_rows`).
            offered: see `GateService.offered`.
            count: of rows to name, at most.
        """
        found: tuple[int, Doubted] = self._result(Learning._doubted, labelled, offered, count)
        return found

    def _result(self, method: Any, *arguments: Any) -> Any:
        return task_result("learn", start_task("learn", method, self, *arguments, need=Need("task", self.cpus)))

    def _stream(self, method: Any, *arguments: Any) -> Any:
        require("gate", Need("task", self.cpus))
        return ray.remote(method).options(num_cpus=self.cpus, num_returns="streaming").remote(self, *arguments)

    def _fit(
        self, labelled: LabelColumns, offered: Arrays, decay_rows: float | None
    ) -> tuple[LightClassifier, float | None]:
        """Ray task.

        Args:
            labelled: see `GateService.labelled`.
            offered: see `GateService.offered`.
            decay_rows: weight decay times labels; None chooses it.

        Returns:
            The classifier, and its accuracy on the held-out split's labels (None without any).
        """
        torch.set_num_threads(max(1, int(self.cpus)))
        order = np.argsort(labelled["row_id"])
        untold = labelled["validation"][order]
        validation, order = order[untold], order[~untold]
        classifier = fit_light_classifier(
            self._features(labelled["row_id"][order], offered),
            labelled["label"][order],
            labelled["round"][order] == 0,
            self.classes,
            copies=(self._features(labelled["copy_id"], offered), labelled["copy_label"]),
            groups=labelled["group"][order] if self.by_group else None,
            l2=self.l2,
            decay_rows=decay_rows,
            calibrate=self.calibrate,
            seed=self.seed,
            scaling=self.scaling,
            validation=(self._features(labelled["row_id"][validation], offered), labelled["label"][validation])
            if self.validates
            else None,
        )
        return classifier, _Held(self.targets, self.pool).accuracy(classifier.probe)

    def _features(self, row_ids: Int64Array, offered: Arrays) -> Float32Array:
        """Features of the pool's rows and of those that arrived, in the order given."""
        arrived = np.isin(row_ids, offered["row_id"])
        features = np.empty((len(row_ids), self._dim(offered)), dtype=np.float32)
        features[~arrived] = read_targets(self.targets, row_ids[~arrived])
        if arrived.any():
            by_row = np.argsort(offered["row_id"])
            place = by_row[np.searchsorted(offered["row_id"], row_ids[arrived], sorter=by_row)]
            features[arrived] = offered["features"][place]
        return features

    def _dim(self, offered: Arrays) -> int:
        dim = offered["features"].shape[1]
        return int(dim or self.targets.schema().field("target").type.list_size)

    def _predict_file(self, index: int, classifier: LightClassifier, ranges: Ranges) -> Iterator[AnyArray]:
        """Ray task: predictions of one target file's training rows, see `_cut`."""
        for row_ids, features in _in_blocks(self._training_rows(index), _PREDICTED_ROWS):
            yield from _cut(row_ids, classifier(features), ranges)

    def _training_rows(self, index: int) -> Iterator[tuple[Int64Array, Float32Array]]:
        pool = Pool(self.pool)
        for table in self.targets.iter_file(index, ["target"]):
            row_ids = table.column("row_id").to_numpy()
            train = pool.in_training(row_ids)
            yield row_ids[train], vectors(table.column("target"))[train]

    def _predict_offered(self, offered: Arrays, classifier: LightClassifier, ranges: Ranges) -> Iterator[AnyArray]:
        """Ray task: predictions of the rows that arrived, see `_cut`."""
        if len(offered["row_id"]):
            yield from _cut(offered["row_id"], classifier(offered["features"]), ranges)

    def _confusions(self, classifier: LightClassifier) -> Confusions:
        """Ray task: the predictions stay in it."""
        held = _Held(self.targets, self.pool)
        if held.features is None:
            return Confusions.count(held.labels, held.labels)
        return Confusions.count(held.labels, classifier.probe.predict_proba(held.features).argmax(axis=1))

    def _doubted(self, labelled: LabelColumns, offered: Arrays, count: int) -> tuple[int, Doubted]:
        """Ray task: the features stay in it."""
        torch.set_num_threads(max(1, int(self.cpus)))
        order = np.argsort(labelled["row_id"])
        rows, labels = labelled["row_id"][order], labelled["label"][order]
        features, fold = self._features(rows, offered), fold_of(rows, FOLDS, self.seed)
        found = find_mistakes(features, labels, fold, folds=FOLDS, classes=self.classes)
        predicted = predict_folds(found.probes, features, fold)
        doubt = found.doubt(predicted, labels)
        named = most_doubted(rows, doubt, labels, count)
        named = named[doubt[named] > DOUBTED]
        likely = predicted.argmax(axis=1).astype(np.int64)
        return int((doubt > DOUBTED).sum()), Doubted(rows[named], labels[named], likely[named], doubt[named])

    def _compare(self, points: list[tuple[int, float]]) -> JsonObject:
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
            probe = LinearProbe.fit(features[use], labels[rows], self.classes, decay, scaling=self.scaling)
            return held.accuracy(probe)

        random = [
            accuracy(choose_rows(known, n, self.seed + 1), decay) if n <= len(known) else None for n, decay in points
        ]
        return {"random": random, "full": accuracy(known, points[-1][1])}


def _cut(row_ids: Int64Array, probabilities: Float32Array, ranges: Ranges) -> Iterator[AnyArray]:
    """Yields row_ids int64[n], then their probabilities float32[n, w] of each range of classes."""
    yield row_ids
    for first, end in ranges:
        yield np.ascontiguousarray(probabilities[:, first:end])


def _parts(references: list[Any], ranges: tuple[tuple[int, int], ...]) -> list[StoredPart]:
    """Parts of what `_cut` yielded in a task.

    Raises:
        RayError: the task failed; it is in the place of what would have come next.
    """
    each = 1 + len(ranges)
    if len(references) % each:
        ray.get(references[-1])
    groups = [references[start : start + each] for start in range(0, len(references), each)]
    return [StoredPart(ranges, ids, tuple(blocks)) for ids, *blocks in groups]


def _in_blocks(
    parts: Iterable[tuple[Int64Array, Float32Array]], rows: int
) -> Iterator[tuple[Int64Array, Float32Array]]:
    """Joins and cuts row_ids int64[n] and features float32[n, d], so that all parts but the last have `rows` rows."""
    held: list[tuple[Int64Array, Float32Array]] = []
    for part in parts:
        held.append(part)
        if sum(len(row_ids) for row_ids, _ in held) < rows:
            continue
        row_ids, features = _joined(held)
        whole = len(row_ids) - len(row_ids) % rows
        for start in range(0, whole, rows):
            yield row_ids[start : start + rows], features[start : start + rows]
        held = [(row_ids[whole:], features[whole:])]
    if any(len(row_ids) for row_ids, _ in held):
        yield _joined(held)


def _joined(parts: list[tuple[Int64Array, Float32Array]]) -> tuple[Int64Array, Float32Array]:
    return np.concatenate([row_ids for row_ids, _ in parts]), np.concatenate([features for _, features in parts])


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
