"""Targets of a pool in one call: contributions of all priors, then their merge (CoOpt, arXiv 2505.14117)."""

from __future__ import annotations

from coevo_ray.config import EncodeConfig, SettingsLike, as_settings
from coevo_ray.errors import UsageError
from coevo_ray.pipelines.encode.encode import make_contributions
from coevo_ray.pipelines.encode.job import like_targets, prepared, settle_form
from coevo_ray.pipelines.merge.merge import merge_fitted
from coevo_ray.pool.stages import pool_for
from coevo_ray.store.location import ArtifactLike, Location, Place
from coevo_ray.store.row_table import RowTable


def encode(
    config: SettingsLike[EncodeConfig], pool: ArtifactLike, out: Place, like: ArtifactLike | None = None
) -> RowTable:
    """Encodes a pool with its priors and merges their contributions into targets.

    Args:
        config: priors, dimension, shared set; a dict, or a YAML file.
        pool: the pool, or its folder.
        out: folder that will hold `contributions/` and `targets/`.
        like: targets of another pool, or their folder, whose space is used; as `like` among the settings.

    Returns:
        The target table: `row_id`, `target float16[dim]`, `prior uint8` (the row's own), and unless projection is
        random `encoders uint8` (priors behind the target).

    Raises:
        InputError: the pool is missing, a prior cannot be loaded, or too many rows were rejected.
        UsageError: the pool's samples cannot be encoded, a prior is unknown, no node has the requested device, settings
            were changed, or they are those of a single participant.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    settings = like_targets(as_settings(EncodeConfig, config, "encode"), like)
    if settings.alone:
        raise UsageError(
            "one prior with a shared pool or a part makes a contribution, not targets", "call contribute, then merge"
        )
    pool, location = pool_for("encode", pool), Location.parse(out)
    places = [location.child("contributions", f"{index:02d}") for index in range(len(settings.priors))]
    settings = settle_form(settings, places[0], pool)
    with prepared(settings, pool) as job:
        fitted = make_contributions(job, places, merged=True)
        return merge_fitted(places, location.child("targets"), settings.merging(), fitted)
