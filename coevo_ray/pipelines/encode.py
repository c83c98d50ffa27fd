"""Encode: pool -> one contribution per prior (CoOpt, arXiv 2505.14117, DESIGN section 5.1), on Ray Data.

A shard is a range of row_ids. CPU tasks read and decode it, an actor of the prior's pool encodes, projects and writes
it at once, so that a killed job redoes at most the shards in flight.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import torch

from coevo_ray.config import Compute, EncodeConfig, PriorConfig, make_config
from coevo_ray.core.projection import finite_rows, project, projection_matrix
from coevo_ray.core.rows import choose_rows
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pipelines.contribution import Plan, read_shard_rejects, shard_name, write_shard_rejects
from coevo_ray.pipelines.merge import merge
from coevo_ray.pool.images import ImageError, decode_resized
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.rejects import Reject, check_share, write_rejects
from coevo_ray.priors.encoder import Encoder
from coevo_ray.priors.registry import check_prior, load_prior
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import run_shards
from coevo_ray.store.artifact import FileEntry, Manifest, begin, describe, finish, write_table
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vector_column

Int64Array = npt.NDArray[np.int64]
# A shard travels between stages as one block; Ray Data would cut larger ones.
_BLOCK_BYTES = 48 << 20


def shared_set(pool: Pool, shared: float, seed: int) -> Int64Array:
    """The shared set: training rows chosen by hash.

    Args:
        shared: a share of the pool below 1, or a number of rows.

    Returns:
        int64[s], increasing.

    Raises:
        InputError: there are fewer than 4 such rows, or fewer training rows than asked for.
    """
    train = pool.train_ids()
    count = int(shared) if shared >= 1 else round(shared * len(pool))
    if count < 4 or count > len(train):
        raise InputError(
            f"the shared set would have {count} rows of {len(train)} training rows; 4 are the least",
            "raise encode.shared (twice encode.dim rows or more align well), or give more training rows",
        )
    return choose_rows(train, count, seed)


def encode(
    config: EncodeConfig | dict[str, Any], pool: Pool | str | os.PathLike[str], out: str | os.PathLike[str] | Location
) -> RowTable:
    """Encodes a pool with several priors and merges their contributions into targets.

    Args:
        config: priors, dimension, shared set; a dict is validated.
        pool: the pool or its path.
        out: folder that will hold `contributions/` and `targets/`.

    Returns:
        The target table: `row_id`, `target float16[dim]`, `prior uint8`.

    Raises:
        InputError: the pool is not there, a prior cannot be loaded, or too many rows were rejected.
        UsageError: a prior is unknown, a device is asked for that no node has, or settings were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    config = config if isinstance(config, EncodeConfig) else make_config(EncodeConfig, config, "encode")
    pool = pool if isinstance(pool, Pool) else Pool.open(pool)
    location = Location.parse(out)
    for prior in config.priors:
        check_prior(prior.name, prior.input_size)
    with ray_session():
        check_devices(config.compute)
        contributions = [
            contribute(config, pool, index, location.child("contributions", f"{index:02d}"))
            for index in range(len(config.priors))
        ]
        return merge(contributions, location.child("targets"), config)


