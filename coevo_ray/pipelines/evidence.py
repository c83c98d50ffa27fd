"""Evidence from targets on the training rows: the probability of wrong labels, and groups of near-duplicates.

Labels are judged by probes that were not fitted on their rows (see `core.probes.label_doubt`: Liu and Tao 2016, arXiv
1411.7718). Probes are fitted on a sample in one Ray task and applied to each target file in another, so that neither
targets nor probabilities come to the driver.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from coevo_ray.config import EvidenceConfig, SettingsLike, as_settings
from coevo_ray.core.arrays import Float32Array, Float64Array, Int64Array
from coevo_ray.core.graph.copies import copy_groups
from coevo_ray.core.graph.near_duplicates import copies_of
from coevo_ray.core.json import JsonObject
from coevo_ray.core.probes.irreducible import irreducible_loss
from coevo_ray.core.probes.label_doubt import fold_of, fold_probes, label_doubt, mistake_rates, predict_folds
from coevo_ray.core.probes.probe import LinearProbe
from coevo_ray.core.rows.hashing import choose_rows
from coevo_ray.errors import InputError
from coevo_ray.pipelines.graph import build_graph_artifact
from coevo_ray.pool.pool import Pool
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import Row, ray_errors, run_shards
from coevo_ray.store.artifact import begin, begun_config, describe, digest_array, finish, read_table, write_table
from coevo_ray.store.graph_files import load_graph, read_targets
from coevo_ray.store.location import Location, Place
from coevo_ray.store.row_table import RowTable, vectors

KIND = "evidence"
_FOLDS = 2
_DOUBTED = 0.5  # above it, a label is more likely wrong than right; such rows are counted in the summary
_SHOWN = 48  # rows with the largest doubt that the summary names


@dataclass(frozen=True)
class Judges:
    """Probes that judge labels.

    Attributes:
        probes: one for each fold, fitted on the other folds.
        rates: float64[classes], share of wrong labels in each class.
        seed: seed of the folds.
    """

    probes: list[LinearProbe]
    rates: Float64Array
    seed: int

    def judge(
        self, row_ids: Int64Array, features: Float32Array, labels: Int64Array
    ) -> tuple[Float32Array, Int64Array, Float32Array]:
        """Judges labels by the probes that were not fitted on their rows.

        Returns:
            The probability that each label is wrong, float32[n]; the likeliest class, int64[n]; the label's loss,
            float32[n] in nats.
        """
        probabilities = predict_folds(self.probes, features, fold_of(row_ids, _FOLDS, self.seed))
        doubt = label_doubt(probabilities, labels, self.rates)
        return doubt, probabilities.argmax(axis=1), irreducible_loss(probabilities, labels)


def gather_evidence(
    config: SettingsLike[EvidenceConfig], pool: Pool, targets: RowTable, labels: Int64Array, out: Place
) -> RowTable:
    """Writes the evidence on all labelled training rows that have a target.

    Args:
        config: what to look for, and from which similarity on; a dict, or a YAML file.
        pool: tells which rows are held out; they take no part.
        targets: features of the pool's rows.
        labels: int64[rows of the pool], as training will use them; -1 where there is none.
        out: folder of the result, with `graph/` below it.

    Returns:
        The table `row_id`, `label` (int64, as given), `doubt` (float16 in [0, 1]), `likely` (int64, likeliest class
        under probes that were not fitted on the row), `group` (int64, row_id of its near-duplicates' leader) and, where
        doubt is looked for, `irreducible` (float16, nats, the label's loss under those probes).

    Raises:
        InputError: no labelled row has a target, or targets are not finite.
        UsageError: settings or labels were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    location = Location.parse(out)
    config = as_settings(EvidenceConfig, config, "evidence").settled(begun_config(location))
    inputs = {"pool": pool.manifest.identity, "targets": targets.manifest.identity, "labels": digest_array(labels)}
    if begin(location, KIND, config.content(), inputs) is None:
        with ray_session(), ray_errors(KIND):
            _gather(config, pool, targets, labels, location, inputs)
    return RowTable(location, KIND)


def _gather(
    config: EvidenceConfig,
    pool: Pool,
    targets: RowTable,
    labels: Int64Array,
    location: Location,
    inputs: dict[str, str],
) -> None:
    started, cpus = time.monotonic(), config.compute.cpus
    rows = np.intersect1d(targets.row_ids(), pool.train_ids(), assume_unique=True)
    rows = rows[labels[rows] >= 0]
    if len(rows) == 0:
        raise InputError("no training row has both a label and a target", "label rows, or encode the labelled ones")
    summary: JsonObject = {"rows": len(rows)}
    parts: dict[str, Any] = {"rows": ray.put(rows), "labels": ray.put(labels[rows])}
    if config.doubt:
        sample = choose_rows(rows, min(len(rows), config.probe_rows), config.seed)
        parts["judges"] = _task(fit_judges, cpus).remote(targets, sample, labels[sample], config.l2, config.seed, cpus)
    if config.copies:
        folder = location.child("graph")
        graph = build_graph_artifact(
            pool, targets, folder, neighbours=config.neighbours, seed=config.seed, cpus=cpus, centre=True
        )
        parts["groups"], figures = _task(group_rows, cpus, 2).remote(folder, config, parts["rows"])
        summary |= {"graph": graph.summary["fields"], **ray.get(figures)}
    stage = _Files(targets, location, parts)
    shards = range(len(targets.files))
    made = list(run_shards(KIND, shards, lambda d: d.map(stage.make, num_cpus=cpus), total=len(rows)))
    if config.doubt:
        found = (row for part in made for row in part["doubted"])
        doubted = sorted(found, key=lambda row: (-row["doubt"], row["row_id"]))
        judges: Judges = ray.get(parts["judges"])
        summary |= {
            "mistake_rates": [round(float(rate), 6) for rate in judges.rates],
            "doubted_rows": sum(part["doubted_rows"] for part in made),
            "most_doubted": doubted[:_SHOWN],
        }
    summary["seconds"] = round(time.monotonic() - started, 3)
    finish(location, KIND, config.content(), inputs, [part["entry"] for part in made if part["rows"]], summary)


def _task(function: Any, cpus: float, returns: int = 1) -> Any:
    return ray.remote(function).options(num_cpus=cpus, num_returns=returns)


def fit_judges(targets: RowTable, row_ids: Int64Array, labels: Int64Array, l2: float, seed: int, cpus: float) -> Judges:
    """Ray task: fits a probe for each fold on a sample of labelled rows, and estimates the mistakes of each class."""
    torch.set_num_threads(max(1, int(cpus)))
    features, fold = read_targets(targets, row_ids), fold_of(row_ids, _FOLDS, seed)
    classes = int(labels.max()) + 1
    probes = fold_probes(features, labels, fold, folds=_FOLDS, classes=classes, l2=l2)
    return Judges(probes, mistake_rates(predict_folds(probes, features, fold), labels), seed)


def group_rows(graph: Location, config: EvidenceConfig, row_ids: Int64Array) -> tuple[Int64Array, dict[str, int]]:
    """Ray task: groups of near-duplicates.

    Returns:
        row_id of each row's leader, int64[n]; numbers of `copied_rows` in groups of two or more, and of `copy_groups`.
    """
    neighbours, of = load_graph(graph)
    leader = copy_groups(neighbours, config.similarity, config.margin, config.same)
    place = np.searchsorted(of, row_ids)  # the graph includes training rows without a label
    copies, copy = copies_of(leader[place])
    figures = {"copied_rows": int((copies > 1).sum()), "copy_groups": int(((copies > 1) & (copy == 0)).sum())}
    return of[leader[place]], figures


@dataclass(frozen=True)
class _Files:
    """Ray Data stage: one target file -> one file of evidence.

    Attributes:
        targets: features of the pool's rows.
        location: folder of the files.
        parts: references to `rows` (int64[n], the judged rows), their `labels`, and, where requested, `judges` and the
            rows' `groups`.
    """

    targets: RowTable
    location: Location
    parts: dict[str, Any]

    def make(self, row: Row) -> Row:
        """Writes a file, or reads it where it exists, and returns its figures for the summary."""
        name = self.targets.files[row["shard"]].path.rsplit("/", 1)[-1]
        if self.location.child(name).is_file():  # of an interrupted attempt
            table, entry = read_table(self.location, name), describe(self.location, name)
        else:
            table = self._judge(row["shard"])
            entry = write_table(self.location, name, table)
        doubt = table.column("doubt").to_numpy()
        most = np.argsort(-doubt, kind="stable")[:_SHOWN]
        most = most[doubt[most] > _DOUBTED]
        columns = (table.column("row_id").to_numpy()[most], doubt[most], table.column("likely").to_numpy()[most])
        return {
            "rows": table.num_rows,
            "entry": entry,
            "doubted_rows": int((doubt > _DOUBTED).sum()),
            "doubted": [
                {"row_id": int(r), "doubt": round(float(d), 4), "likely": int(c)}
                for r, d, c in zip(*columns, strict=True)
            ],
        }

    def _judge(self, shard: int) -> pa.Table:
        table = pa.concat_tables(self.targets.iter_file(shard, ["target"]))
        parts = {name: ray.get(reference) for name, reference in self.parts.items()}
        there = table.column("row_id").to_numpy()
        inside = np.isin(there, parts["rows"], assume_unique=True)
        row_ids = there[inside]
        place = np.searchsorted(parts["rows"], row_ids)
        labels = parts["labels"][place]
        doubt, likely = np.zeros(len(row_ids), np.float16), labels
        losses = {"irreducible": np.zeros(len(row_ids), np.float16)} if "judges" in parts else {}
        if "judges" in parts and len(row_ids):
            features = vectors(table.column("target"))[inside]
            doubt, likely, loss = parts["judges"].judge(row_ids, features, labels)
            losses["irreducible"] = loss.astype(np.float16)
        group = parts["groups"][place] if "groups" in parts else row_ids
        columns = {"row_id": row_ids, "label": labels, "doubt": doubt.astype(np.float16), "likely": likely}
        return pa.table({**columns, "group": group, **losses})
