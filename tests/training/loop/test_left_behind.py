"""A run whose list of checkpoints was cut off goes on from its newest whole checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import Checkpoint

from coevo_ray.config import Compute
from coevo_ray.errors import InputError, StoppedError
from coevo_ray.store.location import Location
from coevo_ray.training.loop.left_behind import LIST, left_behind
from coevo_ray.training.loop.ray_train import HISTORY, STATE, fit, load_checkpoint, resume, save_checkpoint


def write(run: Path, name: str, step: int) -> Path:
    (folder := run / name).mkdir(parents=True)
    torch.save({"step": step}, folder / STATE)
    (folder / HISTORY).write_text("[]")
    return folder


def found(run: Path) -> int | None:
    checkpoint = left_behind(Location.parse(run), load_checkpoint)
    return None if checkpoint is None else load_checkpoint(checkpoint)[0]["step"]


@pytest.mark.parametrize("content", ["", '{"checkpoint_results": [{"che', None])
def test_it_is_the_newest_whole_one(tmp_path: Path, content: str | None) -> None:
    write(tmp_path, "checkpoint_2026-01-01", 1)
    write(tmp_path, "checkpoint_2026-01-02", 2)
    newest = write(tmp_path, "checkpoint_2026-01-03", 3)
    if content is not None:
        (tmp_path / LIST).write_text(content)
    assert found(tmp_path) == 3
    assert not (tmp_path / LIST).exists()
    assert found(tmp_path) == 3, "also if the process dies before there is another list"
    state = (newest / STATE).read_bytes()
    (newest / STATE).write_bytes(state[: len(state) // 2])
    assert found(tmp_path) == 2
    (tmp_path / "checkpoint_2026-01-02" / HISTORY).unlink()
    assert found(tmp_path) == 1


def test_a_sound_list_is_ray_trains(tmp_path: Path) -> None:
    assert found(tmp_path / "none") is None
    write(tmp_path, "checkpoint_2026-01-01", 1)
    (tmp_path / LIST).write_text(json.dumps({"checkpoint_results": []}))
    assert found(tmp_path) is None and (tmp_path / LIST).is_file()


STEPS, DIES_AT = 4, 2


def work(arguments: dict[str, Any]) -> None:
    """Notes each step; in its first life it ends in the third."""
    state, history = resume()
    notes = Path(arguments["notes"])
    for step in range(0 if state is None else state["step"] + 1, STEPS):
        if step == DIES_AT and not (notes / "died").exists():
            (notes / "died").touch()
            raise InputError("the disk failed", "repair it")  # at once: others are tried again
        with (notes / "steps").open("a") as file:
            file.write(f"{step} ")
        history.append({"step": step})
        save_checkpoint({"step": step}, history, {"step": step})


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_training_goes_on_after_its_list_was_cut_off(tmp_path: Path) -> None:
    place, compute = Location.parse(tmp_path / "training"), Compute(actors=1, cpus=0.5)
    arguments = {"notes": str(tmp_path)}
    with pytest.raises(InputError, match="the disk failed"):
        fit("tried", work, arguments, compute, place)
    (listed,) = (tmp_path / "training").rglob(LIST)
    listed.write_bytes(listed.read_bytes()[:40])
    state, history = load_checkpoint(fit("tried", work, arguments, compute, place))
    assert (tmp_path / "steps").read_text().split() == ["0", "1", "2", "3"]
    assert (state["step"], [each["step"] for each in history]) == (3, [0, 1, 2, 3])
    # Done and cut off again: there is nothing to do, and what was done is found.
    (listed,) = (tmp_path / "training").rglob(LIST)
    listed.write_bytes(b"")
    again: Checkpoint = fit("tried", work, arguments, compute, place)
    assert load_checkpoint(again)[0]["step"] == 3


def fill(arguments: dict[str, Any]) -> None:
    """Its checkpoint is larger than the disk."""
    save_checkpoint({"noise": torch.zeros(1 << 20)}, [], {})


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
@pytest.mark.usefixtures("ray_local")
def test_a_disk_without_room_for_a_checkpoint_stops_the_training(tmp_path: Path) -> None:
    (disk := tmp_path / "disk").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True)
    try:
        with pytest.raises(StoppedError, match=r"cannot write to .*disk.*No space left on device") as caught:
            fit("tried", fill, {}, Compute(actors=1, cpus=0.5), Location.parse(disk))
        assert "free space or repair the disk" in caught.value.remedy
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
