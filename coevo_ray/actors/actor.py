"""The selection actor: a thin wrapper over `SelectionService` (DESIGN section 5.6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray

from coevo_ray.actors.gauges import SelectionGauges
from coevo_ray.actors.ledger_service import SelectionService

# What changes the figures.
_COUNTED = frozenset({"select", "commit"})


@ray.remote(num_cpus=0.1, max_restarts=-1, max_task_retries=-1)
class SelectionActor:
    """Holds the service; after a crash Ray starts it anew and the journal brings the state back.

    Args:
        make: builds the service, reading its inputs where the actor lives and not on the driver.
        run: identity of the run, for its metrics.
    """

    def __init__(self, make: Callable[[], SelectionService], run: str) -> None:
        self._service = make()
        ledger = self._service.ledger
        self._gauges = None if ledger is None else SelectionGauges(run, ledger.policy.name)
        self._publish()

    def call(self, method: str, *arguments: Any) -> Any:
        """Calls a method of the service by name; every one of them may be repeated."""
        result = getattr(self._service, method)(*arguments)
        if method in _COUNTED:
            self._publish()
        return result

    def _publish(self) -> None:
        if self._gauges is not None:
            self._gauges.publish(self._service.figures())


class SelectionHandle:
    """Calls the actor like the plain service; pickles, so that it can be passed to workers.

    Args:
        actor: the actor's handle.
    """

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or not hasattr(SelectionService, name):
            raise AttributeError(f"SelectionService has no method {name!r}")

        def remote_call(*arguments: Any) -> Any:
            return ray.get(self.actor.call.remote(name, *arguments))

        return remote_call

    def __reduce__(self) -> tuple[type[SelectionHandle], tuple[Any]]:
        return (type(self), (self.actor,))

    def stop(self) -> None:
        """Ends the actor; its journal stays."""
        ray.kill(self.actor)


def start_selection(run: str, make: Callable[[], SelectionService]) -> SelectionHandle:
    """Starts the selection actor of a run; the name carries the run, so that two runs never meet.

    Args:
        run: identity of the run.
        make: builds the service inside the actor.
    """
    # ray.remote adds `options` at run time.
    return SelectionHandle(SelectionActor.options(name=f"coevo-selection-{run}").remote(make, run))  # type: ignore[attr-defined]
