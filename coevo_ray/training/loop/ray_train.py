"""Starts a Ray Train run: resources, storage, restarts and errors, the same for every objective."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.train.v2.api.callback import UserCallback

from coevo_ray.config import Compute
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError, StoppedError, UsageError
from coevo_ray.runtime.causes import cause_of
from coevo_ray.runtime.metrics import RayMetrics
from coevo_ray.runtime.shards import ray_errors, unwrap
from coevo_ray.runtime.watchdog import Patience, watched
from coevo_ray.store.failures import writing_failed
from coevo_ray.store.location import Location
from coevo_ray.telemetry import receive, run_name
from coevo_ray.training.loop.controller import Reachable, end_controller
from coevo_ray.training.loop.left_behind import left_behind

ArgumentsT = TypeVar("ArgumentsT")
HISTORY = "history.json"
STATE = "state.pt"
_RUN = "ray"
# In a worker: the checkpoint to go on from where Ray Train has lost its list of them.
_left: ContextVar[Checkpoint | None] = ContextVar("left", default=None)
_folder: ContextVar[str] = ContextVar("folder", default="the folder of checkpoints")  # in a worker: for messages


def fit(
    title: str,
    worker: Callable[[ArgumentsT], None],
    arguments: ArgumentsT,
    compute: Compute,
    location: Location,
    patience: Patience | None = None,
) -> Checkpoint:
    """Runs a function on Ray Train workers; a run that was stopped goes on from its last checkpoint.

    Args:
        title: shown in errors.
        worker: runs on every worker, with as many Torch threads as that has cores.
        arguments: of the function; must pickle.
        compute: workers and their resources.
        location: folder of the run's checkpoints; it must be seen by all nodes.
        patience: counts the time without progress; what notes progress calls its `moved`. None for the limit on
            the whole training.

    Returns:
        The last checkpoint.

    Raises:
        CoevoError: what the worker raised; an InputError or UsageError at once, without another attempt.
        StoppedError: workers were lost more often than they are replaced, never started, or did not move for too long.
    """
    run, left = uuid.uuid4().hex, left_behind(location.child(_RUN), load_checkpoint)
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "worker": worker,
            "arguments": arguments,
            "compute": compute,
            "run": run_name(),
            "stage": title,
            "left": left,
            "folder": str(location),
        },
        scaling_config=_scaling(compute),
        run_config=_run_config(location, run),
    )
    with ray_errors(title):
        try:
            # In a thread of its own: in the main one Ray Train takes Ctrl-C for itself and ends the process with 0.
            [result] = watched(title, lambda: [trainer.fit()], lambda: end_controller(run), patience)
        except TrainingFailedError as error:
            if unwrap(error) is None and _workers_were_lost(error):
                raise StoppedError(
                    f"{title}: Ray Train lost workers or could not start them: {cause_of(error, *_failures(error))}",
                    "give them memory and a machine that stays, then run the same command again: it goes on from its "
                    "last checkpoint",
                ) from error
            raise
    checkpoint: Checkpoint | None = result.checkpoint or left
    if checkpoint is None:
        raise StoppedError(f"{title} ended without a checkpoint", "run the same command again")
    return checkpoint


def _work(config: dict[str, Any]) -> None:
    """Calls the worker function on a worker; Ray Train passes a dict and nothing else."""
    compute: Compute = config["compute"]
    receive(RayMetrics(), config["run"], config["stage"])
    _left.set(config["left"])
    _folder.set(config["folder"])
    # As many threads as it has reserved cores, so that workers do not fight over them.
    torch.set_num_threads(max(1, int(compute.cpus)) if compute.gpus == 0 else 1)
    config["worker"](config["arguments"])


def _scaling(compute: Compute) -> ScalingConfig:
    resources: dict[str, float] = {"CPU": compute.cpus}
    if compute.gpus > 0:
        resources["GPU"] = compute.gpus
    return ScalingConfig(num_workers=compute.actors, use_gpu=compute.gpus > 0, resources_per_worker=resources)


def _run_config(location: Location, run: str) -> RunConfig:
    storage = {} if location.is_local else {"storage_filesystem": location.file_system}
    return RunConfig(
        name=_RUN,
        storage_path=location.path,
        failure_config=FailureConfig(max_failures=2),
        callbacks=[EndAtOnce(), Reachable(run)],  # type: ignore[list-item]  # typed as those of Tune
        checkpoint_config=CheckpointConfig(num_to_keep=1),
        **storage,
    )


def _workers_were_lost(error: TrainingFailedError) -> bool:
    """Distinguishes failures of machines and processes from those of the code in them, whose own error says more."""
    failures = _failures(error)
    return not failures or any(type(failure).__name__.startswith("WorkerHealthCheck") for failure in failures)


def _failures(error: TrainingFailedError) -> list[BaseException]:
    """The error of each worker; none if Ray Train's controller failed."""
    failures: dict[int, BaseException] | None = getattr(error, "worker_failures", None)
    return list((failures or {}).values())


class EndAtOnce(UserCallback):
    """Ends a training whose input or settings are wrong; Ray Train would start the workers again to the same end.

    It runs in Ray Train's controller: an error that is raised here ends the run and comes out of `fit`.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raises the first worker's InputError or UsageError; others are for Ray Train to try again.

        Raises:
            InputError, UsageError: as the worker raised it.
        """
        for _, error in sorted(worker_exceptions.items()):
            inner = unwrap(error)
            if isinstance(inner, InputError | UsageError):
                raise inner


def save_checkpoint(state: dict[str, Any], history: list[JsonObject], metrics: JsonObject) -> None:
    """Reports metrics from every rank; rank 0 adds a checkpoint with `state` and the history so far.

    Raises:
        StoppedError: the store failed or is full, or there is no room for temporary files.
        UsageError: the store refuses, and will go on to refuse.
    """
    if ray.train.get_context().get_world_rank() != 0:
        ray.train.report(metrics)
        return
    try:
        with tempfile.TemporaryDirectory() as folder:
            torch.save(state, Path(folder) / STATE)
            (Path(folder) / HISTORY).write_text(json.dumps(history))
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))
    except OSError as error:
        raise writing_failed(f"{_folder.get()} (or {tempfile.gettempdir()} before it)", error) from error


def wait_for_checkpoints() -> None:
    """Waits until Ray Train knows the checkpoints that this worker reported; a new start would not find others.

    It asks its workers several times a second at most: what they reported since is lost when it ends.
    """
    known = getattr(ray.train, "get_all_reported_checkpoints", None)  # not in the oldest versions
    if known is not None:
        known()


def resume() -> tuple[dict[str, Any] | None, list[JsonObject]]:
    """State and history of the last checkpoint inside a worker; (None, []) at the start."""
    checkpoint = ray.train.get_checkpoint() or _left.get()
    return (None, []) if checkpoint is None else load_checkpoint(checkpoint)


def load_checkpoint(checkpoint: Checkpoint) -> tuple[dict[str, Any], list[JsonObject]]:
    """State and history of a checkpoint."""
    with checkpoint.as_directory() as folder:
        state = torch.load(Path(folder) / STATE, map_location="cpu", weights_only=True)
        return state, json.loads((Path(folder) / HISTORY).read_text())
