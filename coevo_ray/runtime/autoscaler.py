"""Whether a cluster adds nodes by itself."""

from __future__ import annotations


def autoscales() -> bool:
    """True for a cluster whose autoscaler may add nodes."""
    return False
