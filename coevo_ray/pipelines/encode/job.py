"""Settings and inputs of a call of encode, checked before any work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from coevo_ray.config import ActorPool, EncodeConfig, Projection, as_settings
from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.rows.hashing import choose_rows
from coevo_ray.errors import InputError
from coevo_ray.pipelines.encode.contribution import Plan, projection_of
from coevo_ray.pipelines.encode.like import Like, open_like
from coevo_ray.pipelines.encode.resources import settle
from coevo_ray.pool.pool import Pool
from coevo_ray.priors.inputs import Samples
from coevo_ray.priors.registry import check_prior
from coevo_ray.runtime.session import ray_session
from coevo_ray.store.artifact import begun_config
from coevo_ray.store.location import ArtifactLike, Location

# Shared rows for each dimension, to which a share of a small pool is raised: a latent of fewer follows chance.
_SHARED_ROWS = 4
_SHARED_LEAST = 4  # rows
_LEAST_DIM = 2
_SMALL_DIM = 128  # of small pools, and of the published form
_RAISED = 0.4  # of the training rows at most are shared for the sake of the larger dimension
_NO_ROWS = np.zeros(0, dtype=np.int64)


def settle_form(config: EncodeConfig, contribution: Location, pool: ArtifactLike) -> EncodeConfig:
    """The settings with their projection and dimension: as given, else those of a contribution which is there.

    Earlier versions had other defaults; what they began goes on in its form.

    Args:
        config: the settings.
        contribution: folder of the first contribution, begun or finished.
        pool: the pool, or its folder.

    Raises:
        InputError: the pool is not there.
        UsageError: the settings do not go with the form that is there.
    """
    begun = begun_config(contribution)
    form, dim = config.form, config.dim
    if begun is not None and config.projection is None and form == "components":
        form = projection_of(begun)
    if "dim" not in config.model_fields_set:
        dim = begun["dim"] if begun is not None else _usual_dim(config, form, Pool.open(pool))
    return as_settings(EncodeConfig, {**config.model_dump(), "projection": form, "dim": dim}, "encode")


def _usual_dim(config: EncodeConfig, form: Projection, pool: Pool) -> int:
    """The default dimension, or the smaller one where a latent of it would have too few shared rows.

    Vectors of the pool itself have no more dimensions than their columns. See docs/design.md#encoding-dimension.
    """
    if form == "random":
        return _SMALL_DIM
    names = [prior.name.partition(":") for prior in config.priors]
    columns = {name for scheme, _, name in names if scheme == "column"}
    widest = config.dim
    if all(scheme == "column" for scheme, _, _ in names):
        widest = max(_LEAST_DIM, sum(pool.features.get(name, widest) for name in columns))
    if isinstance(config.shared, str):
        have = len(Pool.open(config.shared))
    else:
        have = shared_rows(config.shared, config.dim, len(pool), len(pool.train_ids()))
    return min(widest, config.dim if have >= _SHARED_ROWS * config.dim else _SMALL_DIM)


def shared_rows(shared: float, dim: int, rows: int, train_rows: int) -> int:
    """Shared rows that a default dimension may count on.

    Args:
        shared: a share of the pool below 1, which is raised for the dimension, or a number of rows.
        dim: the dimension.
        rows, train_rows: of the pool.
    """
    if shared >= 1:
        return int(shared)
    return max(round(shared * rows), min(_SHARED_ROWS * dim, int(_RAISED * train_rows)))


def like_targets(config: EncodeConfig, like: ArtifactLike | None) -> EncodeConfig:
    """The settings with the targets whose space is used.

    Raises:
        UsageError: the settings do not allow it.
    """
    if like is None:
        return config
    given = config.model_dump(exclude_unset=True)
    return as_settings(EncodeConfig, {**given, "like": str(Location.parse(like))}, "encode")


@contextmanager
def prepared(config: EncodeConfig, pool: ArtifactLike) -> Iterator[Job]:
    """Checks all that can be known before Ray is started, then what the cluster has; Ray runs within the block.

    Raises:
        InputError: the pool is not there, or the shared set is too small.
        UsageError: a prior is unknown, or a device is asked for that no node has.
    """
    pool = Pool.open(pool)
    samples = Samples(pool.modality, pool.features)
    for prior in config.priors:
        check_prior(prior.name, prior.input_size, samples)
    like = None if config.like is None else open_like(Location.parse(config.like), [p.label for p in config.priors])
    shared = _NO_ROWS if like is not None else _shared(config, pool)
    with ray_session(reads=[pool.location]):
        computes = settle([config.compute_of(i) for i in range(len(config.priors))])
        yield Job(config, pool, samples, shared, computes, like)


def shared_set(pool: Pool, shared: float, seed: int, least: int = 0) -> Int64Array:
    """The shared set of CoOpt (arXiv 2505.14117): training rows chosen by hash.

    Args:
        pool: the pool.
        shared: a share of the pool below 1, or a number of rows.
        seed: seed of the hash.
        least: rows that a share is raised to, as far as there are training rows.

    Returns:
        int64[s] row_ids, increasing.

    Raises:
        InputError: there would be fewer than 4 rows, or more than the training rows.
    """
    train = pool.train_ids()
    count = int(shared) if shared >= 1 else max(round(shared * len(pool)), min(least, len(train)))
    if count < _SHARED_LEAST or count > len(train):
        if len(train) < _SHARED_LEAST:
            remedy = "ingest more samples, or hold out fewer (test_fraction)"
        elif count > len(train):
            remedy = f"lower encode.shared: {len(train)} rows, {len(train) / len(pool):.2f} of the pool, are the most"
        else:
            remedy = "raise encode.shared (at least twice encode.dim rows align well)"
        raise InputError(
            f"the shared set would have {count} rows of {len(train)} training rows; {_SHARED_LEAST} are the least",
            remedy,
        )
    return choose_rows(train, count, seed)


@dataclass(frozen=True)
class Job:
    """Settings and inputs that all participants of one call have in common.

    Attributes:
        config: the settings.
        pool: the pool.
        samples: its samples, for priors.
        shared: the shared pool, or int64[s] row_ids of the pool.
        computes: resources of each prior.
        like: the space of targets that are there, if theirs is to be used.
    """

    config: EncodeConfig
    pool: Pool
    samples: Samples
    shared: Pool | Int64Array
    computes: list[ActorPool]
    like: Like | None = None

    @property
    def shared_inputs(self) -> dict[str, str]:
        """Identity of the shared pool or of the space that is used, if there is one."""
        if self.like is not None:
            return {"like": self.like.stored.space}
        return {"shared": self.shared.manifest.identity} if isinstance(self.shared, Pool) else {}

    def plan(self, shard_rows: int) -> Plan:
        """Returns the plan of rows, in shards of so many."""
        config, shared = self.config, self.shared
        part = config.part
        weights = tuple(p.weight for p in config.priors) if part is None else (1.0,) * part[1]
        plan = Plan(self.pool.location, len(self.pool), weights, shard_rows, config.seed, coverage=self.coverage)
        if isinstance(shared, Pool):
            return replace(plan, shared_pool=shared.location, shared_rows=len(shared))
        return replace(plan, shared=shared)

    @property
    def coverage(self) -> int:
        """Priors that encode a row."""
        priors = len(self.config.priors) if self.config.part is None else self.config.part[1]
        return {"one": 1, "all": priors}.get(str(self.config.coverage)) or int(self.config.coverage)

    def place(self, index: int) -> int:
        """A prior's position in the assignment of rows."""
        return index if self.config.part is None else self.config.part[0]


