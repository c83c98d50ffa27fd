"""A training as a run of MLflow; the server and the experiment are named by MLflow's own variables."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run
from mlflow.utils.time import get_current_time_millis

from coevo_ray.core.json import JsonObject
from coevo_ray.training.trackers.base import TrackedRun

_EXPERIMENT = "coevo-ray"
_TAG = "coevo_ray.identity"


class MLflowRun:
    """Logs each epoch's figures as metrics, once; a training that goes on takes its run again.

    MLFLOW_TRACKING_URI says where, MLFLOW_EXPERIMENT_NAME under which experiment (`coevo-ray` without).

    Args:
        run: the training.
    """

    def __init__(self, run: TrackedRun) -> None:
        self._client = MlflowClient()
        experiment = _experiment(self._client, os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT)
        former = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{run.identity}'", max_results=1)
        if former:
            self._id = former[0].info.run_id
            self._client.set_terminated(self._id, "RUNNING")
        else:
            self._id = self._begun(experiment, run).info.run_id

    def log(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Logs an epoch at its number as step, unless it is there."""
        have = self._client.get_run(self._id).data.metrics
        now = get_current_time_millis()
        new = [
            Metric(name, value, now, epoch)
            for name, value in figures.items()
            if name not in have or epoch > max(m.step for m in self._client.get_metric_history(self._id, name))
        ]
        if new:
            self._client.log_batch(self._id, metrics=new)

    def close(self) -> None:
        """Marks the run as finished."""
        self._client.set_terminated(self._id, "FINISHED")

    def _begun(self, experiment: str, run: TrackedRun) -> Run:
        tags = {_TAG: run.identity, "coevo_ray.folder": str(run.folder)}
        made = self._client.create_run(experiment, run_name=run.title, tags=tags)
        params = [Param(name, value) for name, value in flat(run.settings).items()]
        self._client.log_batch(made.info.run_id, params=params)
        return made


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    made: str = client.create_experiment(name) if found is None else found.experiment_id
    return made


def flat(settings: JsonObject, above: str = "") -> dict[str, str]:
    """Settings as texts by dotted names; at most 250 characters each, as every MLflow takes them."""
    texts: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            texts |= flat(value, f"{above}{name}.")
        else:
            texts[f"{above}{name}"] = str(value)[:250]
    return texts
