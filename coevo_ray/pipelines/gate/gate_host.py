"""The host of an open gate: a plain service in this process, or the selection actor while the gate is hosted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from coevo_ray.actors.gate_service import GateService
from coevo_ray.actors.protocols import GateCalls
from coevo_ray.pipelines.gate.gate_maker import GateMaker
from coevo_ray.store.digests import digest
from coevo_ray.store.location import Location
from coevo_ray.store.writing import writing

if TYPE_CHECKING:
    # At run time where it is used: what only looks at a gate loads no Ray.
    from coevo_ray.actors.actor import SelectionHandle


class GateHost:
    """Holds a gate's service, and the lease of its folder while the gate changes.

    Args:
        maker: builds the service, here or in the actor.
        inputs: identities of what the gate was opened on.
        reads: places that the gate's tasks read.

    Attributes:
        handle: of the actor that hosts the gate, or None.
    """

    def __init__(self, maker: GateMaker, inputs: dict[str, str], reads: Sequence[Location]) -> None:
        self._maker, self._inputs, self._reads = maker, inputs, list(reads)
        self.handle: SelectionHandle | None = None
        self._plain: GateService | None = None

    @contextmanager
    def hosted(self) -> Iterator[None]:
        """Moves the gate into the selection actor for the duration of the block; starts Ray where it does not run.

        Raises:
            UsageError: another process changes the gate now.
        """
        if self.handle is not None:
            yield
            return
        from coevo_ray.actors.actor import start_selection
        from coevo_ray.pipelines.gate.resources import needs_of
        from coevo_ray.runtime.resources import require
        from coevo_ray.runtime.session import ray_session
        from coevo_ray.runtime.shards import ray_errors

        location = self._maker.location
        with writing(location, at_once=True), ray_session(self._reads, [location]), ray_errors("gate"):
            require("gate", *needs_of(self._maker.parts, self._maker.cpus), remedy="lower the gate's compute.actors")
            self._plain = None
            self.handle = start_selection(digest([str(location), self._inputs]), self._maker, "gate")
            try:
                yield
            finally:
                self.handle.stop()
                self.handle = None

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keeps other processes from changing the gate within the block; a hosted gate does so anyway.

        Raises:
            UsageError: another process changes it now.
        """
        if self.handle is not None:  # whoever hosts it may use it from other threads
            yield
            return
        with writing(self._maker.location, at_once=True):
            yield

    @property
    def service(self) -> GateCalls:
        """The gate's service: in the actor, or a plain one here."""
        if self.handle is not None:
            return self.handle.gate
        if self._plain is None:
            self._plain = self._maker.service()
        return self._plain
