"""The shared set, encoded first: each prior's components come from it, and what the priors are worth shows on it.

Files of whole features are temporary: when the components are known, they are written instead.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from coevo_ray.core.alignment.components import Components, fit_components, to_components
from coevo_ray.core.alignment.moments import add_moments, moments_of
from coevo_ray.errors import InputError
from coevo_ray.pipelines.encode.contribution import (
    COMPONENTS,
    FULL,
    Plan,
    read_shard_rejects,
    write_shard_rejects,
)
from coevo_ray.pipelines.encode.forward import Participant
from coevo_ray.pipelines.encode.wave import Made, encode_wave
from coevo_ray.runtime.shards import Row, run_tasks
from coevo_ray.store.consensus_files import components_of, components_to_arrays
from coevo_ray.store.data_files import read_table
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import MANIFEST, load_manifest
from coevo_ray.store.parts import Parts
from coevo_ray.store.row_table import vector_column, vectors


def encode_shared(plan: Plan, wave: list[Participant], count: int) -> dict[int, tuple[Made, Components]]:
    """Encodes the shared set by some participants side by side, and keeps its components.

    Args:
        plan: the rows.
        wave: participants whose actors all fit into the cluster.
        count: components wanted of each prior.

    Returns:
        Position of a participant -> files and figures of its shared set, and its components.

    Raises:
        InputError: a prior fails, or its features are constant.
        StoppedError: the store or the cluster failed.
    """
    results = {who.place: _finished(plan, who) for who in wave}
    todo = [who for who in wave if results[who.place] is None]
    title = f"shared set {', '.join(who.prior.label for who in todo)}"
    whole = replace(plan, shared_files=FULL)
    raw = [replace(who, keep="features") for who in todo]
    passes = encode_wave(whole, plan.shared_shards, raw, title) if todo else {}
    for who in todo:
        if not any(f.rows for f in passes[who.place].files):
            raise InputError(
                f"{who.prior.label} encoded no row of the shared set", "see the rejects; enlarge the shared set"
            )
    for row in _keep_components(plan, todo, count):
        who, raw_pass = row["who"], passes[row["place"]]
        raw_pass.times.update({"components": row["seconds"]})
        made = _finished(plan, who)
        if made is None:
            raise InputError(f"{who.location} lacks files of the shared set", "run the same command again")
        made[0].add(_without_files(raw_pass))
        results[who.place] = made
    for who in wave:
        for name in who.location.files():
            if PurePosixPath(name).name.startswith(FULL):
                who.location.child(name).delete_file()
    return {place: made for place, made in results.items() if made is not None}


def mark_owners(plan: Plan, who: Participant, made: Made, components: Components) -> None:
    """Rewrites the column `own` of the shared set, whose rows were written before their owners were known.

    Args:
        plan: the rows, with the settled weights.
        who: the participant.
        made: its shared set; gets the entries of the files as they are now.
        components: of its shared set.
    """
    place, location, parts = who.place, who.location, replace(who, components=components).parts

    def mark(row: Row) -> Row:
        shard = int(row["shard"])
        name = f"{plan.name(shard)}.parquet"
        table, rows = read_table(location, name), plan.row_ids(shard)
        own = rows.own(place)[np.searchsorted(rows.ids, table.column("row_id").to_numpy())]
        if not np.array_equal(own, table.column("own").to_numpy()):
            table = table.set_column(table.column_names.index("own"), "own", pa.array(own))
            parts.write_table(name, table, group_rows=4096)
        return {"rows": len(own)}

    items = [{"shard": s} for s in plan.shared_shards]
    for _ in run_tasks("owners of the shared set", items, mark, total=sum(f.rows for f in made.files)):
        pass
    names = [f"{plan.name(shard)}.parquet" for shard in plan.shared_shards]
    made.files = list(parts.entries(names).values())


def write_components(location: Location, components: Components) -> None:
    """Writes the map that a contribution's features are made with."""
    location.child(COMPONENTS).write_bytes(save_safetensors(components_to_arrays(components)))


