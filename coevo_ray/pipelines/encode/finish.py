"""The last step of a contribution: its figures and its manifest."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq

from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError
from coevo_ray.pipelines.encode.contribution import COMPONENTS, OWN, SHARED, Plan
from coevo_ray.pipelines.encode.fitted import state_files
from coevo_ray.pipelines.encode.forward import Participant
from coevo_ray.pipelines.encode.job import Job
from coevo_ray.pipelines.encode.shared import read_components
from coevo_ray.pipelines.encode.wave import Made
from coevo_ray.pool.rejects import check_share, write_rejects
from coevo_ray.priors.inputs import CUT, TEXTS, TOKENS
from coevo_ray.store.artifact import finish
from coevo_ray.store.consensus_files import PREFIX as CONSENSUS
from coevo_ray.store.data_files import describe
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import FileEntry, Manifest


def _describe_components(plan: Plan, who: Participant) -> JsonObject:
    components = read_components(who.location)
    if components is None:
        raise InputError(f"{who.location} has lost its components", "delete the folder and encode again")
    return {
        "projection": "components",
        "components": components.directions.shape[1],
        "explained_variance": round(components.explained, 4),
        "bytes_per_row": 2 * components.directions.shape[1],
        "weights": list(plan.weights),
        "coverage": plan.coverage,
    }


def _describe_texts(made: Made) -> JsonObject:
    """Figures of tokens, of the texts that this attempt encoded; empty for priors without tokens."""
    tokens, seconds = made.counts[TOKENS], made.times["encode"]
    if not made.counts[TEXTS]:
        return {}
    return {
        "tokens": tokens,
        "tokens_per_s": round(tokens / seconds, 1) if seconds else 0.0,
        "cut_texts": made.counts[CUT],
        "cut_share": round(made.counts[CUT] / made.counts[TEXTS], 6),
    }


def _own_rows(plan: Plan, location: Location, files: list[FileEntry]) -> int:
    """Rows that belong to the participant; the column `own` is read where a file may hold others."""
    count = 0
    for file in files:
        if file.path.startswith(OWN) and plan.coverage == 1:
            count += file.rows
        elif file.path.startswith((OWN, SHARED)):
            place = location.child(file.path)
            column = pq.read_table(place.path, columns=["own"], filesystem=place.file_system).column("own")
            count += int(np.count_nonzero(column.to_numpy()))
    return count


def finish_contribution(
    job: Job, plan: Plan, who: Participant, made: Made, content: JsonObject, inputs: dict[str, str]
) -> Manifest:
    """Writes the manifest of a contribution whose files are all there.

    Args:
        job: of the call.
        plan: the rows, with the settled weights.
        who: the participant.
        made: its files, rejects and figures.
        content, inputs: as in `Manifest`.

    Raises:
        InputError: too many rows were rejected.
        StoppedError: the store refused.
    """
    rows = sum(f.rows for f in made.files)
    check_share(made.rejects, rows + len(made.rejects), job.config.max_reject_fraction, str(who.location))
    waiting = made.waiting_share
    summary = {
        "name": who.prior.name,
        "prior": {**who.info.__dict__},
        "precision": who.precision,
        "projection_seed": who.seed,
        "pool_rows": plan.rows,
        **({} if who.keep == "projection" else _describe_components(plan, who)),
        "shared_rows": plan.shared_rows or len(plan.shared),
        "rows": _own_rows(plan, who.location, made.files),
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
        "waiting_share": None if waiting is None else round(waiting, 4),
        "rows_per_s": round((rows - made.resumed) / made.times["encode"], 1) if made.times["encode"] else 0.0,
        **_describe_texts(made),
    }
    files = [*made.files, *write_rejects(who.location, made.rejects)]
    files += [describe(who.location, name) for name in state_files(who.location)]
    if who.keep == "components":
        files.append(describe(who.location, COMPONENTS))
    if job.like is not None:
        files += [describe(who.location, name) for name in who.location.files() if name.startswith(CONSENSUS)]
        summary |= {"latent_of": list(job.like.stored.founders), "space": job.like.stored.space}
    return finish(who.location, "contribution", content, inputs, files, summary)
