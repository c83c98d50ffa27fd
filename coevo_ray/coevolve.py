"""The loop: source -> pool -> targets -> factors -> labels -> training -> report. Reads like the flow in the README."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from coevo_ray.config import RunConfig
from coevo_ray.core.rows import Int64Array
from coevo_ray.errors import InputError
from coevo_ray.pipelines.encode import encode
from coevo_ray.pipelines.gate import gate
from coevo_ray.pipelines.ingest import ingest
from coevo_ray.pipelines.score import score
from coevo_ray.pipelines.session import ray_session
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.sources import check_source
from coevo_ray.priors.registry import check_prior
from coevo_ray.progress import say
from coevo_ray.report.run import write_report
from coevo_ray.store.artifact import load_manifest
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable
from coevo_ray.training.models import make_model
from coevo_ray.training.sae_fit import fit_sae
from coevo_ray.training.supervised import train


def run(config: RunConfig) -> dict[str, Any]:
    """Runs the whole loop, or what is left of it, and returns the summary.

    Every stage is an artifact below `config.out`; what is finished is not done again.

    Raises:
        UsageError: the settings are wrong or differ from those of the artifacts that are there.
        InputError: the data are wrong.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    check(config)
    out = Location.parse(config.out)
    with ray_session():
        pool = ingest(config.pool, out.child("pool"))
        targets = encode(config.encode, pool, out.child("encode"))
        sae = fit_sae(config.sae, pool, targets, out.child("sae"))
        scores = score(config.sae, targets, sae, out.child("factors"))
        labels = gate(config.gate, pool, targets, out.child("gate")) if config.gate else None
        if config.train:
            for policy in config.train.policies:
                use = training_labels(config, pool, labels)
                train(config.train, policy, pool, use, scores, out.child("train", policy))
    summary = write_report(config, out)
    say(f"report: {summary['report']}")
    return summary


def check(config: RunConfig) -> None:
    """Looks at all that can be known before any work.

    Raises:
        UsageError: a prior, a model or a sample is unknown, or the output cannot be written.
        InputError: a source is not there, or a prior's weights are not.
    """
    for source in config.pool.sources:
        check_source(source)
    for prior in config.encode.priors:
        check_prior(prior.name, prior.input_size)
    if config.train:
        make_model(config.train.model, classes=2)
    Location.parse(config.out).check_writable()


def training_labels(config: RunConfig, pool: Pool, labels: RowTable | None) -> Int64Array:
    """int64[rows], -1 where there is none: the pool's own labels, or the gate's with the held-out rows' labels.

    Raises:
        InputError: labels of the gate are wanted and there are none.
    """
    known = pool.labels()
    if config.train is None or config.train.labels == "pool":
        return known
    if labels is None:
        raise InputError("train.labels is 'gate' and there are no labels of a gate", "run the gate first")
    table = labels.scan(["row_id", "label"])
    use = np.where(pool.splits() == 1, known, -1)
    use[table.column("row_id").to_numpy()] = table.column("label").to_numpy()
    return use


def read_summary(out: str) -> dict[str, Any]:
    """The summary of a finished run.

    Raises:
        InputError: there is no finished run at `out`.
    """
    location = Location.parse(out)
    load_manifest(location, "run")
    summary: dict[str, Any] = json.loads(location.child("summary.json").read_bytes())
    return summary
