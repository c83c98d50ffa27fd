"""The commands as Python functions, one of the same name for each; the command line only parses and prints.

All of them are in `coevo_ray` itself too. They take an object returned by another command, or a path (str or PathLike),
a URI or a `Location`; for settings a dict, a model of `coevo_ray.config`, or the path of a YAML file.

A function's module is imported when the function is first used, so that commands that need no cluster load neither Ray
nor torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coevo_ray.app.demo import demo as demo
    from coevo_ray.app.doctor import doctor as doctor
    from coevo_ray.app.plan import plan as plan
    from coevo_ray.app.run import run as run
    from coevo_ray.app.run import train as train
    from coevo_ray.app.start.start import start as start
    from coevo_ray.app.status import status as status
    from coevo_ray.app.submit import submit as submit
    from coevo_ray.pipelines.encode.encode import contribute as contribute
    from coevo_ray.pipelines.export import export as export
    from coevo_ray.pipelines.factors.score import sae as sae
    from coevo_ray.pipelines.factors.score import sae_score as sae_score
    from coevo_ray.pipelines.gate.run_rounds import gate as gate
    from coevo_ray.pipelines.gate.steps import gate_export as gate_export
    from coevo_ray.pipelines.gate.steps import gate_next as gate_next
    from coevo_ray.pipelines.gate.steps import gate_open as gate_open
    from coevo_ray.pipelines.gate.steps import gate_status as gate_status
    from coevo_ray.pipelines.gate.steps import gate_submit as gate_submit
    from coevo_ray.pipelines.gate.terms import gate_set as gate_set
    from coevo_ray.pipelines.ingest.ingest import ingest as ingest
    from coevo_ray.pipelines.make_targets import encode as encode
    from coevo_ray.pipelines.merge.merge import merge as merge
    from coevo_ray.pipelines.merge.probe import probe as probe
    from coevo_ray.pipelines.retrieve.retrieve import retrieve as retrieve
    from coevo_ray.pipelines.train import train_semi_supervised as train_semi_supervised
    from coevo_ray.pipelines.train import train_supervised as train_supervised
    from coevo_ray.reporting.duplicates import dedup as dedup
    from coevo_ray.reporting.factor_sheet import sae_show as sae_show
    from coevo_ray.reporting.gate_report import gate_report as gate_report
    from coevo_ray.reporting.run import report as report
    from coevo_ray.store.sae_files import sae_export as sae_export
    from coevo_ray.store.sae_files import sae_import as sae_import
    from coevo_ray.training.from_targets.train import train_targets as train_targets

_MODULES = {
    "contribute": "coevo_ray.pipelines.encode.encode",
    "dedup": "coevo_ray.reporting.duplicates",
    "demo": "coevo_ray.app.demo",
    "doctor": "coevo_ray.app.doctor",
    "encode": "coevo_ray.pipelines.make_targets",
    "export": "coevo_ray.pipelines.export",
    "gate": "coevo_ray.pipelines.gate.run_rounds",
    "gate_export": "coevo_ray.pipelines.gate.steps",
    "gate_next": "coevo_ray.pipelines.gate.steps",
    "gate_open": "coevo_ray.pipelines.gate.steps",
    "gate_report": "coevo_ray.reporting.gate_report",
    "gate_set": "coevo_ray.pipelines.gate.terms",
    "gate_status": "coevo_ray.pipelines.gate.steps",
    "gate_submit": "coevo_ray.pipelines.gate.steps",
    "ingest": "coevo_ray.pipelines.ingest.ingest",
    "merge": "coevo_ray.pipelines.merge.merge",
    "plan": "coevo_ray.app.plan",
    "probe": "coevo_ray.pipelines.merge.probe",
    "report": "coevo_ray.reporting.run",
    "retrieve": "coevo_ray.pipelines.retrieve.retrieve",
    "run": "coevo_ray.app.run",
    "sae": "coevo_ray.pipelines.factors.score",
    "sae_export": "coevo_ray.store.sae_files",
    "sae_import": "coevo_ray.store.sae_files",
    "sae_score": "coevo_ray.pipelines.factors.score",
    "sae_show": "coevo_ray.reporting.factor_sheet",
    "start": "coevo_ray.app.start.start",
    "status": "coevo_ray.app.status",
    "submit": "coevo_ray.app.submit",
    "train": "coevo_ray.app.run",
    "train_semi_supervised": "coevo_ray.pipelines.train",
    "train_supervised": "coevo_ray.pipelines.train",
    "train_targets": "coevo_ray.training.from_targets.train",
}

COMMANDS = tuple(_MODULES)

__all__ = [
    "contribute",
    "dedup",
    "demo",
    "doctor",
    "encode",
    "export",
    "gate",
    "gate_export",
    "gate_next",
    "gate_open",
    "gate_report",
    "gate_set",
    "gate_status",
    "gate_submit",
    "ingest",
    "merge",
    "plan",
    "probe",
    "report",
    "retrieve",
    "run",
    "sae",
    "sae_export",
    "sae_import",
    "sae_score",
    "sae_show",
    "start",
    "status",
    "submit",
    "train",
    "train_semi_supervised",
    "train_supervised",
    "train_targets",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'coevo_ray.app.api' has no attribute {name!r}")
    if (module := sys.modules.get(_MODULES[name])) is None:
        from coevo_ray.progress import waiting

        with waiting("load the libraries"):  # Ray and torch take seconds
            module = import_module(_MODULES[name])
    return getattr(module, name)
