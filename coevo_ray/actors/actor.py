"""The selection actor: hosts a ledger service, a gate service, or both, where Ray keeps it alive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import ray

from coevo_ray.actors.gate_service import GateService
from coevo_ray.actors.ledger_service import LedgerService
from coevo_ray.actors.protocols import GateCalls, LedgerCalls
from coevo_ray.core.arrays import Float32Array, Int64Array
from coevo_ray.errors import InputError
from coevo_ray.runtime.metrics import RayMetrics
from coevo_ray.telemetry import receive, run_name

ServiceName = Literal["ledger", "gate"]


@dataclass(frozen=True)
class Services:
    """The services that an actor hosts.

    Attributes:
        ledger: usage counts and subsets of a training, or None.
        gate: requests and labels of an annotation gate, or None.
    """

    ledger: LedgerService | None = None
    gate: GateService | None = None


# No CPUs of its own: a training whose workers take all of them would wait for ever for the rest.
@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class SelectionActor:
    """Hosts the services; after a crash Ray starts it again and the journals bring the state back.

    Args:
        make: builds the services, reading their inputs where the actor lives and not on the driver.
        run, stage: names for its metrics.
    """

    def __init__(self, make: Callable[[], Services], run: str, stage: str) -> None:
        receive(RayMetrics(), run, stage)
        self._services = make()

    def call(self, service: ServiceName, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Calls a method of a service; every one of them may be repeated."""
        hosted = getattr(self._services, service)
        if hosted is None:
            raise InputError(f"this actor hosts no {service}", "start it with one")
        return getattr(hosted, method)(*arguments, **keywords)


class RemoteCalls:
    """Calls one service of an actor like the plain service; pickles, so that it can be passed to workers.

    Args:
        actor: the actor's handle.
        service: which of its services.
        protocol: the calls that it has, `LedgerCalls` or `GateCalls`.
    """

    def __init__(self, actor: Any, service: ServiceName, protocol: type) -> None:
        self._actor, self._service, self._protocol = actor, service, protocol

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or not hasattr(self._protocol, name):
            raise AttributeError(f"the {self.__dict__.get('_service')} service has no method {name!r}")

        def remote_call(*arguments: Any, **keywords: Any) -> Any:
            return ray.get(self._actor.call.remote(self._service, name, *arguments, **keywords))

        return remote_call

    def __reduce__(self) -> tuple[type[RemoteCalls], tuple[Any, ServiceName, type]]:
        return (type(self), (self._actor, self._service, self._protocol))


@dataclass(frozen=True)
class StoredPart:
    """Predictions of some rows in Ray's object store, a `PredictedPart`; they are fetched where it is used.

    Attributes:
        ranges: first class and end of each block.
        ids: of the rows, int64[n].
        blocks: of their probabilities, float32[n, w] for each range of classes.
    """

    ranges: tuple[tuple[int, int], ...]
    ids: ray.ObjectRef[Int64Array]
    blocks: tuple[ray.ObjectRef[Float32Array], ...]

    def row_ids(self) -> Int64Array:
        """The rows, int64[n]."""
        row_ids: Int64Array = ray.get(self.ids)
        return row_ids

    def block(self, number: int) -> Float32Array:
        """The probabilities of one range of classes, float32[n, w]."""
        values: Float32Array = ray.get(self.blocks[number])
        return values


class SelectionHandle:
    """A running selection actor; pickles.

    Args:
        actor: the actor's handle.
    """

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    @property
    def ledger(self) -> LedgerCalls:
        """Its ledger service."""
        return cast(LedgerCalls, RemoteCalls(self.actor, "ledger", LedgerCalls))

    @property
    def gate(self) -> GateCalls:
        """Its gate service."""
        return cast(GateCalls, RemoteCalls(self.actor, "gate", GateCalls))

    def offered_reference(self) -> ray.ObjectRef[Any]:
        """The result of `gate.offered` in Ray's store, for tasks that need it: it does not come here."""
        reference: ray.ObjectRef[Any] = self.actor.call.remote("gate", "offered")
        return reference

    def update_predictions(self, parts: list[StoredPart]) -> None:
        """`gate.update_predictions` with parts in Ray's object store, which the actor reads itself, block by block.

        Raises:
            InputError: as `GateService.update_predictions`.
            StoppedError: the journal cannot be written; send them again.
        """
        ray.get(self.actor.call.remote("gate", "update_predictions", *parts))

    def stop(self) -> None:
        """Ends the actor; the journals stay."""
        ray.kill(self.actor)


def start_selection(run: str, make: Callable[[], Services], stage: str = "selection") -> SelectionHandle:
    """Starts the selection actor of a run; its name carries the run, so that two runs never meet.

    Args:
        run: identity of the run.
        make: builds the services inside the actor.
        stage: that it serves, for its metrics.
    """
    options = SelectionActor.options(name=f"coevo-selection-{run}")  # type: ignore[attr-defined]  # ray.remote adds it
    return SelectionHandle(options.remote(make, run_name(), stage))
