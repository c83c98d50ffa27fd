"""Merge: contributions -> targets in one space (CoOpt, arXiv 2505.14117, with a consensus for its reference prior).

A merge needs no images and no priors, so that anyone can merge contributions from different clusters. Files of targets
are named after a hash of their inputs: a merge with one more contribution writes only the files that change, and the
former targets stay valid until the new manifest replaces theirs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray

from coevo_ray.config import Consensus, MergeConfig, SettingsLike, as_settings
from coevo_ray.core.alignment.alignment import align
from coevo_ray.core.alignment.consensus import PriorMap
from coevo_ray.core.arrays import Float32Array, Int64Array
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pipelines.encode.contribution import Contribution, projection_of
from coevo_ray.pipelines.encode.joined import SharedFit
from coevo_ray.pipelines.merge.card import describe_consensus, describe_targets, write_card
from coevo_ray.pipelines.merge.check import GROUP_ROWS, Group, check_together, find_reference, group_by_pool
from coevo_ray.pipelines.merge.latent import combined_targets, find_consensus, hash_map, measure_quality
from coevo_ray.pipelines.merge.reference import PREFIX as ALIGNMENT
from coevo_ray.pipelines.merge.reference import align_to_reference
from coevo_ray.pool.rejects import content_part, read_rejects, write_rejects
from coevo_ray.priors.fitted import PREFIX as FITTED
from coevo_ray.progress import say
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import Row, run_tasks
from coevo_ray.store.artifact import begin, begin_more, finish
from coevo_ray.store.checked import read_checked
from coevo_ray.store.consensus_files import PREFIX as CONSENSUS
from coevo_ray.store.consensus_files import file_name, to_bytes
from coevo_ray.store.data_files import write_blob
from coevo_ray.store.location import ArtifactLike, Location, Place
from coevo_ray.store.manifest import MANIFEST, FileEntry, load_manifest
from coevo_ray.store.parts import Parts
from coevo_ray.store.row_table import RowTable, vector_column, vectors
from coevo_ray.store.writing import claim, writing

# A row takes some 40 microseconds of one core: below so many, two processes are no sooner done, for each first imports.
_ROWS_A_PROCESS = 100_000


def merge(
    contributions: Sequence[ArtifactLike],
    out: Place,
    config: SettingsLike[MergeConfig] | None = None,
) -> RowTable:
    """Maps contributions to one space and writes the target table.

    Contributions from one pool keep its row_ids; with a pool for each participant, row_ids count through the pools in
    the order of the contributions (the manifest's summary lists them).

    Args:
        contributions: contributions, or their folders, with the same shared set. Those of targets that are there may be
            followed by further ones, which extends the targets.
        out: folder of the targets.
        config: reference and alignment; a dict, or a YAML file.

    Returns:
        The target table: `row_id`, `target float16[dim]`, `prior uint8` (position in `contributions`), and in a latent
        `encoders uint8` (priors behind the target).

    Raises:
        InputError: a contribution is missing or damaged, or they do not fit together.
        UsageError: the reference is unknown, or settings were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    settings = as_settings(MergeConfig, {} if config is None else config, "merge")
    return merge_fitted(contributions, Location.parse(out), settings, None)


def merge_fitted(
    contributions: Sequence[ArtifactLike], location: Location, settings: MergeConfig, fitted: SharedFit | None
) -> RowTable:
    """Merges contributions, see `merge`, whose consensus may be known already.

    Args:
        contributions: as for `merge`.
        location: folder of the targets.
        settings: reference and alignment.
        fitted: the consensus of these very contributions with the settings' seed; None to fit it.

    Raises:
        InputError, UsageError, StoppedError: as `merge`.
    """
    tables = [Contribution(place) for c in contributions for place in _places(Location.parse(c))]
    check_together(tables)
    form = _form(tables, settings)
    groups = group_by_pool(tables, settings.allow_overlap)
    content = _content(tables, settings, form)
    inputs = {f"contribution.{i:03d}": t.manifest.identity for i, t in enumerate(tables)}
    with writing(location):
        if _is_wanted(location, content, inputs, settings.refit):
            claim(location)
            if _is_wanted(location, content, inputs, settings.refit):  # whoever wrote until now may have made them
                with ray_session([table.location for table in tables], [location]):
                    _merge(tables, groups, location, settings, content, inputs, fitted)
        targets = RowTable(location, "targets")
        write_card(location, targets.manifest)
    return targets


def _content(tables: Sequence[Contribution], config: MergeConfig, form: Consensus) -> JsonObject:
    if form == "latent":
        return {"consensus": form, "dim": _dim(tables, config), "seed": config.seed}
    if config.dim is not None and config.dim != tables[0].manifest.config["dim"]:
        raise UsageError(
            f"dim {config.dim} of contributions with a random projection to {tables[0].manifest.config['dim']}",
            "leave --dim out",
        )
    find_reference(tables, config.reference)
    return config.model_dump(mode="json", include={"reference", "alignment", "seed"})  # as version 0.1.0 has them


def _is_wanted(location: Location, content: JsonObject, inputs: dict[str, str], refit: bool) -> bool:
    """Tests whether targets must be made: they lack contributions, or a refit is wanted of a latent that does."""
    if begin_more(location, "targets", content, inputs):
        return True
    there = begin(location, "targets", content, inputs)
    return there is None or (refit and set(there.summary.get("latent_of", ())) != set(inputs.values()))


def _places(location: Location) -> list[Location]:
    """The contribution at a folder, or all contributions below it that `encode` with several priors wrote."""
    inside = location.child("contributions")
    if location.child("manifest.json").is_file() or not inside.is_folder():
        return [location]
    names = {name.split("/")[0] for name in inside.files(recursive=True)}
    return [inside.child(name) for name in sorted(names)]


@dataclass(frozen=True, eq=False)
class _Space:
    """The space that contributions are brought to.

    Attributes:
        maps: a map for each contribution, of one kind.
        blob: name and content of the file that keeps them.
        summary: about the space and the priors.
        seconds: of each step.
    """

    maps: list[Float32Array] | list[PriorMap]
    blob: tuple[str, bytes]
    summary: JsonObject
    seconds: dict[str, float]


def _merge(
    tables: list[Contribution],
    groups: list[Group],
    location: Location,
    config: MergeConfig,
    content: JsonObject,
    inputs: dict[str, str],
    known: SharedFit | None,
) -> None:
    started = time.monotonic()
    space = (
        _latent(tables, groups, location, config, known)
        if "consensus" in content
        else _reference(tables, groups, location, config)
    )
    fitted = time.monotonic()
    files = _write_targets(groups, tables, space.maps, location)
    rejects = {r for t in tables for r in read_rejects(t.location)}
    others = write_rejects(location, rejects, content_part(rejects))
    others += _carried_states(tables, location)
    blob = write_blob(location, *space.blob)
    summary = space.summary | {"rejected": len(rejects), "bytes_stored": sum(f.bytes for f in files)}
    ended = time.monotonic()
    times = space.seconds | {"align_write": ended - fitted}
    summary |= {"rows": sum(f.rows for f in files), "seconds": round(ended - started, 3)}
    summary |= {"stage_seconds": {name: round(seconds, 3) for name, seconds in times.items()}}
    for warning in summary["warnings"]:
        say(warning, level=logging.WARNING)
    former = {f.path for f in load_manifest(location).files} if location.child(MANIFEST).is_file() else set()
    finish(location, "targets", content, inputs, [*files, *others, blob], summary)
    kept = {f.path for f in [*files, *others, blob]}
    for name in location.files():  # of former targets, and of attempts that were cut off
        if name not in kept and (name in former or name.startswith(("targets-", ALIGNMENT, CONSENSUS, FITTED))):
            location.child(name).delete_file()


def _carried_states(tables: Sequence[Contribution], location: Location) -> list[FileEntry]:
    """Copies the states of priors that were fitted to the shared set, so that `like` needs the targets alone."""
    found = {entry.path: table for table in tables for entry in table.manifest.files if entry.path.startswith(FITTED)}
    return [
        write_blob(location, name, read_checked(table.location, table.manifest, name)) for name, table in found.items()
    ]


def _latent(
    tables: list[Contribution], groups: list[Group], location: Location, config: MergeConfig, known: SharedFit | None
) -> _Space:
    started = time.monotonic()
    fitted = find_consensus(tables, location, _dim(tables, config), config.seed, config.refit, known)
    ended = time.monotonic()
    maps = list(fitted.consensus.priors)
    quality = None if "like" in tables[0].manifest.inputs else measure_quality(tables, maps, config.seed)
    summary = describe_consensus(tables, fitted, quality, groups)
    say(f"verdict: {summary['verdict']['text']}")
    seconds = {"fit": ended - started, "measure": time.monotonic() - ended}
    content = to_bytes(fitted)
    return _Space(maps, (file_name(content), content), summary, seconds)


def _reference(tables: list[Contribution], groups: list[Group], location: Location, config: MergeConfig) -> _Space:
    started = time.monotonic()
    aligned = align_to_reference(tables, config, location)
    summary = describe_targets(aligned.participants, aligned.alignments, aligned.reference, groups)
    matrices = [a.matrix for a in aligned.alignments]
    return _Space(matrices, (aligned.file_name, aligned.blob), summary, {"fit": time.monotonic() - started})


def _form(tables: Sequence[Contribution], config: MergeConfig) -> Consensus:
    """The meeting place that is asked for, or that the contributions were made for.

    Raises:
        InputError: contributions are of both forms.
        UsageError: they were not made for the one that is asked for.
    """
    forms = {projection_of(t.manifest.config) for t in tables}
    if len(forms) > 1:
        first = {projection_of(t.manifest.config): t.location for t in reversed(tables)}
        raise InputError(
            f"contributions differ in projection: {', '.join(f'{form} at {at}' for form, at in sorted(first.items()))}",
            "encode those with a random projection (the form of version 0.1.0) again, or all with --projection random",
        )
    made_for: Consensus = "reference" if forms == {"random"} else "latent"
    if config.consensus not in (None, made_for):
        need = "random" if config.consensus == "reference" else "components"
        raise UsageError(
            f"consensus {config.consensus} of contributions with projection {forms.pop()}",
            f"encode with --projection {need}, or leave --consensus out",
        )
    if made_for == "latent" and (config.reference is not None or config.alignment != "ridge"):
        raise UsageError(
            f"reference {config.reference}, alignment {config.alignment}: a latent has no reference prior",
            "leave them out, or encode with --projection random, the published form",
        )
    return made_for


def _dim(tables: Sequence[Contribution], config: MergeConfig) -> int:
    dims = {int(t.manifest.config["dim"]) for t in tables}
    if config.dim is None and len(dims) > 1:
        raise UsageError(f"contributions were encoded for {sorted(dims)} dimensions", "choose the targets' (--dim)")
    return config.dim or dims.pop()


def _write_targets(
    groups: list[Group], tables: list[Contribution], maps: list[Float32Array] | list[PriorMap], location: Location
) -> list[FileEntry]:
    hashed = [m.tobytes().hex() if isinstance(m, np.ndarray) else hash_map(m) for m in maps]
    of = [Parts(location, group.made_of(tables, hashed)) for group in groups]
    names = {
        name: (group, parts, i)
        for group, parts in zip(groups, of, strict=True)
        for i, name in enumerate(group.names(parts.made_of))
    }
    there = _finished_files(location, names)
    for group, parts in zip(groups, of, strict=True):
        there |= parts.entries(name for name in group.names(parts.made_of) if name not in there)
    todo = [{"name": name} for name in names if name not in there]
    spans = (names[item["name"]] for item in todo)
    total = sum(min(group.file_rows, group.rows - index * group.file_rows) for group, _, index in spans)
    places = [t.location for t in tables]
    inputs = ray.put((names, places, maps))

    def write(row: Row) -> Row:
        names, places, maps = ray.get(inputs)
        group, parts, index = names[row["name"]]
        matrices = [
            (k, Contribution(places[k]), m) for k in group.contributions if isinstance(m := maps[k], np.ndarray)
        ]
        latent = [(k, Contribution(places[k]), m) for k in group.contributions if isinstance(m := maps[k], PriorMap)]
        first = index * group.file_rows
        span = (first, first + group.file_rows, group.first_row_id)
        table = _combined(latent, *span) if latent else _targets(matrices, *span)
        entry = parts.write_table(row["name"], table, group_rows=GROUP_ROWS)
        return {"rows": entry.rows, "result": entry}

    passes = sum(t.manifest.rows for t in tables)
    results = run_tasks("align targets", todo, write, total=total, at_once=1 + passes // _ROWS_A_PROCESS)
    return [*there.values(), *(row["result"] for row in results)]


def _finished_files(location: Location, names: Iterable[str]) -> dict[str, FileEntry]:
    """Files of targets that are finished and extended: their manifest knows them, by whatever version."""
    if not location.child(MANIFEST).is_file():
        return {}
    known = {entry.path: entry for entry in load_manifest(location, "targets").files}
    return {name: known[name] for name in names if name in known and location.child(name).is_file()}


def _targets(parts: list[tuple[int, Contribution, Float32Array]], start: int, stop: int, offset: int) -> pa.Table:
    """Targets in a range of a pool's row_ids; of a row with several participants the first one's."""
    row_ids, targets, priors = [], [], []
    for place, contribution, matrix in parts:
        own = contribution.own_rows(["row_id", "feature"], start, stop)
        features = _sound(contribution, own)
        row_ids.append(own.column("row_id").to_numpy())
        targets.append(align(features, matrix))
        priors.append(np.full(own.num_rows, place, dtype=np.uint8))
    ids, first = np.unique(np.concatenate(row_ids), return_index=True)
    vectors_of = np.concatenate(targets)[first]
    columns = {"row_id": ids + offset, "target": vector_column(vectors_of), "prior": np.concatenate(priors)[first]}
    return pa.table(columns)


def _combined(parts: list[tuple[int, Contribution, PriorMap]], start: int, stop: int, offset: int) -> pa.Table:
    """Targets in the latent: of each row the mean over the priors that encoded it, and the prior that owns it."""
    encoded: list[tuple[Int64Array, Float32Array, PriorMap]] = []
    owners, counts = [], []
    for place, contribution, prior in parts:
        rows = contribution.encoded_rows(["row_id", "own", "feature"], start, stop)
        ids, own = rows.column("row_id").to_numpy(), rows.column("own").to_numpy(zero_copy_only=False)
        encoded.append((ids, _sound(contribution, rows), prior))
        # Of a row without its owner's features the surest of the others counts as its prior.
        rank = np.where(own, np.inf, prior.weight)
        owners.append((ids, rank, np.full(len(ids), place, dtype=np.uint8)))
        counts.append(ids)
    ids, targets = combined_targets(encoded)
    every, ranks, makers = (np.concatenate(column) for column in zip(*owners, strict=True))
    order = np.lexsort((makers, -ranks, every))
    first = np.unique(every[order], return_index=True)[1]
    columns = {
        "row_id": ids + offset,
        "target": vector_column(targets),
        "prior": makers[order][first],
        "encoders": np.bincount(np.searchsorted(ids, np.concatenate(counts)), minlength=len(ids)).astype(np.uint8),
    }
    return pa.table(columns)


def _sound(contribution: Contribution, rows: pa.Table) -> Float32Array:
    """Features of rows, float32[b, c].

    Raises:
        InputError: one is zero or not finite.
    """
    features = vectors(rows.column("feature"))
    bad = ~np.isfinite(features).all(axis=1) | ~(features != 0).any(axis=1)
    if bad.any():
        first = rows.column("row_id").to_numpy()[bad][:5].tolist()
        raise InputError(
            f"{contribution.location} has {int(bad.sum())} features that are zero or not finite, first rows {first}",
            "the contribution is damaged: ask for it again",
        )
    return features
