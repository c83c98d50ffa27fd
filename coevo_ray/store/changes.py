"""Refusal of settings and inputs other than those that an artifact was begun with."""

from __future__ import annotations

from typing import Any

from coevo_ray.errors import UsageError
from coevo_ray.store.location import Location

_REMEDY = "use the former settings, choose another output, or delete that folder to make it again"
# A folder with people's labels is not to be deleted.
_REMEDIES = {
    "labels": "use the former settings; limits, the size of rounds and the stop of a gate can be changed "
    "(coevo-ray gate set); or choose another output and submit its labels there"
}


def refuse_change(location: Location, wanted: dict[str, Any], there: dict[str, Any]) -> None:
    """Refuses to go on with what was begun in another way.

    Args:
        location: folder of the artifact.
        wanted, there: `kind`, `config` and `inputs` as asked for, and as they were begun.

    Raises:
        UsageError: they differ; both values of what does are named.
    """
    changes = [
        f"{name}: there {have!r}, asked for {want!r}" for name, have, want in _differences(_flat(there), _flat(wanted))
    ]
    if changes:
        raise UsageError(
            f"{location} was made with other settings: " + "; ".join(changes[:8]),
            _REMEDIES.get(there.get("kind", ""), _REMEDY),
        )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}.{key}" if prefix else key).items()}


def _differences(there: dict[str, Any], wanted: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    keys = sorted(set(there) | set(wanted))
    return [(k, there.get(k, "(nothing)"), wanted.get(k, "(nothing)")) for k in keys if there.get(k) != wanted.get(k)]
