"""Evidence from targets on the training rows: the probability of wrong labels, and groups of near-duplicates.

Labels are judged by probes that were not fitted on their rows (see `core.probes.label_doubt`: Liu and Tao 2016, arXiv
1411.7718; Patrini et al. 2017, arXiv 1609.03683). Probes are fitted on a sample in one Ray task and applied to each
target file in another, so that neither targets nor probabilities come to the driver.
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
from coevo_ray.core.probes.former_doubt import former_doubt, mistake_rates
from coevo_ray.core.probes.irreducible import irreducible_loss
from coevo_ray.core.probes.label_agreement import chances_to_agree, groups_of_copies
from coevo_ray.core.probes.label_doubt import (
    DOUBTED,
    FOLDS,
    Mistakes,
    find_mistakes,
    fold_of,
    fold_probes,
    most_doubted,
    predict_folds,
)
from coevo_ray.core.probes.probe import LinearProbe
from coevo_ray.core.rows.hashing import choose_rows
from coevo_ray.errors import InputError
from coevo_ray.pipelines.graph import build_graph_artifact
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.stages import require_stages
from coevo_ray.progress import say
from coevo_ray.runtime.resources import Need
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import Row, ray_errors, run_each
from coevo_ray.runtime.tasks import start_task, task_result
from coevo_ray.store.artifact import begin, begun_config, finish
from coevo_ray.store.digests import digest_array
from coevo_ray.store.graph_files import open_graph, read_targets
from coevo_ray.store.location import Location, Place
from coevo_ray.store.parts import Parts
from coevo_ray.store.row_table import RowTable, vectors
from coevo_ray.store.writing import writing

KIND = "evidence"
_SHOWN = 48  # rows that the summary names: of ten times as many with the largest doubt, spread over the classes


@dataclass(frozen=True)
class Judges:
    """Probes that judge labels, by the mistakes that were found on a sample of them.

    Attributes:
        mistakes: the mistakes, with a probe for each fold.
        seed: seed of the folds.
    """

    mistakes: Mistakes
    seed: int

    def judge(
        self, row_ids: Int64Array, features: Float32Array, labels: Int64Array
    ) -> tuple[Float32Array, Int64Array, Float32Array | None]:
        """Judges labels by the probes that were not fitted on their rows.

        Returns:
            The probability that each label is wrong, float32[n]; the likeliest class, int64[n]; the label's loss,
            float32[n] in nats.
        """
        probabilities = predict_folds(self.mistakes.probes, features, fold_of(row_ids, FOLDS, self.seed))
        doubt = self.mistakes.doubt(probabilities, labels)
        return doubt, probabilities.argmax(axis=1), irreducible_loss(probabilities, labels)

    def figures(self, rows: int) -> JsonObject:
        """Figures of the mistakes.

        Returns:
            `mistake_rates`; `level`, share of wrong labels; `mistakes`, their expected number in so many rows; whether
            labels were `judged`, and the `fewest_rows` for that.
        """
        found = self.mistakes
        rates = [round(float(rate), 6) for rate in found.rates]
        told = {"judged": found.judged, "fewest_rows": found.fewest}
        return {"mistake_rates": rates, "level": round(found.level, 6), "mistakes": round(found.level * rows), **told}


@dataclass(frozen=True)
class FormerJudges:
    """Probes that judge labels by the rule of version 0.1.0, for evidence that it began.

    Attributes:
        probes: one for each fold, fitted on the other folds.
        rates: float64[classes], see `core.probes.former_doubt`.
        seed: seed of the folds.
    """

    probes: list[LinearProbe]
    rates: Float64Array
    seed: int

    def judge(
        self, row_ids: Int64Array, features: Float32Array, labels: Int64Array
    ) -> tuple[Float32Array, Int64Array, Float32Array | None]:
        """As `Judges.judge`, without the label's loss, which version 0.1.0 did not keep."""
        probabilities = predict_folds(self.probes, features, fold_of(row_ids, FOLDS, self.seed))
        return former_doubt(probabilities, labels, self.rates), probabilities.argmax(axis=1), None

    def figures(self, rows: int) -> JsonObject:
        """`mistake_rates`, as version 0.1.0 had it; of `rows` it said nothing."""
        return {"mistake_rates": [round(float(rate), 6) for rate in self.rates]}


