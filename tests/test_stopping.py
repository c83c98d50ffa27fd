"""A training that is told to stop, hangs, or loses its worker: real processes of the command, and none is left."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from coevo_ray.runtime.watchdog import STALL
from tests.processes import Marked
from tests.training import digits_pool
from tests.training.networks_for_tests import faulty

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopping") / "pool"
    digits_pool(folder, 240)
    return folder


def train(pool: Path, folder: Path, **environment: str) -> Marked:
    """`coevo-ray train` of a network that does as the file `fault` says; nothing at first."""
    options = ["--model", faulty(folder / "fault"), "--image-size", "16", "--epochs", "3", "--cpus", "0.5", "--json"]
    command = [sys.executable, "-m", "coevo_ray", "train", "--objective", "supervised", "--pool", str(pool)]
    command += ["--policy", "full", "--out", str(folder / "out"), *options]
    return Marked(command, folder, {"PYTHONPATH": str(Path(__file__).parents[1]), **environment})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_training_that_is_told_to_stop_ends_within_ten_seconds_and_goes_on_later(
    pool: Path, tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "fault").write_text("6 hang")  # in the second epoch
    command = train(pool, tmp_path)
    try:
        command.until(lambda: list((tmp_path / "out").glob("training/ray/checkpoint_*")) != [])
        time.sleep(1)
        command.process.send_signal(number)
        begun = time.monotonic()
        assert command.wait(60) == 4, command.err.read_text()
        seconds = time.monotonic() - begun
        assert seconds < 10, f"it took {seconds:.1f} s\n{command.err.read_text()}"
        assert "run the same command again" in command.err.read_text()
        command.assert_gone()
    finally:
        command.end()
    (tmp_path / "fault").unlink()
    command = train(pool, tmp_path)
    try:
        assert command.wait() == 0, command.err.read_text()
        assert len(json.loads(command.out.read_text())["history"]) == 3
        command.assert_gone()
    finally:
        command.end()


def test_a_training_that_hangs_is_ended(pool: Path, tmp_path: Path) -> None:
    (tmp_path / "fault").write_text("6 hang")
    command = train(pool, tmp_path, **{STALL: "60"})  # its processes start within that time
    try:
        assert command.wait(400) == 4, command.err.read_text()
        assert "train full: no progress for 60 s" in command.err.read_text()
        command.assert_gone()
    finally:
        command.end()


def test_a_worker_that_is_killed_in_its_function_is_replaced(pool: Path, tmp_path: Path) -> None:
    (tmp_path / "fault").write_text("6 hang")
    command = train(pool, tmp_path)
    try:
        log = (tmp_path / "fault").with_suffix(".steps")
        command.until(lambda: log.exists() and len(log.read_text().split()) >= 7)
        worker = int(log.read_text().split()[-1])
        (tmp_path / "fault").unlink()
        os.kill(worker, signal.SIGKILL)
        assert command.wait() == 0, command.err.read_text()
        assert len(json.loads(command.out.read_text())["history"]) == 3
        assert int(log.read_text().split()[-1]) != worker
        command.assert_gone()
    finally:
        command.end()
