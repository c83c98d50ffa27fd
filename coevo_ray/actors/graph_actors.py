"""A neighbour graph's parts in Ray actors, each of which holds one and computes on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray

from coevo_ray.core.graph.types import GraphPart, PartWork
from coevo_ray.runtime.at_work import at_work, longest_at_work
from coevo_ray.runtime.watchdog import Patience

TITLE = "graph"


# A part is read again where its actor starts again, and what it was asked is asked again: work on it changes nothing.
@ray.remote(max_restarts=-1, max_task_retries=-1)
class GraphPartActor:
    """Holds a part.

    Args:
        number: of the part.
        read: gives it.
    """

    def __init__(self, number: int, read: Callable[[], GraphPart]) -> None:
        self._name = f"{TITLE} part {number}"
        with at_work(self._name):
            self._part = read()

    def run(self, work: PartWork, *given: Any) -> Any:
        """Result of (part, *given)."""
        with at_work(self._name):
            return work(self._part, *given)


class GraphActors:
    """Holds the parts of a graph in actors; they end with the process that made this.

    Args:
        reads: give the parts, each where its actor runs.
        cpus: that each actor reserves.
    """

    def __init__(self, reads: Sequence[Callable[[], GraphPart]], cpus: float) -> None:
        actor: Any = GraphPartActor
        started = actor.options(num_cpus=cpus, scheduling_strategy="SPREAD")
        self._actors = [started.remote(number, read) for number, read in enumerate(reads)]

    def each(self, work: PartWork, shared: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Runs a function on all parts, see `PartHolders`; what is shared goes to the object store once.

        Raises:
            StoppedError: no part has moved for `COEVO_RAY_STALL_SECONDS`.
        """
        given = [ray.put(each) for each in shared]
        return self._results(dict.fromkeys(range(len(self._actors)), (work, *given)))

    def some(self, work: PartWork, given: Mapping[int, Sequence[Any]]) -> Iterator[tuple[int, Any]]:
        """Runs a function on some parts, see `PartHolders`.

        Raises:
            StoppedError: as `each`.
        """
        return self._results({number: (work, *own) for number, own in given.items()})

    def _results(self, asked: Mapping[int, Sequence[Any]]) -> Iterator[tuple[int, Any]]:
        waiting = {self._actors[number].run.remote(*call): number for number, call in asked.items()}
        patience = Patience(TITLE)
        while waiting:
            done, _ = ray.wait(list(waiting), num_returns=1, timeout=patience.wait_s())
            if not done:
                if any(each.startswith(TITLE) for each in longest_at_work()):  # it computes, for as long as it takes
                    patience.moved()
                else:
                    patience.check()
                continue
            patience.moved()
            yield waiting.pop(done[0]), ray.get(done[0])
