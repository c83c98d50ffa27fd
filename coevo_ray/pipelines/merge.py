"""Merge: contributions -> aligned targets (CoOpt, arXiv 2505.14117, DESIGN section 5.1, steps 2-4).

Needs no images and no priors, so anyone can merge what participants on different clusters have made.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
from safetensors.numpy import save as save_safetensors

from coevo_ray.config import EncodeConfig
from coevo_ray.core.alignment import Alignment, align, few_rows_warning, fit_alignment, identity_alignment
from coevo_ray.core.uniformity import uniformity
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.rejects import read_rejects, write_rejects
from coevo_ray.progress import say
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import run_shards
from coevo_ray.store.artifact import FileEntry, begin, describe, finish, write_blob, write_table
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vector_column, vectors

# The pair-wise mean of the uniformity settles with a few thousand rows; its cost grows with their square.
_UNIFORMITY_ROWS = 4096
# Equal vectors have a uniformity of 0; -0.05 is a mean squared distance of about 0.025 between unit vectors.
_COLLAPSED = -0.05


@dataclass(frozen=True)
class _Participant:
    """One contribution, ready for alignment."""

    name: str
    table: RowTable
    shared_ids: npt.NDArray[np.int64]
    shared: npt.NDArray[np.float32]
    uniformity: float


def merge(
    contributions: Sequence[str | os.PathLike[str] | Location],
    out: str | os.PathLike[str] | Location,
    config: EncodeConfig,
) -> RowTable:
    """Aligns contributions to the reference prior and writes the target table.

    Args:
        contributions: folders of contributions over the same pool and shared set.
        out: folder of the targets.
        config: reference and alignment method.

    Returns:
        The target table: `row_id`, `target float16[dim]`, `prior uint8` (the place in `contributions`).

    Raises:
        InputError: a contribution is missing, or they do not belong together.
        UsageError: the reference is unknown, or settings were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    location = Location.parse(out)
    tables = [RowTable(Location.parse(c), "contribution") for c in contributions]
    _check_together(tables)
    _check_reference([t.manifest.summary["name"] for t in tables], config.reference)
    content = config.model_dump(mode="json", include={"reference", "alignment", "seed"})
    inputs = {t.manifest.summary["name"]: t.manifest.identity for t in tables}
    if begin(location, "targets", content, inputs) is not None:
        return RowTable(location, "targets")
    with ray_session():
        _merge(tables, location, config, content, inputs)
    return RowTable(location, "targets")


def contribution_names(contributions: Sequence[str | Location]) -> list[str]:
    """Names of the priors of some contributions.

    Raises:
        InputError: a contribution is missing.
    """
    return [RowTable(Location.parse(c), "contribution").manifest.summary["name"] for c in contributions]


def _merge(
    tables: list[RowTable], location: Location, config: EncodeConfig, content: dict[str, Any], inputs: dict[str, str]
) -> None:
    started = time.monotonic()
    participants = _participants(tables)
    reference = _reference(participants, config.reference)
    alignments = [_align(p, participants[reference], config) for p in participants]
    matrices = {f"alignment.{i}": a.matrix for i, a in enumerate(alignments)}
    blob = write_blob(location, "alignment.safetensors", save_safetensors(matrices))
    files = _write_targets(tables, [a.matrix for a in alignments], location)
    rejects = {r for t in tables for r in read_rejects(t.location)}
    reject_files = write_rejects(location, rejects)
    priors = [_card(p, a, i == reference) for i, (p, a) in enumerate(zip(participants, alignments, strict=True))]
    summary = {
        "reference": participants[reference].name,
        "dim": int(alignments[0].matrix.shape[0]),
        "shared_rows": len(participants[reference].shared),
        "projection_seed": tables[0].manifest.config["seed"],
        "priors": priors,
        "warnings": _warnings(participants),
        "rejected": len(rejects),
        "bytes_stored": sum(f.bytes for f in files),
        "seconds": round(time.monotonic() - started, 3),
    }
    card = write_blob(location, "card.json", (json.dumps(_without_times(summary), indent=2) + "\n").encode())
    finish(location, "targets", content, inputs, [*files, *reject_files, blob, card], summary)


def _check_together(tables: list[RowTable]) -> None:
    if not tables:
        raise InputError("no contributions to merge", "give the folder of each participant's contribution")
    first = tables[0].manifest
    for table in tables[1:]:
        there = table.manifest
        for name in ("dim", "shared", "shard_rows", "seed", "weights"):
            if there.config[name] != first.config[name]:
                raise InputError(
                    f"contributions differ in {name}: {first.config[name]} at {tables[0].location}, "
                    f"{there.config[name]} at {table.location}",
                    "encode them with the same settings",
                )
        if there.inputs != first.inputs:
            raise InputError(
                f"{table.location} was made from another pool than {tables[0].location}",
                "encode all contributions from the same pool",
            )
    have, need = sorted(t.manifest.config["index"] for t in tables), len(first.config["weights"])
    if have != list(range(need)):
        raise InputError(
            f"contributions of participants {have}, need each of {list(range(need))} once: rows would be "
            f"{'doubled' if len(set(have)) < len(have) else 'missing'}",
            "give one contribution of every participant",
        )