def gather_evidence(
    config: SettingsLike[EvidenceConfig],
    pool: Pool,
    targets: RowTable,
    labels: Int64Array,
    out: Place,
    graph: Location | None = None,
) -> RowTable:
    """Writes the evidence on all labelled training rows that have a target.

    Args:
        config: what to look for, and from which similarity on; a dict, or a YAML file.
        pool: tells which rows are held out; they take no part.
        targets: features of the pool's rows.
        labels: int64[rows of the pool], as training will use them; -1 where there is none.
        out: folder of the result, with `graph/` below it.
        graph: folder of a gate's graph of the same targets, which is copied where it was made with these settings.

    Returns:
        The table `row_id`, `label` (int64, as given), `doubt` (float16 in [0, 1]), `likely` (int64, likeliest class
        under probes that were not fitted on the row), `group` (int64, row_id of its near-duplicates' leader) and, where
        doubt is looked for, `irreducible` (float16, nats, the label's loss under those probes; not in evidence that
        version 0.1.0 began).

    Raises:
        InputError: no labelled row has a target, or targets are not finite.
        UsageError: settings or labels were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    require_stages(["evidence"], pool.modality, f"the pool at {pool.location}")
    location = Location.parse(out)
    given = as_settings(EvidenceConfig, config, "evidence")
    config = given.settled(begun_config(location))
    former = given.l2 is None and config.l2 is not None  # evidence of version 0.1.0 goes on by its rule
    inputs = {"pool": pool.manifest.identity, "targets": targets.manifest.identity, "labels": digest_array(labels)}
    with writing(location):
        if begin(location, KIND, config.content(), inputs) is None:
            with ray_session([pool.location, targets.location], [location]), ray_errors(KIND):
                _gather(config, pool, targets, labels, location, inputs, former, graph)
    return RowTable(location, KIND)


def _gather(
    config: EvidenceConfig,
    pool: Pool,
    targets: RowTable,
    labels: Int64Array,
    location: Location,
    inputs: dict[str, str],
    former: bool,
    known: Location | None,
) -> None:
    started, cpus = time.monotonic(), config.compute.cpus
    need = Need("task", cpus)
    rows = np.intersect1d(targets.row_ids(), pool.train_ids(), assume_unique=True)
    rows = rows[labels[rows] >= 0]
    if len(rows) == 0:
        raise InputError("no training row has both a label and a target", "label rows, or encode the labelled ones")
    summary: JsonObject = {"rows": len(rows)}
    parts: dict[str, Any] = {"rows": ray.put(rows), "labels": ray.put(labels[rows])}
    if config.doubt:
        sample = choose_rows(rows, min(len(rows), config.probe_rows), config.seed)
        fit = fit_former_judges if former else fit_judges
        asked = (targets, sample, labels[sample], config.l2, config.seed, cpus)
        parts["judges"] = start_task("judge labels", fit, *asked, need=need)
    if config.copies:
        folder = location.child("graph")
        graph = build_graph_artifact(
            pool, targets, folder, neighbours=config.neighbours, seed=config.seed, cpus=cpus, centre=True, known=known
        )
        judges_of = None if former else parts.get("judges")
        given = (folder, config, parts["rows"], parts["labels"], judges_of)
        parts["groups"], told = start_task("group copies", group_rows, *given, need=need, returns=2)
        figures: JsonObject = task_result("group copies", told)
        if apart := figures.get("near_rows_apart"):
            agree = f"their labels agree in {figures['copy_agreement']:.0%}"
            say(f"evidence: {apart} rows are near others, but {agree}: treating them as distinct rows")
        summary |= {"graph": graph.summary["fields"], **figures}
    stage = _Files(targets, Parts.of(location, KIND, config.content(), inputs), parts)
    shards = range(len(targets.files))
    made = list(run_each(KIND, shards, stage.make, need=need, total=len(rows)))
    if config.doubt:
        judges: Judges | FormerJudges = task_result("judge labels", parts["judges"])
        summary |= {
            **judges.figures(len(rows)),
            "doubted_rows": sum(part["doubted_rows"] for part in made),
            "most_doubted": _spread([row for part in made for row in part["doubted"]]),
        }
    summary["seconds"] = round(time.monotonic() - started, 3)
    finish(location, KIND, config.content(), inputs, [part["entry"] for part in made if part["rows"]], summary)


def _spread(found: list[JsonObject]) -> list[JsonObject]:
    """The rows to name: those with the largest doubt, spread over their labels, see `most_doubted`."""
    most = sorted(found, key=lambda row: (-row["doubt"], row["row_id"]))[: 10 * _SHOWN]
    rows, doubt, labels = (np.array([row[name] for row in most]) for name in ("row_id", "doubt", "label"))
    return [most[place] for place in most_doubted(rows, doubt, labels, _SHOWN)]


def fit_judges(
    targets: RowTable, row_ids: Int64Array, labels: Int64Array, l2: float | None, seed: int, cpus: float
) -> Judges:
    """Ray task: finds the mistakes in a sample of labels, with a probe for each fold."""
    torch.set_num_threads(max(1, int(cpus)))
    features, fold = read_targets(targets, row_ids), fold_of(row_ids, FOLDS, seed)
    found = find_mistakes(features, labels, fold, folds=FOLDS, classes=int(labels.max()) + 1, l2=l2)
    return Judges(found, seed)


def fit_former_judges(
    targets: RowTable, row_ids: Int64Array, labels: Int64Array, l2: float, seed: int, cpus: float
) -> FormerJudges:
    """Ray task: fits a probe for each fold on a sample of labelled rows, as version 0.1.0 did."""
    torch.set_num_threads(max(1, int(cpus)))
    features, fold = read_targets(targets, row_ids), fold_of(row_ids, FOLDS, seed)
    classes = int(labels.max()) + 1
    probes = fold_probes(features, labels, fold, folds=FOLDS, classes=classes, l2=l2, scaling="each")
    return FormerJudges(probes, mistake_rates(predict_folds(probes, features, fold), labels), seed)


def group_rows(
    graph: Location, config: EvidenceConfig, row_ids: Int64Array, labels: Int64Array, judges: Judges | None
) -> tuple[Int64Array, JsonObject]:
    """Ray task: groups of near-duplicates.

    Args:
        graph: folder of the neighbour graph.
        config: from which similarity on.
        row_ids, labels: int64[n] each, of the judged rows.
        judges: tell how many labels are wrong, so that labels of groups by the pool's own measure have to agree, too;
            None takes the groups as they are.

    Returns:
        row_id of each row's leader, int64[n]; numbers of `copied_rows` in groups of two or more, and of `copy_groups`;
        where labels had to agree also `copy_agreement`, see `Agreement.precision`, and `near_rows_apart`: rows that are
        near others and yet no copies, as labels disagree.
    """
    neighbours, of = open_graph(graph)
    leader = copy_groups(neighbours, config.similarity, config.margin, config.same)
    group = of[leader[np.searchsorted(of, row_ids)]]  # the graph includes training rows without a label
    figures: JsonObject = {}
    if judges is not None and config.similarity is None and config.margin is None:
        found, near = judges.mistakes, group
        chances = chances_to_agree(found.noise, found.prior)
        group, agreement = groups_of_copies(near, row_ids, labels, chances)
        apart = 0 if agreement.trusted else int((copies_of(near)[0] > 1).sum())
        figures |= {"copy_agreement": round(agreement.precision, 4), "near_rows_apart": apart}
    copies, copy = copies_of(group)
    counts = {"copied_rows": int((copies > 1).sum()), "copy_groups": int(((copies > 1) & (copy == 0)).sum())}
    return group, {**counts, **figures}


@dataclass(frozen=True)
class _Files:
    """Ray Data stage: one target file -> one file of evidence.

    Attributes:
        targets: features of the pool's rows.
        files: of the evidence.
        parts: references to `rows` (int64[n], the judged rows), their `labels`, and, where requested, `judges` and the
            rows' `groups`.
    """

    targets: RowTable
    files: Parts
    parts: dict[str, Any]

    def make(self, row: Row) -> Row:
        """Writes a file, or reads it where it exists, and returns its figures for the summary."""
        name = self.targets.files[row["shard"]].path.rsplit("/", 1)[-1]
        there = self.files.table(name)  # of an interrupted attempt
        if there is not None:
            table, entry = there
        else:
            table = self._judge(row["shard"])
            entry = self.files.write_table(name, table)
        doubt = table.column("doubt").to_numpy()
        most = np.argsort(-doubt, kind="stable")[: 10 * _SHOWN]
        most = most[doubt[most] > DOUBTED]
        names = ("row_id", "doubt", "label", "likely")
        columns = [table.column(name).to_numpy()[most].tolist() for name in names]
        return {
            "rows": table.num_rows,
            "entry": entry,
            "doubted_rows": int((doubt > DOUBTED).sum()),
            "doubted": [
                {**dict(zip(names, row, strict=True)), "doubt": round(row[1], 4)} for row in zip(*columns, strict=True)
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
        losses = {}
        if "judges" in parts:
            features = vectors(table.column("target"))[inside]
            doubt, likely, loss = parts["judges"].judge(row_ids, features, labels)
            losses = {} if loss is None else {"irreducible": loss.astype(np.float16)}
        group = parts["groups"][place] if "groups" in parts else row_ids
        columns = {"row_id": row_ids, "label": labels, "doubt": doubt.astype(np.float16), "likely": likely}
        return pa.table({**columns, "group": group, **losses})
