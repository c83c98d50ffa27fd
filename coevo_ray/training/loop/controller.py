"""Ends a Ray Train run that is given up: its controller is an actor that nobody has a handle of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import ray
import ray.cloudpickle
from ray.experimental import internal_kv
from ray.train.v2._internal.execution.callback import ControllerCallback

_SPACE = b"coevo-ray-controllers"
_END_S = 5.0


class Reachable(ControllerCallback):
    """Leaves the controller's handle where the driver finds it.

    Args:
        run: identity of the run.
    """

    def __init__(self, run: str) -> None:
        self.run = run

    def after_controller_start(self, *context: object) -> None:
        """Called in the controller before its loop begins."""
        dumps: Callable[[object], bytes] = ray.cloudpickle.dumps  # Ray leaves it untyped
        handle = dumps(ray.get_runtime_context().current_actor)
        internal_kv._internal_kv_put(self.run.encode(), handle, overwrite=True, namespace=_SPACE)


def end_controller(run: str) -> None:
    """Aborts a run, so that its workers give back what they hold; kills its controller where that takes too long.

    Args:
        run: identity of the run.
    """
    if not ray.is_initialized():
        return
    handle: bytes | None = internal_kv._internal_kv_get(run.encode(), namespace=_SPACE)
    if handle is None:  # it never began
        return
    controller = ray.cloudpickle.loads(handle)
    with suppress(Exception):  # it ends itself while it answers
        ray.get(controller.abort.remote(), timeout=_END_S)
    ray.kill(controller)
