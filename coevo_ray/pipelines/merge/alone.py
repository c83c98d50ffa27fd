"""Accuracy of targets beside each prior alone, by the pool's labels; for evaluation only."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from coevo_ray.core.arrays import Float32Array
from coevo_ray.core.graph.threads import torch_threads
from coevo_ray.core.json import JsonObject
from coevo_ray.core.probes.probe import LinearProbe
from coevo_ray.pipelines.encode.contribution import Contribution
from coevo_ray.pipelines.merge.check import prior_label
from coevo_ray.pipelines.merge.load_targets import load_targets
from coevo_ray.pipelines.merge.probe import tuned_penalty
from coevo_ray.pool.stages import pool_for
from coevo_ray.progress import waiting
from coevo_ray.store.location import ArtifactLike, Location
from coevo_ray.store.manifest import MANIFEST
from coevo_ray.store.row_table import vectors
from coevo_ray.training.from_targets.probes import ProbeRows

ROWS = 5_000
MOST = 50_000  # rows of a pool: contributions are read whole


def beside_priors(
    targets: ArtifactLike, pool: ArtifactLike, contributions: Sequence[Location], rows: int = ROWS, seed: int = 0
) -> JsonObject | None:
    """Judges targets of several priors a row beside the features of each of these priors alone.

    Each gets the same linear head, fitted on the same labelled training rows; its penalty is chosen for it by
    cross-validation there. Wrong labels are among them: a head takes those that the pool has.

    Args:
        targets: targets, or their folder.
        pool: the pool of their rows, or its folder.
        contributions: folders of the priors' contributions.
        rows: most rows of each split.
        seed: of the choice of rows and of the folds.

    Returns:
        `targets`: accuracy on held-out rows, 0 to 1; `alone`: prior -> accuracy of its features; None where there is
        nothing to compare (one prior, a prior that did not encode all rows, a split without labels) or the pool has
        more than `MOST` rows.

    Raises:
        InputError: the targets were not made from this pool, or a file cannot be read.
    """
    opened = pool_for("probe", pool)
    table = load_targets(targets, opened, columns=())
    tables = [Contribution(place) for place in contributions if place.child(MANIFEST).is_file()]
    whole = len(tables) > 1 and all(each.summary.get("coverage", 1) == len(contributions) for each in tables)
    if not whole or len(opened) > MOST:
        return None
    read = [each.encoded_rows(["row_id", "feature"]) for each in tables]
    ids = [features.column("row_id").to_numpy() for features in read]
    usable = functools.reduce(np.intersect1d, ids, table.row_ids)  # a row that a prior rejected is judged for none
    chosen = ProbeRows.choose(opened, usable, rows, seed)
    if chosen is None:
        return None

    def accuracy(train: Float32Array, test: Float32Array) -> float:
        l2 = tuned_penalty(train, chosen.train_labels, chosen.classes, seed)
        head = LinearProbe.fit(train, chosen.train_labels, chosen.classes, l2)
        return round(float((head.predict_proba(test).argmax(axis=1) == chosen.test_labels).mean()), 4)

    alone: dict[str, float] = {}
    with waiting("compare targets with each prior alone"), torch_threads(1):  # several only wait on busy cores
        for each, have, features in zip(tables, ids, read, strict=True):
            parts = [features.take(np.searchsorted(have, wanted)) for wanted in (chosen.train, chosen.test)]
            train, test = (vectors(part.column("feature")) for part in parts)
            alone[prior_label(each)] = accuracy(train, test)
        mixed = [vectors(table.read(wanted).column("target")) for wanted in (chosen.train, chosen.test)]
        return {"targets": accuracy(*mixed), "alone": alone}
