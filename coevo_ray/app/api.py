"""The commands as Python functions, one of the same name for each; the command line only parses and prints.

All of them are in `coevo_ray` itself too. They take an object that another of them returned, or a path (str or
PathLike), a URI or a `Location`; for settings a dict, a model of `coevo_ray.config`, or the path of a YAML file.
"""

from __future__ import annotations

from coevo_ray.app.demo import demo
from coevo_ray.app.doctor import doctor
from coevo_ray.app.plan import plan
from coevo_ray.app.run import run, train
from coevo_ray.pipelines.encode.encode import contribute
from coevo_ray.pipelines.factors.score import sae, sae_score
from coevo_ray.pipelines.gate.run_rounds import gate
from coevo_ray.pipelines.gate.steps import gate_export, gate_next, gate_open, gate_status, gate_submit
from coevo_ray.pipelines.ingest.ingest import ingest
from coevo_ray.pipelines.make_targets import encode
from coevo_ray.pipelines.merge.merge import merge
from coevo_ray.pipelines.retrieve.retrieve import retrieve
from coevo_ray.pipelines.train import train_semi_supervised, train_supervised
from coevo_ray.reporting.factor_sheet import sae_show
from coevo_ray.reporting.run import report
from coevo_ray.store.sae_files import sae_export, sae_import
from coevo_ray.training.from_targets.train import train_targets

__all__ = [
    "contribute",
    "demo",
    "doctor",
    "encode",
    "gate",
    "gate_export",
    "gate_next",
    "gate_open",
    "gate_status",
    "gate_submit",
    "ingest",
    "merge",
    "plan",
    "report",
    "retrieve",
    "run",
    "sae",
    "sae_export",
    "sae_import",
    "sae_score",
    "sae_show",
    "train",
    "train_semi_supervised",
    "train_supervised",
    "train_targets",
]
