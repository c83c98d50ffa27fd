"""The newest checkpoint of a run whose list of checkpoints cannot be read.

Ray Train writes that list in place: a disk that fails or fills, or a controller that dies meanwhile, leaves a part of
it, from which no later attempt starts. The checkpoints themselves are folders, each with a name of its own.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable

from ray.train import Checkpoint

from coevo_ray.progress import say
from coevo_ray.store.location import Location

LIST = "checkpoint_manager_snapshot.json"
# What readers of half a file raise, or of a file that is not there.
_HALF = (OSError, ValueError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError)


def left_behind(run: Location, load: Callable[[Checkpoint], object]) -> Checkpoint | None:
    """Finds where a run goes on that has checkpoints and no list of them; takes an unreadable list away.

    Args:
        run: folder of Ray Train's run.
        load: reads a checkpoint, to see that it is whole.

    Returns:
        The newest whole checkpoint; None where the list is sound, or there is no checkpoint.
    """
    if not run.is_folder():
        return None
    file = run.child(LIST)
    if file.is_file():
        try:
            json.loads(file.read_bytes())
            return None
        except ValueError:
            say(f"{file} is not whole: Ray Train was stopped while it wrote it; its newest checkpoint is looked up")
            file.delete_file()
    folders = {name.partition("/")[0] for name in run.files(recursive=True) if "/" in name}
    for name in sorted(folders, reverse=True):  # by the time that they are named after
        checkpoint = Checkpoint(run.child(name).path, run.file_system)
        try:
            load(checkpoint)
        except _HALF:
            continue
        return checkpoint
    return None
