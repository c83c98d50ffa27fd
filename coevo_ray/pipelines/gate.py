"""The gate's rounds: predict, ask, learn, until it stops by itself (Info-Coevolution, arXiv 2506.08070, D5.4).

The graph and the gate's state live in the selection actor; the light classifier is fitted and applied in Ray tasks, so
that neither targets nor predictions come to the driver.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import torch

from coevo_ray.actors.selection import SelectionHandle, start_selection
from coevo_ray.actors.service import SelectionService
from coevo_ray.annotators.base import Annotator
from coevo_ray.annotators.label_column import LabelColumn
from coevo_ray.config import GateSettings, make_config
from coevo_ray.core.gate import AnnotationGate, GateConfig
from coevo_ray.core.probe import LinearProbe, cross_fitted_accuracy
from coevo_ray.core.rows import Int64Array, choose_rows
from coevo_ray.errors import InputError
from coevo_ray.pipelines.graph import build_graph_artifact, load_graph, read_targets
from coevo_ray.pool.pool import Pool
from coevo_ray.progress import Ticker
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import ray_errors
from coevo_ray.store.artifact import Manifest, begin, digest, finish, write_table
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vectors

_FOLDS = 5
# The accuracy of fewer rows is too coarse to tell whether it still rises: one row of 400 is a quarter of a point.
_LEAST_EVALUATED = 400


def open_annotator(config: GateSettings, pool: Pool) -> Annotator:
    """The annotator that the settings name.

    Raises:
        InputError: it cannot answer for this pool.
    """
    return LabelColumn(pool)


def gate_rounds(
    config: GateSettings | dict[str, Any],
    pool: Pool,
    targets: RowTable,
    out: str | Location,
    annotator: Annotator | None = None,
) -> RowTable:
    """Asks for labels until the gate stops.

    Args:
        config: rounds, rule and stop; a dict is validated.
        pool: tells which rows are held out, and how many classes there are.
        targets: features of the pool's rows.
        out: folder of the result.
        annotator: who answers; None takes the one that the settings name.

    Returns:
        The label table: `row_id, label, annotator, round, time`.

    Raises:
        InputError: no rows, no labels, or features that cannot be used.
        UsageError: settings were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    config = config if isinstance(config, GateSettings) else make_config(GateSettings, config, "gate")
    location = Location.parse(out)
    inputs = {"pool": pool.manifest.identity, "targets": targets.manifest.identity}
    if begin(location, "labels", config.content(), inputs) is not None:
        return RowTable(location, "labels")
    annotator = annotator or open_annotator(config, pool)
    with ray_session(), ray_errors("gate"):
        _Rounds(config, pool, targets, location, annotator, inputs).run()
    return RowTable(location, "labels")


@dataclass(frozen=True)
class GateInputs:
    """What the selection actor builds its gate from."""

    config: GateConfig
    graph: Location
    journal: Location

    def make(self) -> SelectionService:
        """Builds the service; runs inside the actor."""
        graph, row_ids = load_graph(self.graph)
        candidates = np.ones(len(row_ids), dtype=bool)
        return SelectionService(self.journal, gate=AnnotationGate(self.config, graph, candidates), row_ids=row_ids)


