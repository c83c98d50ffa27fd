"""A check that two target tables are in one space, as far as their manifests tell."""

from __future__ import annotations

from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError
from coevo_ray.store.row_table import RowTable


def require_same_space(targets: RowTable, others: RowTable) -> None:
    """Refuses targets that cannot be compared with others.

    Targets in a latent share a space where they share the latent. Those with a reference prior are in its space under
    its projection. Without alignment each prior has a space of its own. Targets that `merge` did not write have only a
    known dimension.

    Args:
        targets: the targets in question.
        others: the targets that they must fit.

    Raises:
        InputError: they differ in dimension, reference, projection or alignment.
    """
    wanted, have = _dim(others), _dim(targets)
    if have is not None and wanted is not None and have != wanted:
        _refuse(targets, others, {"dim": have}, {"dim": wanted})
    made, asked = _space(targets), _space(others)
    if made is not None and asked is not None and made != asked:
        _refuse(targets, others, _but(made, asked), _but(asked, made))


def _but(space: JsonObject, other: JsonObject) -> JsonObject:
    return {name: value for name, value in space.items() if name not in other or other[name] != value}


def _dim(targets: RowTable) -> int | None:
    schema = targets.schema()
    if "target" not in schema.names:
        return None  # no rows
    return int(schema.field("target").type.list_size)


def _space(targets: RowTable) -> JsonObject | None:
    summary = targets.manifest.summary
    priors = summary.get("priors")
    if not priors:
        return None
    if "space" in summary:
        return {"latent": str(summary["space"])[:16]}
    method = targets.manifest.config.get("alignment") if len(priors) > 1 else None
    # A single prior needs no alignment: its space is that of any targets with it as their reference.
    bearing = priors if method == "none" else [prior for prior in priors if prior["reference"]]
    return {
        "priors" if method == "none" else "reference": sorted(_prior(prior) for prior in bearing),
        "projection_seed": summary.get("projection_seed"),
    }


def _prior(prior: JsonObject) -> str:
    about = prior.get("prior", {})
    return f"{prior['name']} (weights {str(about.get('weights'))[:16]}, {about.get('preprocessing')})"


def _refuse(targets: RowTable, others: RowTable, have: JsonObject, need: JsonObject) -> None:
    raise InputError(
        f"the targets {targets.location} are in another space than {others.location}: have {have}, need {need}",
        "encode the open pool into the gate's space (--like TARGETS, with its priors); targets with a reference prior "
        "need the same priors, --dim, --seed and --reference",
    )
