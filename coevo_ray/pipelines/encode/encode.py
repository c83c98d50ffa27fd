"""Encode: pool -> one contribution per prior, on Ray Data.

The prediction and random projection of each participant in CoOpt (arXiv 2505.14117): psi_k(x) W. A shard is a range of
row_ids. CPU tasks read it once and prepare the inputs of every prior; an actor pool for each prior encodes and
projects; CPU tasks write. Participants run side by side as far as the cluster has room, and a killed job repeats at
most the shards in flight.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pyarrow.parquet as pq
import ray

from coevo_ray.config import Compute, EncodeConfig, PriorConfig, SettingsLike, as_settings
from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.json import JsonObject
from coevo_ray.core.rows.hashing import choose_rows
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pipelines.encode.contribution import OWN, SHARED, Contribution, Plan, read_shard_rejects
from coevo_ray.pipelines.encode.forward import EncodeParts, Participant, device_of
from coevo_ray.pipelines.encode.prepare import Prepare
from coevo_ray.pipelines.encode.resources import settle, waves
from coevo_ray.pipelines.encode.write import WriteParts
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.rejects import Reject, check_share, write_rejects
from coevo_ray.priors.base import PriorInfo
from coevo_ray.priors.encoder import Precision, settle_precision
from coevo_ray.priors.inputs import PriorInput, Samples
from coevo_ray.priors.registry import check_prior, load_prior
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import ray_errors, run_shards
from coevo_ray.store.artifact import FileEntry, Manifest, begin, describe_all, finish
from coevo_ray.store.location import ArtifactLike, Location, Place

# Prepared inputs of a shard; a handful of shards is in flight for each actor.
_SHARD_BYTES = 64 << 20
_MOST_ROWS, _LEAST_ROWS = 4096, 64
# Small pools still fill every actor.
_LEAST_SHARDS = 8
_COUNTED_SHARDS = 512


def contribute(config: SettingsLike[EncodeConfig], pool: ArtifactLike, out: Place) -> Contribution:
    """Encodes one participant's rows, and the shared set: what others need to merge its targets with theirs.

    Args:
        config: one prior, dimension, shared set (a pool that all participants have, or rows of the pool); `part` for a
            part of the pool. A dict, or a YAML file.
        pool: the participant's pool, or its folder.
        out: folder of the contribution; it holds no images.

    Returns:
        The contribution.

    Raises:
        InputError: the pool is not there, a prior cannot be loaded, or too many rows were rejected.
        UsageError: there are several priors, one is unknown, a device is asked for that no node has, or settings were
            changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    config = as_settings(EncodeConfig, config, "encode")
    if len(config.priors) != 1:
        raise UsageError(f"a contribution of {len(config.priors)} priors", "give one, or call encode")
    location = Location.parse(out)
    with prepared(config, pool) as job:
        make_contributions(job, [location])
    return Contribution(location)


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
    shared = _shared(config, pool)
    with ray_session():
        computes = settle([config.compute_of(i) for i in range(len(config.priors))])
        yield Job(config, pool, samples, shared, computes)


