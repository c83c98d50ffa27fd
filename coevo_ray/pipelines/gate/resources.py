"""Resources that a gate reserves on a cluster."""

from __future__ import annotations

from coevo_ray.runtime.resources import Need


def needs_of(parts: int, cpus: float) -> tuple[Need, ...]:
    """Needs of a hosted gate, at the same time: a task, and the actors that hold its graph in parts.

    Args:
        parts: of the graph; a single one lies in the selection actor, which reserves nothing.
        cpus: of each.
    """
    holders = (Need("graph actor", cpus, count=parts),) if parts > 1 else ()
    return (*holders, Need("task", cpus))