def _shared(config: EncodeConfig, pool: Pool) -> Pool | Int64Array:
    by_components = config.form == "components"
    if not isinstance(config.shared, str):
        chosen = shared_set(pool, config.shared, config.seed, _SHARED_ROWS * config.dim if by_components else 0)
        if by_components:
            _require_rows(len(chosen), config.dim)
        return chosen
    shared = Pool.open(config.shared)
    have = (shared.modality, sorted(shared.features.items()))
    need = (pool.modality, sorted(pool.features.items()))
    if have[0] != need[0] or len(shared) < 4:
        raise InputError(
            f"the shared pool {config.shared} has {len(shared)} rows of {shared.samples.plural}, the pool holds "
            f"{pool.samples.plural}; "
            "4 rows are the least",
            "share a few rows of the same kind (at least twice encode.dim align well)",
        )
    if by_components:
        _require_rows(len(shared), config.dim)
    return shared


def _require_rows(shared: int, dim: int) -> None:
    """Refuses before any work what a latent of so many dimensions cannot be fitted to."""
    need = -(-(dim + 1) * 5 // 4) + 1  # one row in five is held out
    if shared < need:
        most = (shared - 1) * 4 // 5 - 1
        lower = f"lower encode.dim to {most} or less, " if most >= _LEAST_DIM else ""
        raise InputError(
            f"a latent of {dim} dimensions needs {need} shared rows or more, there are {shared}",
            f"raise encode.shared (four times encode.dim is good), {lower}or set encode.projection to random",
        )
