"""Merge: contributions -> aligned targets (CoOpt, arXiv 2505.14117: uniformity V_k, reference prior, alignment T_k).

A merge needs no images and no priors, so that anyone can merge contributions from different clusters. Files of targets
are named after a hash of their inputs: a merge with one more contribution writes only the files that change, and the
former targets stay valid until the new manifest replaces theirs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from coevo_ray.config import MergeConfig, SettingsLike, as_settings
from coevo_ray.core.alignment.alignment import Alignment, align, fit_alignment, identity_alignment
from coevo_ray.core.alignment.uniformity import uniformity
from coevo_ray.core.arrays import Arrays, Float32Array, Int64Array
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError
from coevo_ray.pipelines.encode.contribution import Contribution
from coevo_ray.pipelines.merge.card import card_files, describe_targets
from coevo_ray.pipelines.merge.check import Group, check_together, find_reference, group_by_pool, prior_label
from coevo_ray.pool.rejects import read_rejects, write_rejects
from coevo_ray.progress import say
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import Row, run_shards
from coevo_ray.store.artifact import FileEntry, begin, begin_more, describe_all, digest, finish, write_blob, write_table
from coevo_ray.store.location import ArtifactLike, Location, Place
from coevo_ray.store.row_table import RowTable, vector_column, vectors

# The pairwise mean of the uniformity converges within a few thousand rows; its cost grows with their square.
_UNIFORMITY_ROWS = 4096
_FILE_ROWS = 65_536
_GROUP_ROWS = 4096
_ALIGNMENT = "alignment.safetensors"


@dataclass(frozen=True)
class Participant:
    """One contribution, ready for alignment.

    Attributes:
        name: of its prior, with the input size where one was chosen.
        table: the contribution.
        shared_ids: int64[s], encoded rows of the shared set.
        shared: float32[s, n].
        uniformity: V_k on these rows (CoOpt, arXiv 2505.14117).
    """

    name: str
    table: Contribution
    shared_ids: Int64Array
    shared: Float32Array
    uniformity: float


def merge(
    contributions: Sequence[ArtifactLike],
    out: Place,
    config: SettingsLike[MergeConfig] | None = None,
) -> RowTable:
    """Aligns contributions to the reference prior and writes the target table.

    Contributions from one pool keep its row_ids; with a pool for each participant, row_ids count through the pools in
    the order of the contributions (the manifest's summary lists them).

    Args:
        contributions: contributions, or their folders, with the same shared set. Those of targets that are there may be
            followed by further ones, which extends the targets.
        out: folder of the targets.
        config: reference and alignment; a dict, or a YAML file.

    Returns:
        The target table: `row_id`, `target float16[dim]`, `prior uint8` (position in `contributions`).

    Raises:
        InputError: a contribution is missing or damaged, or they do not fit together.
        UsageError: the reference is unknown, or settings were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    settings = as_settings(MergeConfig, {} if config is None else config, "merge")
    location = Location.parse(out)
    tables = [Contribution(place) for c in contributions for place in _places(Location.parse(c))]
    check_together(tables)
    groups = group_by_pool(tables, settings.allow_overlap)
    find_reference(tables, settings.reference)
    content = settings.model_dump(mode="json", exclude={"allow_overlap"})
    inputs = {f"contribution.{i:03d}": t.manifest.identity for i, t in enumerate(tables)}
    if begin_more(location, "targets", content, inputs) or begin(location, "targets", content, inputs) is None:
        with ray_session():
            _merge(tables, groups, location, settings, content, inputs)
    return RowTable(location, "targets")


def _places(location: Location) -> list[Location]:
    """The contribution at a folder, or all contributions below it that `encode` with several priors wrote."""
    inside = location.child("contributions")
    if location.child("manifest.json").is_file() or not inside.is_folder():
        return [location]
    names = {name.split("/")[0] for name in inside.files(recursive=True)}
    return [inside.child(name) for name in sorted(names)]


def _merge(
    tables: list[Contribution],
    groups: list[Group],
    location: Location,
    config: MergeConfig,
    content: JsonObject,
    inputs: dict[str, str],
) -> None:
    started = time.monotonic()
    participants = [_participant(table) for table in tables]
    measured = time.monotonic()
    named = find_reference(tables, config.reference)
    reference = int(np.argmin([p.uniformity for p in participants])) if named is None else named
    alignments = _align_all(participants, reference, config, location)
    fitted = time.monotonic()
    files = _write_targets(groups, tables, [a.matrix for a in alignments], location)
    rejects = {r for t in tables for r in read_rejects(t.location)}
    others = write_rejects(location, rejects)
    blob = write_blob(location, _ALIGNMENT, save_safetensors(_to_arrays(alignments, participants, reference, config)))
    summary = describe_targets(participants, alignments, reference, groups)
    summary |= {"rejected": len(rejects), "bytes_stored": sum(f.bytes for f in files)}
    ended = time.monotonic()
    times = {"uniformity": measured - started, "fit": fitted - measured, "align_write": ended - fitted}
    summary |= {"rows": sum(f.rows for f in files), "seconds": round(ended - started, 3)}
    summary |= {"stage_seconds": {name: round(seconds, 3) for name, seconds in times.items()}}
    for warning in summary["warnings"]:
        say(f"warning: {warning}")
    cards = card_files(location, summary)
    finish(location, "targets", content, inputs, [*files, *others, blob, *cards], summary)
    kept = {f.path for f in files}
    for name in location.files():  # files that an extension replaced
        if name.startswith("targets-") and name not in kept:
            location.child(name).delete_file()


def _participant(table: Contribution) -> Participant:
    ids, shared = table.shared_features()
    if not np.isfinite(shared).all():
        raise InputError(f"{table.location} has shared rows that are not finite", "the contribution is damaged")
    # The order by row_id says nothing about content, so that the first rows are a fair sample.
    v = uniformity(shared[:_UNIFORMITY_ROWS])
    return Participant(prior_label(table), table, ids, shared, v)


def _align_all(
    participants: list[Participant], reference: int, config: MergeConfig, location: Location
) -> list[Alignment]:
    """One alignment for each participant; earlier fits to the same vectors are reused."""
    known = _from_arrays(location)
    target = participants[reference]
    alignments = []
    for index, participant in enumerate(participants):
        if index == reference:
            alignments.append(identity_alignment(participant.shared.shape[1]))
            continue
        key = _key(participant, target, config)
        alignments.append(known[key] if key in known else _align(participant, target, config))
    return alignments


def _align(participant: Participant, reference: Participant, config: MergeConfig) -> Alignment:
    common, mine, theirs = np.intersect1d(
        participant.shared_ids, reference.shared_ids, assume_unique=True, return_indices=True
    )
    return fit_alignment(
        participant.shared[mine], reference.shared[theirs], method=config.alignment, seed=config.seed, row_ids=common
    )


def _key(participant: Participant, reference: Participant, config: MergeConfig) -> str:
    parts = [p.table.manifest.identity for p in (participant, reference)]
    return digest([*parts, config.alignment, config.seed])


def _to_arrays(
    alignments: list[Alignment], participants: list[Participant], reference: int, config: MergeConfig
) -> Arrays:
    arrays: Arrays = {}
    for index, (alignment, participant) in enumerate(zip(alignments, participants, strict=True)):
        arrays[f"alignment.{index}"] = alignment.matrix
        if index != reference:
            key = _key(participant, participants[reference], config)
            arrays[f"fit.{key}.{alignment.method}"] = np.array([index, alignment.ridge, alignment.r2, alignment.rows])
    return arrays


def _from_arrays(location: Location) -> dict[str, Alignment]:
    """Earlier alignments of the targets, by a hash of their inputs."""
    file = location.child(_ALIGNMENT)
    if not file.is_file():
        return {}
    try:
        arrays = load_safetensors(file.read_bytes())
        known = {}
        for name, (index, ridge, r2, rows) in ((n, a) for n, a in arrays.items() if n.startswith("fit.")):
            _, key, method = name.split(".")
            matrix = arrays[f"alignment.{int(index)}"]
            known[key] = Alignment(matrix, float(ridge), float(r2), int(rows), method)
        return known
    except (SafetensorError, KeyError, ValueError):  # damaged: fitted again
        return {}


def _write_targets(
    groups: list[Group], tables: list[Contribution], matrices: list[Float32Array], location: Location
) -> list[FileEntry]:
    there = set(location.files())
    names = {name: (group, i) for group in groups for i, name in enumerate(group.names(tables, matrices, _FILE_ROWS))}
    files = list(describe_all(location, [name for name in names if name in there]).values())
    todo = [{"name": name} for name in names if name not in there]
    places = [t.location for t in tables]
    inputs = ray.put((names, places, matrices))

    def write(row: Row) -> Row:
        names, places, matrices = ray.get(inputs)
        group, index = names[row["name"]]
        parts = [(k, Contribution(places[k]), matrices[k]) for k in group.contributions]
        first = index * _FILE_ROWS
        table = _targets(parts, first, first + _FILE_ROWS, group.first_row_id)
        entry = write_table(location, row["name"], table, group_rows=_GROUP_ROWS)
        return {"rows": entry.rows, "result": entry}

    def stages(dataset: ray.data.Dataset) -> ray.data.Dataset:
        return dataset.map(write, num_cpus=0.5)

    return [*files, *(row["result"] for row in run_shards("align targets", todo, stages))]


def _targets(parts: list[tuple[int, Contribution, Float32Array]], start: int, stop: int, offset: int) -> pa.Table:
    """Targets in a range of a pool's row_ids; of a row with several participants the first one's."""
    row_ids, targets, priors = [], [], []
    for place, contribution, matrix in parts:
        own = contribution.own_rows(["row_id", "feature"], start, stop)
        features = vectors(own.column("feature"))
        bad = ~np.isfinite(features).all(axis=1) | ~(features != 0).any(axis=1)
        if bad.any():
            rows = own.column("row_id").to_numpy()[bad][:5].tolist()
            raise InputError(
                f"{contribution.location} has {int(bad.sum())} features that are zero or not finite, first rows {rows}",
                "the contribution is damaged: ask for it again",
            )
        row_ids.append(own.column("row_id").to_numpy())
        targets.append(align(features, matrix))
        priors.append(np.full(own.num_rows, place, dtype=np.uint8))
    ids, first = np.unique(np.concatenate(row_ids), return_index=True)
    vectors_of = np.concatenate(targets)[first]
    columns = {"row_id": ids + offset, "target": vector_column(vectors_of), "prior": np.concatenate(priors)[first]}
    return pa.table(columns)
