"""Encode: pool -> one contribution per prior, on Ray Data.

The prediction and random projection of each participant in CoOpt (arXiv 2505.14117): psi_k(x) W. A shard is a range of
row_ids. CPU tasks read it once and prepare the inputs of every prior; an actor pool for each prior encodes and
projects; CPU tasks write. Participants run in parallel as far as the cluster allows, and a killed job repeats at most
the shards in flight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from coevo_ray.config import Compute, EncodeConfig, PriorConfig, SettingsLike, as_settings
from coevo_ray.core.alignment.components import Components
from coevo_ray.core.alignment.consensus import quality_shares
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pipelines.encode.assignment import settle_weights
from coevo_ray.pipelines.encode.contribution import Contribution, Plan
from coevo_ray.pipelines.encode.finish import finish_contribution
from coevo_ray.pipelines.encode.fitted import fit_priors
from coevo_ray.pipelines.encode.forward import Participant, device_of
from coevo_ray.pipelines.encode.job import Job, like_targets, prepared, settle_form
from coevo_ray.pipelines.encode.joined import SharedFit
from coevo_ray.pipelines.encode.like import Like
from coevo_ray.pipelines.encode.resources import settle, waves
from coevo_ray.pipelines.encode.shared import encode_shared, mark_owners, write_components
from coevo_ray.pipelines.encode.wave import Made, encode_wave
from coevo_ray.pool.stages import pool_for
from coevo_ray.priors.base import PriorInfo
from coevo_ray.priors.encoder import Precision, settle_precision
from coevo_ray.priors.inputs import PriorInput, Samples
from coevo_ray.priors.registry import load_prior
from coevo_ray.progress import say
from coevo_ray.runtime.resources import Need
from coevo_ray.runtime.session import check_nodes
from coevo_ray.runtime.shards import ray_errors
from coevo_ray.runtime.tasks import start_task, task_result
from coevo_ray.store.artifact import begin
from coevo_ray.store.consensus_files import file_name, to_bytes
from coevo_ray.store.digests import digest
from coevo_ray.store.location import ArtifactLike, Location, Place
from coevo_ray.store.writing import writing_all

# Prepared inputs of a shard; a handful of shards is in flight for each actor.
_SHARD_BYTES = 64 << 20
_MOST_ROWS, _LEAST_ROWS = 4096, 64
# Small pools still fill every actor.
_LEAST_SHARDS = 8
_WIDEST = 16_384  # dimensions of features: the largest covariance takes 2 GB in float64, and minutes to decompose


def contribute(
    config: SettingsLike[EncodeConfig], pool: ArtifactLike, out: Place, like: ArtifactLike | None = None
) -> Contribution:
    """Encodes one participant's rows and the shared set, which others need to merge its targets with theirs.

    Args:
        config: one prior, dimension, shared set (a pool that all participants have, or rows of the pool); `part` for a
            part of the pool. A dict, or a YAML file.
        pool: the participant's pool, or its folder.
        out: folder of the contribution; it holds no images.
        like: targets of another pool, or their folder, whose space is used; as `like` among the settings.

    Returns:
        The contribution.

    Raises:
        InputError: the pool is not there, a prior cannot be loaded, or too many rows were rejected.
        UsageError: there are several priors, one is unknown, a device is asked for that no node has, or settings were
            changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    config = like_targets(as_settings(EncodeConfig, config, "encode"), like)
    if len(config.priors) != 1:
        raise UsageError(f"a contribution of {len(config.priors)} priors", "give one, or call encode")
    pool, location = pool_for("contribute", pool), Location.parse(out)
    config = settle_form(config, location, pool)
    with prepared(config, pool) as job:
        make_contributions(job, [location])
    return Contribution(location)


def make_contributions(job: Job, locations: list[Location], *, merged: bool = False) -> SharedFit | None:
    """Makes the contributions that are not finished, side by side as far as there is room.

    Args:
        job: priors, pool and shared set.
        locations: folder of each prior's contribution.
        merged: whether these alone will be merged, so that their priors need as many features as the latent.

    Returns:
        The consensus of these contributions, if rows were assigned by it in this call: a merge need not fit it again.

    Raises:
        InputError: a prior fails, the priors have too few features, or too many rows were rejected.
        UsageError: settings were changed.
        StoppedError: the store or the cluster failed.
    """
    with writing_all(locations):
        return _make_contributions(job, locations, merged)


