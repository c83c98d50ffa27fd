"""The commands as Python functions, one of the same name for each; the command line only parses and prints.

All but `demo` and `report`, whose names are those of modules, are also in `coevo_ray` itself.
"""

from __future__ import annotations

from typing import Any

from coevo_ray.annotators.base import Annotator
from coevo_ray.coevolve import run, train
from coevo_ray.config import GateSettings, RunConfig, SaeConfig, make_config
from coevo_ray.demo import demo
from coevo_ray.diagnosis import doctor
from coevo_ray.pipelines.encode import contribute, encode
from coevo_ray.pipelines.gate import gate_rounds
from coevo_ray.pipelines.ingest import ingest
from coevo_ray.pipelines.merge import merge
from coevo_ray.pipelines.score import score
from coevo_ray.pool.of_targets import require_alone
from coevo_ray.pool.pool import Pool
from coevo_ray.report.run import write_report
from coevo_ray.simulation import plan
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable
from coevo_ray.training.sae_fit import fit_sae
from coevo_ray.training.supervised import train_supervised
from coevo_ray.training.targets import train_targets

__all__ = [
    "contribute",
    "demo",
    "doctor",
    "encode",
    "gate",
    "ingest",
    "merge",
    "plan",
    "report",
    "run",
    "sae",
    "train",
    "train_supervised",
    "train_targets",
]


def sae(config: SaeConfig | dict[str, Any], pool: str, targets: str, out: str) -> RowTable:
    """Fits the sparse autoencoder on a pool's targets and scores every row.

    Args:
        config: latents, k, epochs; a dict is validated.
        pool, targets: folders.
        out: folder that will hold `model/`, `codes/` and `scores/`.

    Returns:
        The score table: `row_id`, `representativeness`, `diversity`, `factor`.

    Raises:
        InputError: an input is missing or unfit.
        UsageError: settings are wrong, or were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    settings = config if isinstance(config, SaeConfig) else make_config(SaeConfig, config, "sae")
    place, table = Location.parse(out), RowTable(Location.parse(targets), "targets")
    opened = Pool.open(pool)
    require_alone(table, opened)
    model = fit_sae(settings, opened, table, place.child("model"))
    return score(settings, table, model, place)


def gate(
    config: GateSettings | dict[str, Any], pool: str, targets: str, out: str, annotator: Annotator | None = None
) -> RowTable:
    """Asks an annotator for labels until the gate stops.

    Args:
        config: rounds, rule and stop; a dict is validated.
        pool, targets: folders.
        out: folder of the result.
        annotator: who answers; None takes the one that the settings name.

    Returns:
        The label table: `row_id, label, annotator, round, time`.

    Raises:
        InputError: an input is missing or unfit, or the annotator cannot answer.
        UsageError: settings are wrong, or were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    table, opened = RowTable(Location.parse(targets), "targets"), Pool.open(pool)
    require_alone(table, opened)
    return gate_rounds(config, opened, table, out, annotator)


def report(config: RunConfig) -> dict[str, Any]:
    """Writes the summary and the HTML report of a run whose stages are finished; returns the summary.

    Raises:
        InputError: a stage is not finished.
        UsageError: the report was made with another configuration.
        StoppedError: the store refused.
    """
    return write_report(config, Location.parse(config.out))
