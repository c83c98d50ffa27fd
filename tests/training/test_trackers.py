"""Trackers get each epoch's figures once, whatever was interrupted, and never stop a training."""

from __future__ import annotations

import logging
import os
import pickle
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from coevo_ray.core.json import JsonObject
from coevo_ray.errors import UsageError
from coevo_ray.store.location import Location
from coevo_ray.training.trackers.base import TrackedRun, Trackers, check_trackers

HISTORY: list[JsonObject] = [
    {"epoch": 0, "loss": 2.25, "accuracy": None, "samples": 10},
    {"epoch": 1, "loss": 1.5, "accuracy": 0.75, "samples": 20},
    {"epoch": 2, "loss": 1.25, "accuracy": 0.875, "samples": 30},
]
SETTINGS: JsonObject = {"learning_rate": 0.1, "policies": ["rotation"], "policy_options": {"scored": {"tau": 0}}}


def trackers(folder: Path, *names: str) -> Trackers:
    """Those of a training, as a worker has them."""
    place = Location.parse(folder)
    made = Trackers(names, TrackedRun("train rotation", place, SETTINGS, ""), place.child("training", "tracked.json"))
    sent: Trackers = pickle.loads(pickle.dumps(made))
    return sent


def train_twice(folder: Path, name: str) -> None:
    """A worker is killed after epoch 1; another goes on from the checkpoint of epoch 0."""
    first = trackers(folder, name)
    for entry in HISTORY[:2]:
        first.log(entry)
    second = trackers(folder, name)
    for entry in HISTORY[1:]:
        second.log(entry)
    second.close()


def test_tensorboard_has_every_epoch_once(tmp_path: Path) -> None:
    train_twice(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(events.Tags()["scalars"]) == ["accuracy", "loss", "samples"]
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(0, 2.25), (1, 1.5), (2, 1.25)]
    assert [(e.step, e.value) for e in events.Scalars("accuracy")] == [(1, 0.75), (2, 0.875)]


def test_mlflow_has_one_run_with_every_epoch_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "digits")
    train_twice(tmp_path / "out", "mlflow")
    client = MlflowClient()
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("train rotation", "FINISHED")
    assert run.data.params["policy_options.scored.tau"] == "0"
    losses = client.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in losses] == [(0, 2.25), (1, 1.5), (2, 1.25)]
    accuracies = client.get_metric_history(run.info.run_id, "accuracy")
    assert [(metric.step, metric.value) for metric in accuracies] == [(1, 0.75), (2, 0.875)]

    # The same folder, made again, is another run.
    (tmp_path / "out" / "training" / "tracked.json").unlink()
    train_twice(tmp_path / "out", "mlflow")
    assert len(client.search_runs([experiment.experiment_id])) == 2


def test_wandb_has_one_run_with_every_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    tracked = trackers(tmp_path / "out", "wandb")
    for entry in HISTORY:
        tracked.log(entry)
    tracked.close()
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    run, logged = _records_of(file)
    deadline = time.monotonic() + 300
    while len(logged) < len(HISTORY) and time.monotonic() < deadline:  # its own process writes them
        time.sleep(0.1)
        run, logged = _records_of(file)
    assert (run.project, run.display_name) == ("coevo-ray", "train rotation")
    assert len(run.run_id) == 32
    assert [row["loss"] for row in logged] == ["2.25", "1.5", "1.25"]
    assert [row.get("accuracy") for row in logged] == [None, "0.75", "0.875"]
    assert [row["_step"] for row in logged] == ["0", "1", "2"]


def _records_of(file: Path) -> tuple[Any, list[dict[str, str]]]:
    """The run and the logged rows of a file of an offline run."""
    run, rows = None, []
    for data in _messages(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("run") and run is None:
            run = record.run
        if record.HasField("history"):
            rows.append({item.key or item.nested_key[0]: item.value_json for item in record.history.item})
    return run, rows


def _messages(content: bytes) -> Iterator[bytes]:
    """The messages of a log in LevelDB's format (blocks of 32 KiB; checksum, length and kind before each part)."""
    block, head, at, parts = 1 << 15, 7, 7, b""
    while at + head <= len(content):
        if block - at % block < head:
            at += block - at % block
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        parts += content[at + head : at + head + length]
        at += head + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


class Kept:
    """A tracker of a user's own."""

    entries: list[tuple[str, int, dict[str, float]]] = []  # noqa: RUF012 - of all instances

    def __init__(self, run: TrackedRun) -> None:
        self._title = run.title

    def log(self, epoch: int, figures: Mapping[str, float]) -> None:
        self.entries.append((self._title, epoch, dict(figures)))

    def close(self) -> None:
        self.entries.append((self._title, -1, {}))


class Fails(Kept):
    """One whose server goes away."""

    def log(self, epoch: int, figures: Mapping[str, float]) -> None:
        if epoch == 1:
            raise OSError("no route to host")


def test_one_that_fails_is_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Kept.entries.clear()
    tracked = trackers(tmp_path, f"{__name__}:Fails", f"{__name__}:Kept")
    with caplog.at_level(logging.WARNING):
        for entry in HISTORY:
            tracked.log(entry)
    tracked.close()
    assert [epoch for _, epoch, _ in Kept.entries] == [0, 1, 2, -1]
    assert Kept.entries[1][2] == {"loss": 1.5, "accuracy": 0.75, "samples": 20.0}
    (record,) = caplog.records
    assert "Fails gets no more figures of train rotation: no route to host" in record.getMessage()


def test_unknown_ones_and_missing_packages_are_refused_before_the_training() -> None:
    with pytest.raises(UsageError, match="use one of tensorboard, mlflow, wandb, or package"):
        check_trackers(["neptune"])
    with pytest.raises(UsageError, match="unknown tracker 'json:Nothing'"):
        check_trackers(["json:Nothing"])


def test_variables_of_the_driver_reach_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "of the driver")
    monkeypatch.setenv("WANDB_ENTITY", "of the driver")
    made = pickle.dumps(trackers(tmp_path, f"{__name__}:Kept"))
    monkeypatch.delenv("WANDB_PROJECT")
    monkeypatch.setenv("WANDB_ENTITY", "of the worker")
    pickle.loads(made).log(HISTORY[0])
    assert (os.environ["WANDB_PROJECT"], os.environ["WANDB_ENTITY"]) == ("of the driver", "of the worker")
    monkeypatch.delenv("WANDB_PROJECT")