def _make_contributions(job: Job, locations: list[Location], merged: bool) -> SharedFit | None:
    inputs = {"pool": job.pool.manifest.identity, **job.shared_inputs}
    contents = [_content(job.config, index) for index in range(len(locations))]
    todo = [
        index
        for index, (at, content) in enumerate(zip(locations, contents, strict=True))
        if begin(at, "contribution", content, inputs) is None
    ]
    if not todo:
        return None
    check_nodes(writes=[locations[index] for index in todo])
    participants = _participants(job, locations, [digest([content, inputs]) for content in contents])
    plan = job.plan(job.config.shard_rows or _shard_rows(len(job.pool), [p.input for p in participants]))
    fitted = None
    if merged and job.config.form == "components" and job.like is None:
        _refuse_narrow(participants, job.config.dim)
    if job.config.form == "random":
        results = _passes(plan, range(plan.shards), [participants[index] for index in todo])
    else:
        plan, results, fitted = _encode_by_components(job, plan, participants, todo)
    for index in todo:
        who = participants[index]
        finish_contribution(job, plan, who, results[who.place], contents[index], inputs)
    return fitted


def _encode_by_components(
    job: Job, plan: Plan, participants: list[Participant], todo: list[int]
) -> tuple[Plan, dict[int, Made], SharedFit | None]:
    """Encodes the shared set by all priors, then the pool by the unfinished ones, with what the shared set taught."""
    config, fitted = job.config, None
    _refuse_wide(participants)
    if job.like is not None:
        return *_encode_like(job, job.like, plan, participants, todo), None
    shared: dict[int, tuple[Made, Components]] = {}
    for wave in waves(participants, lambda who: who.compute):
        shared |= encode_shared(plan, wave, config.kept)
    if config.assignment == "quality" and len(participants) > 1:
        labels, places = [who.prior.label for who in participants], [who.location for who in participants]
        weights, fitted = settle_weights(plan, places, labels, config.dim, config.seed)
        plan = replace(plan, weights=weights)
        for i in todo:
            mark_owners(plan, participants[i], *shared[participants[i].place])
    waiting = {participants[i].place for i in todo}
    busy = _with_rows(job, plan, participants)
    _say_cost(plan, busy, shared)
    ready = [replace(who, components=shared[who.place][1]) for who in busy if who.place in waiting]
    results = {place: shared[place][0] for place in waiting}
    for place, made in _passes(plan, range(plan.own_shards), ready).items():
        results[place].add(made)
    return plan, results, fitted


def _refuse_wide(participants: Sequence[Participant]) -> None:
    """Refuses features whose covariance, d x d, would take minutes to hours and gigabytes."""
    for who in participants:
        if who.info.dim > _WIDEST:
            raise InputError(
                f"{who.prior.label} has features of {who.info.dim:,} dimensions, need {_WIDEST:,} or fewer",
                "reduce them before ingest, for instance by random projections (sklearn.random_projection), or set "
                "encode.projection to random",
            )


def _refuse_narrow(participants: Sequence[Participant], dim: int) -> None:
    """Refuses before any work a latent of more dimensions than the priors have features."""
    have = sum(who.info.dim for who in participants)
    if have < dim:
        names = ", ".join(f"{who.prior.label} {who.info.dim:,}" for who in participants)
        raise InputError(
            f"a latent of {dim} dimensions needs as many features, the priors have {have:,} ({names})",
            f"set encode.dim to {have} or fewer" if have > 1 else "add a prior with more features",
        )


def _encode_like(
    job: Job, like: Like, plan: Plan, participants: list[Participant], todo: list[int]
) -> tuple[Plan, dict[int, Made]]:
    """Encodes the pool with the components of targets that are there; each contribution carries its map."""
    places = [like.place(who.prior.label, who.info.weights) for who in participants]
    if job.config.assignment == "quality" and len(participants) > 1:
        weights = [like.stored.consensus.priors[place].weight for place in places]
        shares = quality_shares(weights, plan.coverage)
        plan = replace(plan, weights=tuple(w * s for w, s in zip(plan.weights, shares, strict=True)))
    busy = {who.place: who for who in _with_rows(job, plan, participants)}
    ready, results = [], {participants[index].place: Made() for index in todo}
    for index in todo:
        who, components = participants[index], like.stored.components[places[index]]
        write_components(who.location, components)
        carried = to_bytes(like.stored.only(places[index]))
        who.location.child(file_name(carried)).write_bytes(carried)
        if who.place in busy:
            ready.append(replace(busy[who.place], components=components))
    return plan, results | _passes(plan, range(plan.own_shards), ready)


def _with_rows(job: Job, plan: Plan, participants: list[Participant]) -> list[Participant]:
    """The participants that encode more than the shared set; the cluster is theirs alone."""
    seats = [seat for seat, who in enumerate(participants) if plan.weights[who.place] > 0]
    computes = settle([job.config.compute_of(seat) for seat in seats])
    return [replace(participants[seat], compute=compute) for seat, compute in zip(seats, computes, strict=True)]


