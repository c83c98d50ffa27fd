"""Single Ray tasks: started where the cluster has room for them, and not waited for without an end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError

from coevo_ray.errors import StoppedError
from coevo_ray.progress import waiting
from coevo_ray.runtime.at_work import at_work, longest_at_work
from coevo_ray.runtime.resources import TASK, Need, require
from coevo_ray.runtime.watchdog import Patience


def start_task(title: str, function: Callable[..., Any], *arguments: Any, need: Need = TASK, returns: int = 1) -> Any:
    """Starts a task.

    Args:
        title: of the work, for errors.
        function, arguments: what it does; both must pickle.
        need: what it reserves.
        returns: number of its results.

    Returns:
        The reference of its result, or a list of them.

    Raises:
        UsageError, StoppedError: the cluster has no room for it, see `runtime.resources.require`.
    """
    require(title, need)

    def noted(*given: Any) -> Any:
        with at_work(title):
            return function(*given)

    task: Any = ray.remote(noted)
    name = getattr(function, "__name__", "work")
    return task.options(**need.options, num_returns=returns, name=f"{title}: {name}").remote(*arguments)


def task_result(title: str, reference: ray.ObjectRef[Any], *, computes: bool = True) -> Any:
    """The result of a task.

    Args:
        title: as at its start.
        reference: of the result.
        computes: it does nothing but compute: once it has begun it may take as long as it needs.

    Raises:
        StoppedError: it has not begun within `COEVO_RAY_STALL_SECONDS`, or not ended where it does not only compute.
    """
    patience = Patience(title)
    with waiting(title):
        return _result(title, reference, computes, patience)


def _result(title: str, reference: ray.ObjectRef[Any], computes: bool, patience: Patience) -> Any:
    while True:
        try:
            return ray.get(reference, timeout=patience.wait_s())
        except GetTimeoutError:
            if computes and any(each.startswith(f"{title} ") for each in longest_at_work()):
                patience.moved()
                continue
            try:
                patience.check()
            except StoppedError:
                ray.cancel(reference, force=True)
                raise
