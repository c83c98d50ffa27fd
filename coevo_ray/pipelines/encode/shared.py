"""The shared set, encoded first: each prior's components come from it, and what the priors are worth shows on it.

Files of whole features are temporary: when the components are known, they are written instead.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import ray
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
from coevo_ray.store.artifact import describe_all, read_table, write_table
from coevo_ray.store.consensus_files import components_of, components_to_arrays
from coevo_ray.store.location import Location
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
    results = {who.place: _finished(plan, who.location) for who in wave}
    todo = [who for who in wave if results[who.place] is None]
    title = f"shared set {', '.join(who.prior.label for who in todo)}"
    whole = replace(plan, shared_files=FULL)
    raw = [replace(who, keep="features") for who in todo]
    passes = encode_wave(whole, plan.shared_shards, raw, title) if todo else {}
    for who in todo:
        started = time.monotonic()
        components = _components(who, passes[who.place], count)
        _write_components(plan, who.location, components)
        passes[who.place].times.update({"components": time.monotonic() - started})
        made = _finished(plan, who.location)
        if made is None:
            raise InputError(f"{who.location} lacks files of the shared set", "run the same command again")
        made[0].add(_without_files(passes[who.place]))
        results[who.place] = made
    for who in wave:
        for name in who.location.files():
            if PurePosixPath(name).name.startswith(FULL):
                who.location.child(name).delete_file()
    return {place: made for place, made in results.items() if made is not None}


def mark_owners(plan: Plan, who: Participant, made: Made) -> None:
    """Rewrites the column `own` of the shared set, whose rows were written before their owners were known.

    Args:
        plan: the rows, with the settled weights.
        who: the participant.
        made: its shared set; gets the entries of the files as they are now.
    """
    place, location = who.place, who.location

    def mark(row: Row) -> Row:
        shard = int(row["shard"])
        name = f"{plan.name(shard)}.parquet"
        table, rows = read_table(location, name), plan.row_ids(shard)
        own = rows.own(place)[np.searchsorted(rows.ids, table.column("row_id").to_numpy())]
        if not np.array_equal(own, table.column("own").to_numpy()):
            table = table.set_column(table.column_names.index("own"), "own", pa.array(own))
            write_table(location, name, table, group_rows=4096)
        return {"rows": len(own)}

    for _ in run_tasks("owners of the shared set", [{"shard": s} for s in plan.shared_shards], mark):
        pass
    names = [f"{plan.name(shard)}.parquet" for shard in plan.shared_shards]
    made.files = list(describe_all(location, names).values())


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


def _finished(plan: Plan, location: Location) -> tuple[Made, Components] | None:
    """The shared set of an earlier attempt; None where something of it is missing."""
    components = read_components(location)
    names = [plan.name(shard) for shard in plan.shared_shards]
    there = set(location.files())
    if components is None or not {f"{name}.parquet" for name in names} <= there:
        return None
    files = describe_all(location, [f"{name}.parquet" for name in names])
    rejects = [reject for name in names for reject in read_shard_rejects(location, name)]
    made = Made(files=[*files.values()], rejects=rejects, resumed=sum(f.rows for f in files.values()))
    return made, components


def _without_files(made: Made) -> Made:
    """The figures of a pass whose files were replaced; its rows are not resumed ones."""
    encoded = sum(f.rows for f in made.files) - made.resumed
    return replace(made, files=[], rejects=[], resumed=-encoded)


def _components(who: Participant, made: Made, count: int) -> Components:
    """Those of an earlier attempt, or of the features on all shared rows."""
    there = read_components(who.location)
    if there is not None:
        return there
    location = who.location
    files = sorted(f.path for f in made.files if f.rows)

    def moments(row: Row) -> Row:
        features = vectors(read_table(location, row["file"]).column("feature"))
        return {"rows": len(features), "moments": moments_of(features)}

    title = f"components {who.prior.label}"
    if not files:
        raise InputError(
            f"{who.prior.label} encoded no row of the shared set", "see the rejects; enlarge the shared set"
        )
    try:
        # In the order of the files: sums in another order differ in their last bits.
        rows = run_tasks(title, [{"file": file} for file in files], moments, in_order=True)
        components = fit_components(add_moments(row["moments"] for row in rows), count)
    except InputError as error:
        raise InputError(f"{who.prior.label}: {error.cause}", error.remedy) from error
    write_components(location, components)
    return components


def _write_components(plan: Plan, location: Location, components: Components) -> None:
    """Writes the shared set's components from its whole features."""
    whole = replace(plan, shared_files=FULL)
    map_of = ray.put(components)

    def write(row: Row) -> Row:
        shard = int(row["shard"])
        table = read_table(location, f"{whole.name(shard)}.parquet")
        kept = to_components(vectors(table.column("feature")), ray.get(map_of))
        place = table.column_names.index("feature")
        table = table.set_column(place, "feature", vector_column(kept))
        write_shard_rejects(location, plan.name(shard), read_shard_rejects(location, whole.name(shard)))
        entry = write_table(location, f"{plan.name(shard)}.parquet", pa.table(table), group_rows=4096)
        return {"rows": entry.rows}

    there = set(location.files())
    missing = [{"shard": s} for s in plan.shared_shards if f"{plan.name(s)}.parquet" not in there]
    for _ in run_tasks("shared set", missing, write):
        pass
