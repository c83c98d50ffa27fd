"""Inputs and settings that a gate was opened with: the file `gate.json` in its folder."""

from __future__ import annotations

from collections.abc import Sequence

from coevo_ray.config import GateSettings
from coevo_ray.core.gate.config import MAX_CLASSES
from coevo_ray.core.graph.copies import MARGIN, SIMILARITY
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError
from coevo_ray.pool.pool import Pool
from coevo_ray.store.json_text import object_of
from coevo_ray.store.layout import RunLayout
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable

OPENED = "gate.json"
_FIELDS = {"settings": dict, "classes": list, "pool": str, "targets": str, "inputs": dict}
# Settings that gates of version 0.1.0 go on with.
FORMER_RULE = {
    "copy_similarity": SIMILARITY,
    "copy_margin": MARGIN,
    "shared_confidence": 0.95,
    "draw": "top",
    "validation_share": 0.0,
}
_SINCE_FORMER = {"copy_similarity", "copy_margin"}  # settings that version 0.1.0 did not write


def write_opened(
    location: Location, settings: GateSettings, classes: Sequence[str], pool: Pool, targets: RowTable
) -> None:
    """Writes the file; a gate that version 0.1.0 opened stays known as one (`is_former`).

    Args:
        location: folder of the gate.
        settings: of the gate.
        classes: names of its classes.
        pool, targets: that it is opened on.

    Raises:
        StoppedError: the store refused.
    """
    file = location.child(OPENED)
    former = file.is_file() and is_former(read_opened(location)["settings"])
    opened = {
        "settings": settings.model_dump(mode="json", exclude=_SINCE_FORMER if former else None),
        "classes": list(classes),
        "pool": str(pool.location),
        "targets": str(targets.location),
        "inputs": inputs_of(pool, targets),
    }
    file.write_json(opened)


def read_opened(location: Location) -> JsonObject:
    """Reads the file: `settings`, `classes`, `pool`, `targets` and `inputs`.

    Raises:
        InputError: it is damaged.
    """
    file = location.child(OPENED)
    opened = object_of(file.read_json(), file, _FIELDS)
    if not all(isinstance(name, str) for name in opened["classes"]):
        raise InputError(f"classes in {file} are not names", "restore the file from a copy")
    return opened


def is_former(settings: JsonObject) -> bool:
    """True for settings of a gate that version 0.1.0 opened, which goes on by that version's rules."""
    return not settings.keys() >= _SINCE_FORMER


def find_gate(location: Location) -> Location | None:
    """Returns the folder of the gate that is at a folder, or in that of a run; None without one."""
    places = (location, RunLayout.of(location).gate)
    return next((place for place in places if place.child(OPENED).is_file()), None)


def class_names(config: GateSettings, pool: Pool) -> tuple[str, ...]:
    """The names of the classes: the settings' own, the pool's, or numbers.

    Raises:
        InputError: there are fewer than two, or the pool has labels of another number of classes.
    """
    names = tuple(pool.manifest.summary.get("class_names") or ())
    if config.classes is not None:
        if pool.classes > len(config.classes):
            raise InputError(
                f"{len(config.classes)} classes {list(config.classes)[:8]} for a pool with labels of {pool.classes}",
                "name all of them",
            )
        return config.classes
    if pool.classes < 2:
        raise InputError(
            f"the pool has {pool.classes} classes; the gate needs two or more",
            "name them: gate.classes, or coevo-ray gate open --classes cat,dog",
        )
    if pool.classes > MAX_CLASSES:
        raise InputError(
            f"labels of the pool run up to {pool.classes - 1:,}, need {MAX_CLASSES:,} classes or fewer",
            "they are ids rather than classes: ingest with another --label-column, or with their names as texts",
        )
    return names if len(names) == pool.classes else tuple(str(i) for i in range(pool.classes))


def inputs_of(pool: Pool, targets: RowTable) -> dict[str, str]:
    """Identities of what a gate is opened on."""
    return {"pool": pool.manifest.identity, "targets": targets.manifest.identity}
