"""Detects whether a cluster adds nodes by itself: Ray has no public way to ask, but its autoscaler leaves a status."""

from __future__ import annotations

import json
from contextlib import suppress

from ray.experimental import internal_kv

_STATUS, _SECOND = b"__autoscaling_status", b"__autoscaler_v2_enabled"
_NOT_MANAGED = "node_"  # with the node's id: the kind of nodes that somebody started by hand


def autoscales() -> bool:
    """True for a cluster whose autoscaler starts nodes; of other ones the same process only reads the status."""
    status = None
    with suppress(Exception):  # not in every version
        if internal_kv._internal_kv_get(_SECOND) == b"1":
            return True
        status = internal_kv._internal_kv_get(_STATUS)
    return status is not None and manages_nodes(status)


def manages_nodes(status: bytes) -> bool:
    """Reads the status that Ray's autoscaler writes: True where it knows a node's kind from its configuration."""
    with suppress(ValueError, AttributeError):
        kinds = (json.loads(status).get("autoscaler_report") or {}).get("node_type_mapping") or {}
        return any(not str(kind).startswith(_NOT_MANAGED) for kind in kinds.values())
    return False
