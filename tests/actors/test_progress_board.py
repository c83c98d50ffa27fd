"""What workers note reaches the driver as a movement; a board that died is no stall."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import ray

from coevo_ray.actors.progress_board import progress_board


def until(there: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not there():
        assert time.monotonic() < limit, "it never came"
        time.sleep(0.05)


@pytest.mark.usefixtures("ray_local")
def test_notes_are_movements_and_so_is_the_silence_of_a_board_that_died() -> None:
    moved: list[float] = []
    with progress_board("train", 3, "epochs", lambda: moved.append(time.monotonic())) as board:
        board.note(1)
        until(lambda: len(moved) == 1)
        time.sleep(1.2)
        assert len(moved) == 1, "nothing was noted since"
        board.actor.beat.remote()
        until(lambda: len(moved) == 2)
        ray.kill(board.actor)
        until(lambda: len(moved) > 4)
