"""Opens gates by their folder, or by that of a run."""

from __future__ import annotations

from coevo_ray.pipelines.gate.session import GateSession
from coevo_ray.store.location import ArtifactLike, Location


def open_gate(what: GateSession | ArtifactLike) -> GateSession:
    """Opens a gate; one that is open already passes through.

    Args:
        what: the gate, its folder, or that of a run, which has it as `gate/`.

    Raises:
        InputError: no gate was opened there, or its pool, targets or graph have changed since.
    """
    return what if isinstance(what, GateSession) else GateSession(Location.parse(what))