def _say_cost(plan: Plan, busy: list[Participant], shared: Mapping[int, tuple[Made, Components]]) -> None:
    """Reports the estimated cost of the pool, by the speed of the shared set."""
    each = min(plan.coverage, len(busy))
    rows = plan.rows - len(plan.shared)
    passes = each * rows
    if not passes:
        say("no forward passes are left: every prior has encoded all rows, as the shared set")
        return
    speeds = [
        made.times["encode"] / encoded
        for made, _ in (shared[who.place] for who in busy)
        if (encoded := sum(f.rows for f in made.files) - made.resumed) > 0
    ]
    actors = sum(who.compute.actors for who in busy)
    took = ""
    if speeds:
        minutes = passes * np.mean(speeds) / actors / 60
        about = f"about {minutes:,.0f} minutes" if minutes >= 1.5 else "about a minute or less"
        took = f"; {about} by the shared set's speed"
    of = f"the {rows:,} rows outside the shared set" if len(plan.shared) else f"{rows:,} rows"
    say(f"{passes:,} forward passes for {of}, {each} of {len(plan.weights)} priors a row{took}")


def _passes(plan: Plan, shards: Sequence[int], participants: list[Participant]) -> dict[int, Made]:
    """Encodes some shards by all participants, side by side as far as the cluster has room."""
    results: dict[int, Made] = {}
    for wave in waves(participants, lambda who: who.compute):
        results |= encode_wave(plan, shards, wave, f"encode {', '.join(who.prior.label for who in wave)}")
    return results


def _content(config: EncodeConfig, index: int) -> JsonObject:
    """The settings that identify a contribution; the limit of rejects may be raised to continue a job that it ended."""
    settings = config.model_dump(mode="json", include={"dim", "shared", "shard_rows", "seed", "precision"})
    if config.like is not None:
        del settings["shared"]  # the space is among the inputs
    elif isinstance(config.shared, str):
        settings["shared"] = "a pool of its own"  # identified among the inputs; its path may change
    if config.form != "random":  # the published form has the settings of version 0.1.0
        settings |= {"projection": config.form, "components": config.kept, "coverage": config.coverage}
        settings |= {"assign": config.assignment}
    part = config.part
    return {
        **settings,
        "prior": config.priors[index].model_dump(mode="json", include={"name", "input_size"}),
        "weights": [p.weight for p in config.priors] if part is None else [1.0] * part[1],
        "index": index if part is None else part[0],
    }


def _participants(job: Job, locations: list[Location], made_of: list[str]) -> list[Participant]:
    """All priors are loaded once, on the cluster, for their cards: the driver's machine may be too small for them."""
    config = job.config
    states = fit_priors(job, locations, made_of)
    waiting = []
    for prior, compute, state in zip(config.priors, job.computes, states, strict=True):
        title, need = f"load {prior.label}", Need("actor", compute.cpus, compute.gpus)
        given = (prior, job.samples, config.precision, compute, state)
        waiting.append((title, start_task(title, _card, *given, need=need)))
    with ray_errors("load priors"):
        cards = [task_result(title, card, computes=False) for title, card in waiting]  # weights may come over a network
    return [
        Participant(
            place=job.place(index),
            prior=prior,
            info=info,
            input=taken,
            samples=job.samples,
            keep="projection" if config.form == "random" else "components",
            dim=config.dim,
            seed=config.seed,
            precision=precision,
            compile=config.compile,
            compute=job.computes[index],
            location=locations[index],
            made_of=made_of[index],
            state=states[index],
        )
        for index, (prior, (info, taken, precision)) in enumerate(zip(config.priors, cards, strict=True))
    ]


def _card(
    prior: PriorConfig, samples: Samples, precision: Precision, compute: Compute, state: Location | None
) -> tuple[PriorInfo, PriorInput, Precision]:
    """Ray task with the resources of the prior's actors: card, input and settled precision."""
    settled = settle_precision(device_of(compute), precision)
    loaded = load_prior(prior.name, prior.input_size, samples, state)
    return loaded.info, loaded.input, settled


def _shard_rows(rows: int, inputs: list[PriorInput]) -> int:
    """Rows of a shard, a multiple of 64: prepared inputs have bounded bytes, and there are shards for all actors."""
    row_bytes = max(_row_bytes(spec) for spec in inputs)
    most = min(_SHARD_BYTES // row_bytes, -(-rows // _LEAST_SHARDS), _MOST_ROWS)
    return max(_LEAST_ROWS, most // _LEAST_ROWS * _LEAST_ROWS)


def _row_bytes(spec: PriorInput) -> int:
    return int(np.prod(spec.shape)) * spec.dtype.itemsize
