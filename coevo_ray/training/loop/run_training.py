"""A training seen from the driver: from its settings to a finished artifact, the same for every objective."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from coevo_ray.actors.progress_board import BoardHandle, progress_board
from coevo_ray.config import Compute
from coevo_ray.config.training import LearningConfig, TrainCompute
from coevo_ray.core.json import JsonObject
from coevo_ray.runtime.resources import Need, require
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import ray_errors
from coevo_ray.runtime.watchdog import Patience
from coevo_ray.store.artifact import Artifact, begin, finish
from coevo_ray.store.data_files import write_blob
from coevo_ray.store.layout import METRICS
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import FileEntry
from coevo_ray.store.writing import writing
from coevo_ray.training.loop.metrics import json_lines
from coevo_ray.training.loop.ray_train import fit, load_checkpoint
from coevo_ray.training.loop.train_epochs import EpochReports
from coevo_ray.training.loop.weights import write_weights
from coevo_ray.training.networks import write_network_files
from coevo_ray.training.trackers.base import TRACKED, TrackedRun, Trackers, check_trackers

ArgumentsT = TypeVar("ArgumentsT")


@dataclass(frozen=True)
class ModelArtifact:
    """The artifact that a training makes.

    Attributes:
        folder: its folder.
        content: the settings that shape it, as hashed into the manifest.
        inputs: name -> identity of each input.
        kind: of the artifact.
    """

    folder: Location
    content: JsonObject
    inputs: dict[str, str]
    kind: str = "model"


@dataclass(frozen=True)
class Trained(Generic[ArgumentsT]):
    """A training whose workers have ended.

    Attributes:
        arguments: of the workers.
        state: of the last checkpoint, on the CPU.
        history: an entry for each epoch, or each look.
        wall_seconds: since the artifact was begun.
    """

    arguments: ArgumentsT
    state: dict[str, Any]
    history: list[JsonObject]
    wall_seconds: float


@dataclass(frozen=True)
class Training(Generic[ArgumentsT]):
    """One training.

    Attributes:
        title: shown in progress and errors.
        epochs: of the whole training, for progress.
        compute: workers and their resources.
        worker: runs on every worker; a function of a module, with arguments that pickle.
        arguments: makes the workers' arguments inside the Ray session, given the progress board; what it starts for
            them lives until the summary is made.
        write_files: writes the artifact's files.
        summarise: makes its summary.
        reads: folders of the artifacts that workers read.
    """

    title: str
    epochs: int
    compute: Compute
    worker: Callable[[ArgumentsT], None]
    arguments: Callable[[BoardHandle], AbstractContextManager[ArgumentsT]]
    write_files: Callable[[Trained[ArgumentsT]], list[FileEntry]]
    summarise: Callable[[Trained[ArgumentsT]], JsonObject]
    reads: tuple[Location, ...]


def run_training(artifact: ModelArtifact, prepare: Callable[[], Training[ArgumentsT]]) -> Artifact:
    """Makes an artifact by training, unless it is finished; one that was stopped goes on from its last checkpoint.

    Args:
        artifact: its folder, settings and inputs.
        prepare: reads and checks inputs; called only where there is something left to do.

    Returns:
        The finished artifact.

    Raises:
        UsageError: settings were changed, or as `prepare` raises it.
        InputError: as `prepare` or a worker raises it.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    with writing(artifact.folder):
        done = begin(artifact.folder, artifact.kind, artifact.content, artifact.inputs)
        if done is not None:
            return Artifact(artifact.folder, done, done.summary)
        started = time.monotonic()
        training = prepare()
        if isinstance(training.compute, TrainCompute):
            check_trackers(training.compute.all_trackers)
        patience = Patience(training.title)
        title, folder, compute = training.title, artifact.folder, training.compute
        with (
            ray_session(training.reads, [folder]),
            ray_errors(title),
            _room_for(title, compute),
            progress_board(title, training.epochs, "epochs", patience.moved) as board,
            training.arguments(board) as arguments,
        ):
            checkpoint = fit(title, training.worker, arguments, compute, folder.child("training"), patience)
            state, history = load_checkpoint(checkpoint)
            trained = Trained(arguments, state, history, round(time.monotonic() - started, 3))
            summary = training.summarise(trained)
        files = training.write_files(trained)
        made = finish(folder, artifact.kind, artifact.content, artifact.inputs, files, summary)
    return Artifact(folder, made, made.summary)


def epoch_reports(board: BoardHandle, title: str, folder: Location, config: LearningConfig) -> EpochReports:
    """Destinations of the figures of a training's epochs.

    Args:
        board: the progress that the driver shows.
        title: shown by trackers.
        folder: the training's output.
        config: its settings, which name the trackers.

    Raises:
        UsageError: a tracker is unknown, or its package is not installed.
        StoppedError: the store refused.
    """
    run = TrackedRun(title, folder, config.content(), "")
    trackers = Trackers(config.compute.all_trackers, run, folder.child("training", TRACKED))
    return EpochReports(board, folder, trackers)


@contextmanager
def _room_for(title: str, compute: Compute) -> Iterator[None]:
    """A block that is entered only where the cluster has room for the workers."""
    require(title, workers_of(compute))
    yield


def workers_of(compute: Compute) -> Need:
    """The parts of a training that run at the same time."""
    return Need("training worker", compute.cpus, compute.gpus, compute.actors)


def write_network(
    folder: Location,
    trained: Trained[ArgumentsT],
    card: JsonObject,
    class_names: Sequence[str] = (),
    further: Mapping[str, bytes] | None = None,
) -> list[FileEntry]:
    """Writes a trained network's weights, its cards and the figures of its epochs.

    Args:
        folder: the training's output.
        trained: with the network's weights in its state.
        card: arguments to make the network with.
        class_names: of a classifier, as far as they are known.
        further: files that belong to the network, by name, such as a tokenizer.

    Raises:
        StoppedError: the store refused.
    """
    files = [write_blob(folder, name, content) for name, content in (further or {}).items()]
    files += write_weights(folder, trained.state, card)
    files += write_network_files(folder, trained.state, {**card, "class_names": list(class_names)})
    return [*files, write_blob(folder, METRICS, json_lines(trained.history))]
