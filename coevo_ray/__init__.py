"""coevo-ray: decide what data is worth, on Ray.

The commands of the command line are functions: `ingest`, `encode`, `merge`, `probe`, `sae`, `plan`, `gate`, `train`
(with `--objective`: `train_supervised`, `train_semi_supervised` and `train_targets`), `retrieve`, `dedup`, `run`,
`report`, `start`, `demo` and `doctor`. Each takes objects that others returned, or their paths; settings are a dict, a
model, or the path of a YAML file. Results have `.location`, `.manifest` and `.summary`.

They are imported when first used, so that `import coevo_ray` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from coevo_ray._version import __version__
from coevo_ray.app.api import COMMANDS

if TYPE_CHECKING:
    from coevo_ray.annotators.base import Answers as Answers
    from coevo_ray.app.api import contribute as contribute
    from coevo_ray.app.api import dedup as dedup
    from coevo_ray.app.api import demo as demo
    from coevo_ray.app.api import doctor as doctor
    from coevo_ray.app.api import encode as encode
    from coevo_ray.app.api import export as export
    from coevo_ray.app.api import gate as gate
    from coevo_ray.app.api import gate_export as gate_export
    from coevo_ray.app.api import gate_next as gate_next
    from coevo_ray.app.api import gate_open as gate_open
    from coevo_ray.app.api import gate_report as gate_report
    from coevo_ray.app.api import gate_set as gate_set
    from coevo_ray.app.api import gate_status as gate_status
    from coevo_ray.app.api import gate_submit as gate_submit
    from coevo_ray.app.api import ingest as ingest
    from coevo_ray.app.api import merge as merge
    from coevo_ray.app.api import plan as plan
    from coevo_ray.app.api import probe as probe
    from coevo_ray.app.api import report as report
    from coevo_ray.app.api import retrieve as retrieve
    from coevo_ray.app.api import run as run
    from coevo_ray.app.api import sae as sae
    from coevo_ray.app.api import sae_export as sae_export
    from coevo_ray.app.api import sae_import as sae_import
    from coevo_ray.app.api import sae_score as sae_score
    from coevo_ray.app.api import sae_show as sae_show
    from coevo_ray.app.api import start as start
    from coevo_ray.app.api import status as status
    from coevo_ray.app.api import submit as submit
    from coevo_ray.app.api import train as train
    from coevo_ray.app.api import train_semi_supervised as train_semi_supervised
    from coevo_ray.app.api import train_supervised as train_supervised
    from coevo_ray.app.api import train_targets as train_targets
    from coevo_ray.config import RunConfig as RunConfig
    from coevo_ray.config import load_config as load_config
    from coevo_ray.core.feed.epoch_plan import Subset as Subset
    from coevo_ray.core.rows.row_set import Rows as Rows
    from coevo_ray.core.selection.policies import Policy as Policy
    from coevo_ray.core.selection.policies import SelectionContext as SelectionContext
    from coevo_ray.core.selection.rotation import take_turns as take_turns
    from coevo_ray.pipelines.export import issues_of as issues_of
    from coevo_ray.pipelines.export import write_subset as write_subset
    from coevo_ray.pipelines.merge.load_targets import load_targets as load_targets
    from coevo_ray.pool.pool import Pool as Pool
    from coevo_ray.store.artifact import Artifact as Artifact
    from coevo_ray.store.factor_files import load_factors as load_factors
    from coevo_ray.store.location import Location as Location
    from coevo_ray.training.feed.feed import Feed as Feed
    from coevo_ray.training.networks import Network as Network
    from coevo_ray.training.networks import load_network as load_network

_PUBLIC = {
    **dict.fromkeys(COMMANDS, "coevo_ray.app.api"),
    "Answers": "coevo_ray.annotators.base",
    "Artifact": "coevo_ray.store.artifact",
    "Feed": "coevo_ray.training.feed.feed",
    "Location": "coevo_ray.store.location",
    "Network": "coevo_ray.training.networks",
    "Policy": "coevo_ray.core.selection.policies",
    "Pool": "coevo_ray.pool.pool",
    "Rows": "coevo_ray.core.rows.row_set",
    "RunConfig": "coevo_ray.config",
    "SelectionContext": "coevo_ray.core.selection.policies",
    "Subset": "coevo_ray.core.feed.epoch_plan",
    "issues_of": "coevo_ray.pipelines.export",
    "load_config": "coevo_ray.config",
    "load_factors": "coevo_ray.store.factor_files",
    "load_network": "coevo_ray.training.networks",
    "load_targets": "coevo_ray.pipelines.merge.load_targets",
    "take_turns": "coevo_ray.core.selection.rotation",
    "write_subset": "coevo_ray.pipelines.export",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name == "commands":  # its name in version 0.1.0
        return import_module("coevo_ray.app.api")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'coevo_ray' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