def shared_set(pool: Pool, shared: float, seed: int) -> Int64Array:
    """The shared set of CoOpt (arXiv 2505.14117): training rows chosen by hash.

    Args:
        pool: the pool.
        shared: a share of the pool below 1, or a number of rows.
        seed: seed of the hash.

    Returns:
        int64[s] row_ids, increasing.

    Raises:
        InputError: there would be fewer than 4 rows, or more than the training rows.
    """
    train = pool.train_ids()
    count = int(shared) if shared >= 1 else round(shared * len(pool))
    if count < 4 or count > len(train):
        raise InputError(
            f"the shared set would have {count} rows of {len(train)} training rows; 4 are the least",
            "raise encode.shared (twice encode.dim rows or more align well), or give more training rows",
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
    """

    config: EncodeConfig
    pool: Pool
    samples: Samples
    shared: Pool | Int64Array
    computes: list[Compute]

    @property
    def shared_inputs(self) -> dict[str, str]:
        """Identity of the shared pool, if there is one."""
        return {"shared": self.shared.manifest.identity} if isinstance(self.shared, Pool) else {}

    def plan(self, shard_rows: int) -> Plan:
        """Returns the plan of rows, in shards of so many."""
        config, shared = self.config, self.shared
        part = config.part
        weights = tuple(p.weight for p in config.priors) if part is None else (1.0,) * part[1]
        common = (self.pool.location, len(self.pool), weights, shard_rows, config.seed)
        if isinstance(shared, Pool):
            return Plan(*common, shared_pool=shared.location, shared_rows=len(shared))
        return Plan(*common, shared=shared)

    def place(self, index: int) -> int:
        """A prior's position in the assignment of rows."""
        return index if self.config.part is None else self.config.part[0]


def _shared(config: EncodeConfig, pool: Pool) -> Pool | Int64Array:
    if not isinstance(config.shared, str):
        return shared_set(pool, config.shared, config.seed)
    shared = Pool.open(config.shared)
    have = (shared.modality, sorted(shared.features.items()))
    need = (pool.modality, sorted(pool.features.items()))
    if have[0] != need[0] or len(shared) < 4:
        raise InputError(
            f"the shared pool {config.shared} has {len(shared)} rows of {shared.samples.plural}, the pool holds "
            f"{pool.samples.plural}; "
            "4 rows are the least",
            "share a few rows of the same kind (twice encode.dim or more align well)",
        )
    return shared


def make_contributions(job: Job, locations: list[Location]) -> None:
    """Makes the contributions that are not finished, side by side as far as there is room.

    Args:
        job: priors, pool and shared set.
        locations: folder of each prior's contribution.

    Raises:
        InputError: a prior fails, or too many rows were rejected.
        UsageError: settings were changed.
        StoppedError: the store or the cluster failed.
    """
    inputs = {"pool": job.pool.manifest.identity, **job.shared_inputs}
    contents = [_content(job.config, index) for index in range(len(locations))]
    todo = [
        index
        for index, (at, content) in enumerate(zip(locations, contents, strict=True))
        if begin(at, "contribution", content, inputs) is None
    ]
    if not todo:
        return
    participants = _participants(job, locations)
    plan = job.plan(job.config.shard_rows or _shard_rows(len(job.pool), [p.input for p in participants]))
    for wave in waves([participants[index] for index in todo], lambda who: who.compute):
        results = encode_wave(plan, wave, f"encode {', '.join(who.prior.label for who in wave)}")
        for who in wave:
            content = contents[locations.index(who.location)]
            _finish(job, plan, who, results[who.place], content, inputs)


def _content(config: EncodeConfig, index: int) -> JsonObject:
    """The settings that identify a contribution; the limit of rejects may be raised to continue a job that it ended."""
    settings = config.model_dump(mode="json", include={"dim", "shared", "shard_rows", "seed", "precision"})
    if isinstance(config.shared, str):
        settings["shared"] = "a pool of its own"  # identified among the inputs; its path may change
    part = config.part
    return {
        **settings,
        "prior": config.priors[index].model_dump(mode="json", include={"name", "input_size"}),
        "weights": [p.weight for p in config.priors] if part is None else [1.0] * part[1],
        "index": index if part is None else part[0],
    }


def _participants(job: Job, locations: list[Location]) -> list[Participant]:
    """All priors are loaded once, on the cluster, for their cards: the driver's machine may be too small for them."""
    config = job.config
    load = ray.remote(_card)
    waiting = [
        load.options(num_cpus=compute.cpus, num_gpus=compute.gpus).remote(prior, job.samples, config.precision, compute)
        for prior, compute in zip(config.priors, job.computes, strict=True)
    ]
    with ray_errors("load priors"):
        cards = ray.get(waiting)
    return [
        Participant(
            place=job.place(index),
            prior=prior,
            info=info,
            input=taken,
            samples=job.samples,
            dim=config.dim,
            seed=config.seed,
            precision=precision,
            compile=config.compile,
            compute=job.computes[index],
            location=locations[index],
        )
        for index, (prior, (info, taken, precision)) in enumerate(zip(config.priors, cards, strict=True))
    ]


def _card(
    prior: PriorConfig, samples: Samples, precision: Precision, compute: Compute
) -> tuple[PriorInfo, PriorInput, Precision]:
    """Ray task with the resources of the prior's actors: card, input and settled precision."""
    settled = settle_precision(device_of(compute), precision)
    loaded = load_prior(prior.name, prior.input_size, samples)
    return loaded.info, loaded.input, settled


def _shard_rows(rows: int, inputs: list[PriorInput]) -> int:
    """Rows of a shard, a multiple of 64: prepared inputs have bounded bytes, and there are shards for all actors."""
    row_bytes = max(_row_bytes(spec) for spec in inputs)
    most = min(_SHARD_BYTES // row_bytes, -(-rows // _LEAST_SHARDS), _MOST_ROWS)
    return max(_LEAST_ROWS, most // _LEAST_ROWS * _LEAST_ROWS)


def _row_bytes(spec: PriorInput) -> int:
    return int(np.prod(spec.shape)) * spec.dtype.itemsize


@dataclass
class Made:
    """Result of one participant in a wave.

    Attributes:
        files: files of its contribution.
        rejects: its rejected rows.
        resumed: rows in files of an earlier attempt.
        times: stage -> seconds of work, over all tasks and actors.
        bytes_read, bytes_moved: see `parts.Part`.
        seconds: wall clock of the wave.
        startup: seconds until the first actor had loaded its model.
        side_by_side: number of participants in the wave.
    """

    files: list[FileEntry] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    resumed: int = 0
    times: Counter[str] = field(default_factory=Counter)
    bytes_read: int = 0
    bytes_moved: int = 0
    seconds: float = 0.0
    startup: float = 0.0
    side_by_side: int = 1


def encode_wave(plan: Plan, participants: list[Participant], title: str) -> dict[int, Made]:
    """Runs some participants side by side over one reading of the pool.

    Args:
        plan: the rows.
        participants: participants whose actors all fit into the cluster.
        title: shown during the run.

    Returns:
        Position of a participant -> its result.

    Raises:
        InputError: a prior fails.
        StoppedError: the store or the cluster failed.
    """
    started = time.time()
    made = {who.place: Made() for who in participants}
    missing = {who.place: _resume(plan, who.location, made[who.place]) for who in participants}
    reader_cpus = participants[0].compute.reader_cpus
    todo = sorted(set().union(*missing.values()))
    shards = [{"shard": s, "wanted": [k for k in made if s in missing[k]]} for s in todo]

    def stages(dataset: ray.data.Dataset) -> ray.data.Dataset:
        inputs = {who.place: who.input for who in participants}
        dataset = dataset.map_batches(Prepare(plan, inputs), batch_size=None, num_cpus=reader_cpus)
        for who in participants:
            dataset = dataset.map_batches(
                EncodeParts,
                fn_constructor_args=(who,),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=who.compute.actors),
                num_cpus=who.compute.cpus,
                num_gpus=who.compute.gpus,
            )
        write = WriteParts(plan, {who.place: who.location for who in participants})
        return dataset.map_batches(write, batch_size=None, batch_format="pyarrow", num_cpus=reader_cpus)

    for row in run_shards(title, shards, stages, total=_rows_to_do(plan, missing)):
        mine = made[row["participant"]]
        mine.files.append(row["result"])
        mine.rejects += row["rejects"]
        # Ray Data fills keys that a row lacks with None.
        mine.times.update({name: seconds for name, seconds in row["times"].items() if seconds is not None})
        mine.bytes_read += row["bytes_read"]
        mine.bytes_moved += row["bytes_moved"]
        ready = max(0.0, row["ready"] - started)
        mine.startup = min(mine.startup, ready) if mine.startup else ready
    seconds = time.time() - started
    for one in made.values():
        one.seconds, one.side_by_side = seconds, len(made)
    return made


def _rows_to_do(plan: Plan, missing: dict[int, set[int]]) -> int:
    """Rows to encode, estimated from a sample where there are many shards."""
    total = 0.0
    for place, shards in missing.items():
        sample = sorted(shards)[:: max(1, len(shards) // _COUNTED_SHARDS)]
        rows = sum(int(plan.row_ids(shard).wanted(place).sum()) for shard in sample)
        total += rows * len(shards) / max(1, len(sample))
    return round(total)


def _own_rows(location: Location, files: list[FileEntry]) -> int:
    """Rows that belong to the participant; of the small shared set the column `own` is read."""
    count = sum(f.rows for f in files if f.path.startswith(OWN))
    for file in files:
        if file.path.startswith(SHARED):
            place = location.child(file.path)
            column = pq.read_table(place.path, columns=["own"], filesystem=place.file_system).column("own")
            count += int(np.count_nonzero(column.to_numpy()))
    return count


def _resume(plan: Plan, location: Location, made: Made) -> set[int]:
    """Adopts the shards of an earlier attempt; returns the missing ones."""
    there = set(location.files())
    names = {shard: f"{plan.name(shard)}.parquet" for shard in range(plan.shards)}
    entries = describe_all(location, [name for name in names.values() if name in there])
    missing = set()
    for shard, name in names.items():
        entry = entries.get(name)
        rows = plan.row_ids(shard).ids if entry is not None and entry.rows else None
        # Another version may have cut shards differently: such a file is written again.
        if entry is None or (rows is not None and not rows[0] <= entry.first_row_id <= entry.last_row_id <= rows[-1]):
            missing.add(shard)
            continue
        made.files.append(entry)
        made.rejects += read_shard_rejects(location, plan.name(shard))
        made.resumed += entry.rows
    return missing


def _finish(
    job: Job, plan: Plan, who: Participant, made: Made, content: JsonObject, inputs: dict[str, str]
) -> Manifest:
    rows = sum(f.rows for f in made.files)
    check_share(made.rejects, rows + len(made.rejects), job.config.max_reject_fraction, str(who.location))
    busy, waiting = made.times["encode"] + made.times["project"], made.times["waiting"]
    summary = {
        "name": who.prior.name,
        "prior": {**who.info.__dict__},
        "precision": who.precision,
        "projection_seed": who.seed,
        "pool_rows": plan.rows,
        "shared_rows": plan.shared_rows or len(plan.shared),
        "rows": _own_rows(who.location, made.files),
        "encoded_rows": rows,
        "rejected": len(made.rejects),
        "shard_rows": plan.shard_rows,
        "bytes_to_send": sum(f.bytes for f in made.files),
        "bytes_read": made.bytes_read,
        "bytes_moved": made.bytes_moved,
        "seconds": round(made.seconds, 3),
        "side_by_side": made.side_by_side,
        "startup_seconds": round(made.startup, 3),
        "stage_seconds": {name: round(seconds, 3) for name, seconds in sorted(made.times.items())},
        "waiting_share": round(waiting / (waiting + busy), 4) if busy else None,
        "rows_per_s": round((rows - made.resumed) / made.times["encode"], 1) if made.times["encode"] else 0.0,
    }
    files = [*made.files, *write_rejects(who.location, made.rejects)]
    return finish(who.location, "contribution", content, inputs, files, summary)
