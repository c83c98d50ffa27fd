"""The consensus of contributions: fitted, extended by late ones, or refitted (docs/design.md#consensus)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coevo_ray.core.alignment.agreement import neighbour_agreement, prior_recognition
from coevo_ray.core.alignment.alignment import held_out
from coevo_ray.core.alignment.components import Components
from coevo_ray.core.alignment.consensus import Consensus, PriorMap, fit_late_prior, to_latent
from coevo_ray.core.alignment.projection import normalise
from coevo_ray.core.arrays import Float32Array, Float64Array, Int64Array
from coevo_ray.core.rows.hashing import hash_rows
from coevo_ray.errors import InputError
from coevo_ray.pipelines.encode.contribution import Contribution
from coevo_ray.pipelines.encode.joined import SharedFit, fit_shared, join_shared
from coevo_ray.pipelines.encode.shared import read_components
from coevo_ray.pipelines.encode.shared_files import SharedFiles
from coevo_ray.runtime.shards import ray_errors
from coevo_ray.runtime.tasks import start_task, task_result
from coevo_ray.store.consensus_files import StoredConsensus, read_consensus
from coevo_ray.store.digests import digest
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import MANIFEST, load_manifest

_JUDGED_ROWS = 2048  # neighbours among so many rows settle agreement within a point; the cost is their square


@dataclass(frozen=True, eq=False)
class Quality:
    """Measures on held-out shared rows, without labels.

    Attributes:
        agreement: float64[priors, priors], shared neighbours of two priors' targets.
        chance: of agreement.
        recognition: accuracy of telling a target's prior by its neighbours; 1 / priors is chance.
    """

    agreement: Float64Array
    chance: float
    recognition: float


def find_consensus(
    tables: Sequence[Contribution],
    location: Location,
    dim: int,
    seed: int,
    refit: bool,
    known: SharedFit | None = None,
) -> StoredConsensus:
    """The consensus of some contributions.

    A latent that targets at `location` have stays, and contributions that came later are regressed onto it.

    Args:
        tables: the contributions; those of targets that are there come first.
        location: folder of the targets.
        dim: n of the latent.
        seed: of the held-out rows.
        refit: fit a latent of all of them, whatever is there.
        known: the consensus of all of them, if it was fitted before.

    Raises:
        InputError: there are too few shared rows or components.
        StoppedError: the cluster failed.
    """
    if "like" in tables[0].manifest.inputs:
        return _carried(tables)
    there = None if refit else _read(location, tables)
    places = [SharedFiles(t.location) for t in tables]
    components = tuple(_components(t) for t in tables)
    if there is None:
        fitted = fit_shared(places, dim, seed) if known is None else known
        identities = tuple(t.manifest.identity for t in tables)
        return StoredConsensus(fitted.consensus, components, identities, fitted.rows, fitted.lacking)
    maps = list(there.consensus.priors)
    rows, lacking = there.shared_rows, there.lacking
    for place in places[len(maps) :]:
        joined = join_shared([*places[: len(there.founders)], place], seed)
        maps.append(fit_late_prior(joined.fit, joined.held, there.consensus.latent))
        rows, lacking = min(rows, len(joined.row_ids)), max(lacking, joined.lacking)
    extended = Consensus(there.consensus.latent, tuple(maps))
    return StoredConsensus(extended, components, there.founders, rows, lacking)


def _components(table: Contribution) -> Components:
    components = read_components(table.location)
    if components is None:
        raise InputError(f"{table.location} has no components", "the contribution is damaged: ask for it again")
    return components


def measure_quality(tables: Sequence[Contribution], maps: Sequence[PriorMap], seed: int) -> Quality:
    """Compares the priors' targets of held-out shared rows, in a task beside the data.

    Raises:
        StoppedError: the cluster failed.
    """
    places = [t.location for t in tables]
    title = "measure the consensus"
    with ray_errors(title):
        quality: Quality = task_result(title, start_task(title, _quality, places, list(maps), seed))
    return quality


def _quality(places: list[Location], maps: list[PriorMap], seed: int) -> Quality:
    shared = [SharedFiles(place) for place in places]
    common = shared[0].row_ids()
    for other in shared[1:]:
        common = np.intersect1d(common, other.row_ids(), assume_unique=True)
    rows = common[held_out(hash_rows(common, seed))][:_JUDGED_ROWS]
    if len(rows) < 3:  # a handful of shared rows: all are judged
        rows = common[:_JUDGED_ROWS]
    targets = [normalise(to_latent(s.features(rows), m)) for s, m in zip(shared, maps, strict=True)]
    chance = min(10, len(rows) - 1) / (len(rows) - 1)
    return Quality(neighbour_agreement(targets), chance, prior_recognition(targets))


def combined_targets(
    parts: Sequence[tuple[Int64Array, Float32Array, PriorMap]],
) -> tuple[Int64Array, Float32Array]:
    """Targets of rows that one prior or several encoded: the mean in the latent, weighted by the priors' precision.

    Args:
        parts: for each prior int64[b] row_ids, float32[b, c] components, and its map.

    Returns:
        int64[m] row_ids, increasing; float32[m, n] unit vectors.

    Raises:
        InputError: a row has no direction.
    """
    ids = np.unique(np.concatenate([row_ids for row_ids, _, _ in parts]))
    total = np.zeros((len(ids), parts[0][2].matrix.shape[1]), dtype=np.float32)
    for row_ids, components, prior in parts:
        total[np.searchsorted(ids, row_ids)] += np.float32(prior.weight) * to_latent(components, prior)
    return ids, normalise(total) if len(ids) else total


def _read(location: Location, tables: Sequence[Contribution]) -> StoredConsensus | None:
    """The consensus of targets that are there, if it is of the first of these contributions."""
    if not location.child(MANIFEST).is_file():
        return None
    manifest = load_manifest(location, "targets")
    summary = manifest.summary
    founders, made = tuple(summary["latent_of"]), int(summary["contributions"])
    identities = tuple(t.manifest.identity for t in tables)
    if identities[: len(founders)] != founders or made > len(tables):
        raise InputError(
            f"the latent of {location} was fitted to other contributions, or to these in another order",
            "list its contributions first, in their order, or refit it (--refit)",
        )
    return read_consensus(location, manifest, made)


def _carried(tables: Sequence[Contribution]) -> StoredConsensus:
    """The consensus that contributions were made for, and carry with them."""
    parts = [read_consensus(t.location, t.manifest, 1) for t in tables]
    first = parts[0]
    maps = tuple(part.consensus.priors[0] for part in parts)
    components = tuple(part.components[0] for part in parts)
    latent = first.consensus.latent
    return StoredConsensus(Consensus(latent, maps), components, first.founders, first.shared_rows, first.lacking)


def hash_map(prior: PriorMap) -> str:
    """Hash of all that a map does to components."""
    return digest([prior.matrix.tobytes().hex(), prior.offset.tobytes().hex(), prior.weight])
