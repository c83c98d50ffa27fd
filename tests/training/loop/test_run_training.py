"""A training's artifact: finished ones are left alone, changed settings are refused, before anything is prepared."""

from __future__ import annotations

from pathlib import Path

import pytest

from coevo_ray.errors import UsageError
from coevo_ray.store.artifact import begin, finish
from coevo_ray.store.data_files import write_blob
from coevo_ray.store.location import Location
from coevo_ray.training.loop.run_training import ModelArtifact, Training, run_training


def prepare() -> Training[None]:
    raise AssertionError("it was prepared")


def test_a_finished_training_is_not_prepared_again(tmp_path: Path) -> None:
    place = Location.parse(tmp_path / "model")
    assert begin(place, "model", {"epochs": 2}, {"pool": "a"}) is None
    made = finish(place, "model", {"epochs": 2}, {"pool": "a"}, [write_blob(place, "x", b"1")], {"accuracy": 1.0})
    again = run_training(ModelArtifact(place, {"epochs": 2}, {"pool": "a"}), prepare)
    assert (again.summary, again.manifest.identity) == (made.summary, made.identity)
    for other in (
        ModelArtifact(place, {"epochs": 3}, {"pool": "a"}),
        ModelArtifact(place, {"epochs": 2}, {"pool": "b"}),
        ModelArtifact(place, {"epochs": 2}, {"pool": "a"}, kind="sae"),
    ):
        with pytest.raises(UsageError, match="was made with other settings"):
            run_training(other, prepare)
    with pytest.raises(AssertionError, match="it was prepared"):
        run_training(ModelArtifact(Location.parse(tmp_path / "new"), {}, {}), prepare)