class _Rounds:
    """The loop over rounds, on the driver: it moves row_ids, labels and references, nothing large."""

    def __init__(
        self,
        config: GateSettings,
        pool: Pool,
        targets: RowTable,
        location: Location,
        annotator: Annotator,
        inputs: dict[str, str],
    ) -> None:
        self.config, self.pool, self.targets = config, pool, targets
        self.location, self.annotator, self.inputs = location, annotator, inputs
        self.started = time.monotonic()
        self.classes = pool.classes
        if self.classes < 2:
            raise InputError(f"the pool has {self.classes} classes; the gate needs two or more", "set pool.classes")
        compute = config.compute
        graph = build_graph_artifact(
            pool, targets, location.child("graph"), neighbours=config.neighbours, seed=config.seed, cpus=compute.cpus
        )
        self.rows = int(graph.summary["rows"])
        self.seed_rows = max(2 * self.classes, round(config.seed_fraction * self.rows))
        self.max_labels = round(config.max_label_fraction * self.rows)
        self.curve: list[dict[str, Any]] = []

    def run(self) -> Manifest:
        rule = GateConfig(
            classes=self.classes,
            neighbours=self.config.neighbours,
            rule=self.config.rule,
            round_size=max(1, round(self.config.round_fraction * self.rows)),
            seed=self.config.seed,
            relative_gain=self.config.relative_gain,
            accuracy_patience=self.config.accuracy_patience,
            accuracy_tolerance=self.config.accuracy_tolerance,
            max_labels=self.max_labels,
            max_rounds=self.config.max_rounds,
        )
        inputs = GateInputs(rule, self.location.child("graph"), self.location.child("journal"))
        selection = start_selection(digest([str(self.location), self.inputs]), inputs.make)
        try:
            with Ticker("gate", self.max_labels, "labels") as ticker:
                self._loop(selection, ticker)
            return self._finish(selection)
        finally:
            selection.stop()

    def _loop(self, selection: SelectionHandle, ticker: Ticker) -> None:
        first = len(selection.labelled()["row_id"]) == 0
        if not first:
            self._learn(selection)  # a restarted gate first gets back the predictions that it had
        while True:
            row_ids = selection.request(self.seed_rows) if first else selection.request()
            first = False
            if len(row_ids) == 0:
                return
            answers = self.annotator.answer(row_ids)
            new = selection.submit(answers.row_ids, answers.labels, answers.annotator)
            if len(answers.row_ids) < len(row_ids):
                raise InputError(
                    f"{len(row_ids) - len(answers.row_ids)} of {len(row_ids)} requested rows were not answered",
                    "label them in the source and run the command again: answers so far are kept",
                )
            accuracy = self._learn(selection)
            ticker.advance(new, f"held-out accuracy {accuracy:.3f}" if accuracy is not None else "")

    def _learn(self, selection: SelectionHandle) -> float | None:
        """Refits the classifier on all labels, hands its predictions to the gate, notes accuracies."""
        labelled = selection.labelled()
        fitted = _remote(fit_round, self.config.compute.cpus).remote(
            self.targets, self.pool.location, labelled, self.classes, self.config.l2, self.config.seed
        )
        result = ray.get(fitted)
        parts = [
            _remote(predict_file, self.config.compute.cpus).remote(
                self.targets, index, result["probe"], self.pool.location
            )
            for index in range(len(self.targets.files))
        ]
        ray.get(selection.actor.call.remote("update_predictions", *ray.get(parts)))
        if self.seed_rows >= _LEAST_EVALUATED:
            selection.note_accuracy(result["cross_fitted"])
        status = selection.gate_status()
        self.curve.append(
            {
                "labels": len(labelled["row_id"]),
                "accuracy": result["test_accuracy"],
                "cross_fitted": result["cross_fitted"],
                "mean_gain": status["mean_gain"],
            }
        )
        accuracy: float | None = result["test_accuracy"]
        return accuracy

    def _finish(self, selection: SelectionHandle) -> Manifest:
        labelled, status = selection.labelled(), selection.gate_status()
        order = np.argsort(labelled["row_id"])
        names = np.array(labelled["names"], dtype=object)
        table = pa.table(
            {
                "row_id": labelled["row_id"][order],
                "label": labelled["label"][order],
                "annotator": pa.array(names[labelled["annotator"][order]].tolist(), pa.string()),
                "round": labelled["round"][order],
                "time": pa.array((labelled["time"][order] * 1e6).astype(np.int64), pa.timestamp("us", "UTC")),
            }
        )
        entry = write_table(self.location, "labels.parquet", table)
        counts = [point["labels"] for point in self.curve]
        others = ray.get(
            _remote(compare_random, self.config.compute.cpus).remote(
                self.targets, self.pool.location, counts, self.classes, self.config.l2, self.config.seed
            )
        )
        summary = {
            "labels": len(table),
            "label_fraction": round(len(table) / self.rows, 6),
            "rounds": status["rounds"],
            "stopped_by": status["stopped_by"],
            "accuracy": self.curve[-1]["accuracy"],
            "random_accuracy": others["random"][-1],
            "full_accuracy": others["full"],
            "curve": self.curve,
            "random_curve": [[n, a] for n, a in zip(counts, others["random"], strict=True)],
            "seconds": round(time.monotonic() - self.started, 3),
        }
        return finish(self.location, "labels", self.config.content(), self.inputs, [entry], summary)


def _remote(function: Any, cpus: float) -> Any:
    return ray.remote(function).options(num_cpus=cpus)


def fit_round(
    targets: RowTable, pool: Location, labelled: dict[str, Any], classes: int, l2: float, seed: int
) -> dict[str, Any]:
    """Ray task: fits the light classifier on the labels so far.

    Returns:
        `probe`; `cross_fitted`: accuracy on the random first labels, each predicted without its fold, an unbiased
        estimate that needs no further labels; `test_accuracy` on the held-out split, or None.
    """
    torch.set_num_threads(1)
    order = np.argsort(labelled["row_id"])
    row_ids, labels = labelled["row_id"][order], labelled["label"][order]
    features = read_targets(targets, row_ids)
    first = labelled["round"][order] == 0
    return {
        "probe": LinearProbe.fit(features, labels, classes=classes, l2=l2),
        "cross_fitted": cross_fitted_accuracy(
            features, labels, classes=classes, folds=_FOLDS, evaluate=first, l2=l2, seed=seed
        ),
        "test_accuracy": _Held(targets, pool).accuracy(LinearProbe.fit(features, labels, classes=classes, l2=l2)),
    }


def predict_file(
    targets: RowTable, index: int, probe: LinearProbe, pool: Location
) -> tuple[Int64Array, npt.NDArray[np.float32]]:
    """Ray task: class probabilities of one target file's training rows."""
    table = pa.concat_tables(targets.iter_file(index, ["target"]))
    row_ids = table.column("row_id").to_numpy()
    train = np.isin(row_ids, Pool(pool).train_ids(), assume_unique=True)
    return row_ids[train], probe.predict_proba(vectors(table.column("target"))[train])


def compare_random(
    targets: RowTable, pool: Location, counts: list[int], classes: int, l2: float, seed: int
) -> dict[str, Any]:
    """Ray task: the same classifier on as many random labels, and on all labels; for comparison only."""
    torch.set_num_threads(1)
    source, held = Pool(pool), _Held(targets, pool)
    labels = source.labels()
    known = np.intersect1d(targets.row_ids(), source.train_ids(), assume_unique=True)
    known = known[labels[known] >= 0]
    features = read_targets(targets, known)

    def accuracy(rows: Int64Array) -> float | None:
        use = np.searchsorted(known, rows)
        return held.accuracy(LinearProbe.fit(features[use], labels[rows], classes=classes, l2=l2))

    random = [accuracy(choose_rows(known, min(n, len(known)), seed + 1)) for n in counts]
    return {"random": random, "full": accuracy(known)}


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