def check_devices(compute: Compute) -> None:
    """Refuses a device that no node of the cluster has.

    Raises:
        UsageError: states what was asked for and what the largest node has.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray leaves it untyped
    nodes = [node["Resources"] for node in alive]
    for name, need in (("CPU", compute.cpus), ("GPU", compute.gpus)):
        have = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if need > have:
            raise UsageError(
                f"an actor needs {need:g} {name}s, the largest node of the Ray cluster has {have:g}",
                f"lower compute.{name.lower()}s, or start a node with more",
            )


def contribute(config: EncodeConfig, pool: Pool, index: int, location: Location) -> Location:
    """Makes one participant's contribution: projected features of its rows and of the shared set, and no images.

    Raises:
        InputError, UsageError, StoppedError: as `encode`.
    """
    prior = config.priors[index]
    content = {
        # The limit of rejects is not among them: it only ends jobs, and who raises it after that may continue.
        **config.model_dump(mode="json", include={"dim", "shared", "shard_rows", "seed"}),
        "prior": prior.model_dump(mode="json"),
        "weights": [p.weight for p in config.priors],
        "index": index,
    }
    inputs = {"pool": pool.manifest.identity}
    if begin(location, "contribution", content, inputs) is not None:
        return location
    plan = Plan(
        pool=pool.location,
        rows=len(pool),
        shared=shared_set(pool, config.shared, config.seed),
        weights=tuple(p.weight for p in config.priors),
        index=index,
        shard_rows=config.shard_rows,
        seed=config.seed,
    )
    _encode_contribution(config, prior, plan, location, content, inputs)
    return location


def _encode_contribution(
    config: EncodeConfig,
    prior: PriorConfig,
    plan: Plan,
    location: Location,
    content: dict[str, Any],
    inputs: dict[str, str],
) -> Manifest:
    started = time.monotonic()
    there = set(location.files())
    done = [s for s in range(plan.shards) if shard_name(s) in there]
    files = [describe(location, shard_name(s)) for s in done]
    todo = [s for s in range(plan.shards) if shard_name(s) not in there]
    compute = config.compute
    info = load_prior(prior.name, prior.input_size).info
    pixels = info.input_size**2 * 3
    if plan.shard_rows * pixels > _BLOCK_BYTES * 2:
        raise UsageError(
            f"encode.shard_rows {plan.shard_rows} at {info.input_size} px is {plan.shard_rows * pixels >> 20} MiB",
            f"lower encode.shard_rows to {_BLOCK_BYTES // pixels} or fewer",
        )

    def stages(dataset: ray.data.Dataset) -> ray.data.Dataset:
        decoded = dataset.map_batches(Decode(plan, info.input_size), batch_size=None, num_cpus=compute.reader_cpus)
        return decoded.map_batches(
            EncodeShard,
            fn_constructor_args=(prior, config.dim, config.seed, compute, location),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=compute.actors),
            num_cpus=compute.cpus,
            num_gpus=compute.gpus,
        )

    total = sum(len(plan.row_ids(s)[0]) for s in todo)
    rejects: list[Reject] = [r for s in done for r in read_shard_rejects(location, s)]
    encode_seconds = 0.0
    for row in run_shards(f"encode {prior.name}", todo, stages, total=total):
        files.append(row["result"])
        rejects += row["rejects"]
        encode_seconds += float(row["encode_seconds"])
    rows = sum(f.rows for f in files)
    check_share(rejects, rows + len(rejects), config.max_reject_fraction, str(location))
    seconds = time.monotonic() - started
    encoded_now = rows - sum(f.rows for f in files[: len(done)])
    summary = {
        "name": prior.name,
        "prior": {**info.__dict__},
        "shared_rows": len(plan.shared),
        "rows": rows,
        "rejected": len(rejects),
        "bytes_to_send": sum(f.bytes for f in files),
        "seconds": round(seconds, 3),
        "encode_seconds": round(encode_seconds, 3),
        "rows_per_s": round(encoded_now / encode_seconds, 1) if encode_seconds else 0.0,
    }
    files = [*files, *write_rejects(location, rejects)]
    return finish(location, "contribution", content, inputs, files, summary)


class Decode:
    """Ray Data stage: shard index -> decoded images uint8[rows, s, s, 3] with row_id and own flag.

    Args:
        plan: which rows.
        size: pixels of the prior's input.
    """

    def __init__(self, plan: Plan, size: int) -> None:
        self.plan, self.size = plan, size

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Reads and decodes one shard."""
        shard = int(batch["shard"][0])
        ids, own, shared = self.plan.row_ids(shard)
        table = Pool(self.plan.pool).read(ids, ["key", "image"])
        images = np.zeros((len(ids), self.size, self.size, 3), dtype=np.uint8)
        reasons = np.full(len(ids), "", dtype=object)
        for i, data in enumerate(table.column("image")):
            try:
                images[i] = decode_resized(data.as_py(), self.size)
            except ImageError as error:
                reasons[i] = error.reason
        empty = len(ids) == 0  # one row keeps the shard alive through the stages: an empty block would vanish
        return {
            "shard": np.full(max(1, len(ids)), shard),
            "row_id": np.array([-1]) if empty else ids,
            "own": np.array([False]) if empty else own,
            "shared": np.array([False]) if empty else shared,
            "key": np.array([""], dtype=object) if empty else np.array(table.column("key").to_pylist(), dtype=object),
            "image": np.zeros((1, self.size, self.size, 3), np.uint8) if empty else images,
            "reason": np.array([""], dtype=object) if empty else reasons,
        }


class EncodeShard:
    """Ray Data actor: decoded shard -> feature file; returns a small row about it.

    Args:
        prior: which prior model.
        dim: columns of the projection, n.
        seed: seed of the projection.
        compute: batch size and device.
        location: the contribution's folder.
    """

    def __init__(self, prior: PriorConfig, dim: int, seed: int, compute: Compute, location: Location) -> None:
        # Actors that take all cores each would slow one another down.
        torch.set_num_threads(max(1, round(compute.cpus)) if compute.gpus == 0 else 1)
        if compute.gpus > 0 and not torch.cuda.is_available():
            raise UsageError(
                "a GPU was asked for and PyTorch sees none", "install a CUDA build, or set compute.gpus: 0"
            )
        self.device = torch.device("cuda" if compute.gpus > 0 else "cpu")
        self.prior = load_prior(prior.name, prior.input_size)
        self.encoder = Encoder(self.prior, self.device, batch_rows=compute.batch_rows)
        self.projection = projection_matrix(self.prior.info.dim, dim, seed)
        self.location = location

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Encodes and writes one shard."""
        started = time.monotonic()
        shard = int(batch["shard"][0])
        if len(np.unique(batch["shard"])) != 1:
            raise InputError("Ray Data joined two shards into one block", "report this with the versions of doctor")
        present = batch["row_id"] >= 0
        features = self._encode(batch["image"][present])
        reasons = np.array(batch["reason"], dtype=object)[present]
        bad = (reasons == "") & ~finite_rows(features)
        reasons[bad] = f"feature is zero or not finite: {self.prior.info.name}"
        good = reasons == ""
        rejects = [Reject(str(k), "encode", str(r)) for k, r in zip(batch["key"][present], reasons, strict=True) if r]
        columns = {name: batch[name][present][good] for name in ("row_id", "own", "shared")}
        entry = self._write(shard, columns, features[good], rejects)
        return {
            "shard": [shard],
            "rows": [entry.rows],
            "result": [entry],
            "rejects": [rejects],
            "encode_seconds": [time.monotonic() - started],
        }

    def _encode(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return self.encoder.encode(np.ascontiguousarray(images))

    def _write(
        self,
        shard: int,
        columns: dict[str, npt.NDArray[Any]],
        features: npt.NDArray[np.float32],
        rejects: list[Reject],
    ) -> FileEntry:
        projected = project(features, self.projection) if len(features) else features @ self.projection
        table = pa.table({**columns, "feature": vector_column(projected)})
        write_shard_rejects(self.location, shard, rejects)
        return write_table(self.location, shard_name(shard), table, group_rows=4096)