def _participants(tables: list[RowTable]) -> list[_Participant]:
    """Reads every participant's features of the shared rows that all of them have."""
    ids = [t.row_ids()[t.column("shared").to_numpy().astype(bool)] for t in tables]
    common = ids[0]
    for other in ids[1:]:
        common = np.intersect1d(common, other, assume_unique=True)
    participants = []
    for table in tables:
        shared = vectors(table.read(common, ["feature"]).column("feature"))
        # Shared rows come in row_id order, which says nothing about content: the first ones are a fair sample.
        v = uniformity(shared[:_UNIFORMITY_ROWS])
        participants.append(_Participant(table.manifest.summary["name"], table, common, shared, v))
    return participants


def _reference(participants: list[_Participant], wanted: str | None) -> int:
    if wanted is None:
        return int(np.argmin([p.uniformity for p in participants]))
    return [p.name for p in participants].index(wanted)


def _check_reference(names: list[str], wanted: str | None) -> None:
    if wanted is not None and wanted not in names:
        raise UsageError(f"reference {wanted!r} is not among the contributions {names}", "name one of them")


def _warnings(participants: list[_Participant]) -> list[str]:
    """What a user should know of the targets; also said at once."""
    few = few_rows_warning(*participants[0].shared.shape)
    warnings = [few] if few else []
    warnings += [
        f"{p.name} gives nearly the same features for all images (uniformity {p.uniformity:.3f}, 0 is constant): "
        "its targets say little; check its weights and preprocessing, or leave it out"
        for p in participants
        if p.uniformity > _COLLAPSED
    ]
    for warning in warnings:
        say(f"warning: {warning}")
    return warnings


def _align(participant: _Participant, reference: _Participant, config: EncodeConfig) -> Alignment:
    if participant is reference:
        return identity_alignment(participant.shared.shape[1])
    return fit_alignment(
        participant.shared, reference.shared, method=config.alignment, seed=config.seed, row_ids=participant.shared_ids
    )


def _card(participant: _Participant, alignment: Alignment, is_reference: bool) -> dict[str, Any]:
    made = participant.table.manifest.summary
    kept = ("name", "rows", "rejected", "rows_per_s", "seconds", "bytes_to_send", "prior")
    return {
        **{name: made[name] for name in kept},
        "uniformity": round(participant.uniformity, 6),
        "alignment_r2": round(float(alignment.r2), 6),
        "alignment_ridge": float(alignment.ridge),
        "reference": is_reference,
    }


def _without_times(summary: dict[str, Any]) -> dict[str, Any]:
    """The card: the identity of the targets covers it, and must not change when the same targets are made again."""
    times = ("seconds", "rows_per_s")
    priors = [{k: v for k, v in prior.items() if k not in times} for prior in summary["priors"]]
    return {**{k: v for k, v in summary.items() if k not in times}, "priors": priors}


def _write_targets(
    tables: list[RowTable], matrices: list[npt.NDArray[np.float32]], location: Location
) -> list[FileEntry]:
    names = sorted({f.path for t in tables for f in t.files})
    there = set(location.files())
    files = [describe(location, name) for name in names if name in there]
    locations = [t.location for t in tables]

    def write(row: dict[str, Any]) -> dict[str, Any]:
        entry = _write_shard([RowTable(at) for at in locations], matrices, location, names[row["shard"]])
        return {"rows": entry.rows, "result": entry}

    def stages(dataset: ray.data.Dataset) -> ray.data.Dataset:
        return dataset.map(write, num_cpus=0.5)

    todo = [i for i, name in enumerate(names) if name not in there]
    return [*files, *(row["result"] for row in run_shards("align targets", todo, stages))]


def _write_shard(
    tables: list[RowTable], matrices: list[npt.NDArray[np.float32]], location: Location, name: str
) -> FileEntry:
    row_ids, targets, priors = [], [], []
    for index, (table, matrix) in enumerate(zip(tables, matrices, strict=True)):
        for position, file in enumerate(table.files):
            if file.path != name:
                continue
            for part in table.iter_file(position, ["own", "feature"]):
                own = part.filter(part.column("own"))
                if own.num_rows:
                    row_ids.append(own.column("row_id").to_numpy())
                    targets.append(align(vectors(own.column("feature")), matrix))
                    priors.append(np.full(own.num_rows, index, dtype=np.uint8))
    order = np.argsort(np.concatenate(row_ids)) if row_ids else np.zeros(0, dtype=np.int64)
    if not row_ids:
        return write_table(location, name, pa.table({"row_id": pa.array([], pa.int64())}))
    columns = {
        "row_id": np.concatenate(row_ids)[order],
        "target": vector_column(np.concatenate(targets)[order]),
        "prior": np.concatenate(priors)[order],
    }
    return write_table(location, name, pa.table(columns), group_rows=4096)