def read_components(location: Location) -> Components | None:
    """The map that a contribution's features were made with; None where there is none, or an unreadable one."""
    file = location.child(COMPONENTS)
    if not file.is_file():
        return None
    try:
        return components_of(load_safetensors(file.read_bytes()))
    except (SafetensorError, KeyError, ValueError):
        return None


def _finished(plan: Plan, who: Participant) -> tuple[Made, Components] | None:
    """The shared set of an earlier attempt; None where something of it is missing."""
    names = [plan.name(shard) for shard in plan.shared_shards]
    done = who.location.child(MANIFEST).is_file()
    components = read_components(who.location) if done else _own_components(who)
    if components is None:
        return None
    if done:  # finished by whatever version: its manifest says which files are its own
        known = {entry.path: entry for entry in load_manifest(who.location, "contribution").files}
        files = {path: known[path] for name in names if (path := f"{name}.parquet") in known}
    else:
        files = replace(who, components=components).parts.entries(f"{name}.parquet" for name in names)
    if len(files) < len(names):
        return None
    rejects = [reject for name in names for reject in read_shard_rejects(who.location, name)]
    made = Made(files=[*files.values()], rejects=rejects, resumed=sum(f.rows for f in files.values()))
    return made, components


def _without_files(made: Made) -> Made:
    """The figures of a pass whose files were replaced; its rows are not resumed ones."""
    encoded = sum(f.rows for f in made.files) - made.resumed
    return replace(made, files=[], rejects=[], resumed=-encoded)


def _keep_components(plan: Plan, wave: list[Participant], count: int) -> Iterator[Row]:
    """Writes the shared set's components in place of its whole features, in one task for each prior.

    One task reads the features of a file at a time, twice: several would have to hand their sums, a matrix of d x d
    each, to one that adds them up, which takes longer than the sums do.

    Yields:
        `place` and `who` of a participant, `seconds` of its task.
    """
    by_place = {who.place: who for who in wave}

    def keep(row: Row) -> Row:
        started = time.monotonic()
        who = by_place[row["place"]]
        components = _components(plan, who, count)
        parts = replace(who, components=components).parts
        rows = sum(_write_components(plan, parts, shard, components) for shard in plan.shared_shards)
        return {"place": who.place, "rows": rows, "seconds": time.monotonic() - started}

    title = f"components {', '.join(who.prior.label for who in wave)}"
    total = (plan.shared_rows or len(plan.shared)) * len(by_place)
    for row in run_tasks(title, [{"place": place} for place in by_place], keep, total=total):
        yield {**row, "who": by_place[row["place"]]}


def _components(plan: Plan, who: Participant, count: int) -> Components:
    """Those of an earlier attempt, or of the features on all shared rows."""
    there = _own_components(who)
    if there is not None:
        return there
    whole = replace(plan, shared_files=FULL)
    tables = (read_table(who.location, f"{whole.name(shard)}.parquet") for shard in plan.shared_shards)
    parts = (moments_of(vectors(table.column("feature"))) for table in tables if table.num_rows)
    try:
        components = fit_components(add_moments(parts), count)
    except InputError as error:
        raise InputError(f"{who.prior.label}: {error.cause}", error.remedy) from error
    who.parts.write_arrays(COMPONENTS, components_to_arrays(components))
    return components


def _own_components(who: Participant) -> Components | None:
    """The map of an earlier attempt of the same contribution, undamaged."""
    found = who.parts.arrays(COMPONENTS)
    return None if found is None else components_of({name: array.copy() for name, array in found[0].items()})


def _write_components(plan: Plan, parts: Parts, shard: int, components: Components) -> int:
    """Writes a file of the shared set's components from its whole features, unless it is there; returns its rows."""
    name, whole = plan.name(shard), replace(plan, shared_files=FULL).name(shard)
    for there in parts.entries([f"{name}.parquet"]).values():
        return there.rows
    table = read_table(parts.folder, f"{whole}.parquet")
    kept = vector_column(to_components(vectors(table.column("feature")), components))
    table = table.set_column(table.column_names.index("feature"), "feature", kept)
    write_shard_rejects(parts.folder, name, read_shard_rejects(parts.folder, whole))
    return parts.write_table(f"{name}.parquet", table, group_rows=4096).rows
