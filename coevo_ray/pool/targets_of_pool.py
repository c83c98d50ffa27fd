"""Location of a pool's rows in a target table; merged targets number the rows of several pools consecutively."""

from __future__ import annotations

from coevo_ray.errors import InputError
from coevo_ray.pool.pool import Pool
from coevo_ray.store.row_table import RowTable

_REMEDY = "give the pool that was encoded; a pool that has grown since must be encoded again"


def first_target(targets: RowTable, pool: Pool) -> int:
    """Returns the row_id that a pool's row 0 has in the targets.

    Raises:
        InputError: the targets were not made from this pool.
    """
    pools = targets.manifest.summary.get("pools")
    if pools is None:
        return _fitting(targets, pool)
    for entry in pools:
        if entry["identity"] == pool.manifest.identity:
            return int(entry["first_row_id"])
    raise InputError(
        f"the targets at {targets.location} were not made from the pool at {pool.location} "
        f"({pool.manifest.identity[:12]}), but from {[entry['identity'][:12] for entry in pools]}",
        _REMEDY,
    )


def _fitting(targets: RowTable, pool: Pool) -> int:
    """Checks that the row_ids of a table without a list of pools fit the pool."""
    last = max((file.last_row_id for file in targets.files), default=-1)
    if last >= len(pool):
        raise InputError(
            f"targets go up to row_id {last}, the pool {pool.location} has {len(pool)} rows",
            "give the targets that were made from this pool",
        )
    return 0


def require_alone(targets: RowTable, pool: Pool) -> None:
    """Checks that the targets' row_ids are the pool's own.

    Raises:
        InputError: the targets were made from another pool, or from several.
    """
    first_target(targets, pool)
    pools = targets.manifest.summary.get("pools", [])
    if len(pools) > 1:
        raise InputError(
            f"the targets at {targets.location} are of {len(pools)} pools; this needs only those of {pool.location}",
            "merge the contributions over this pool by themselves, or use coevo_ray.load_targets(targets, pool)",
        )
