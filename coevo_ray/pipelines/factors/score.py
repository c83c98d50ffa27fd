"""Score: two passes of Ray Data turn features into factors and scores (DESIGN section 5.2).

Pass one encodes each shard of the features and counts its factors at once (`pipelines.codes`). Pass two turns codes
and the factors' frequencies into representativeness and diversity, shard by shard. Ranks need all rows: pass two also
counts its scores in a sketch of fixed bins, sketches add up, and each shard then looks up its own rows' two numbers in
the sum. So nothing on the driver grows with the rows but the list of files.
"""

from __future__ import annotations

import time
from typing import Any

import pyarrow as pa

from coevo_ray.config import SaeConfig
from coevo_ray.core.arrays import Float64Array
from coevo_ray.core.factors.rank_sketch import RankSketch
from coevo_ray.core.factors.scores import diversity, representativeness, strongest_factor
from coevo_ray.errors import UsageError
from coevo_ray.pipelines.factors.codes import count_codes, encode_codes, read_codes
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import run_shards
from coevo_ray.store.artifact import FileEntry, begin, describe_all, finish, read_table, write_table
from coevo_ray.store.factor_files import KIND, load_factors, save_factors
from coevo_ray.store.layout import FactorLayout
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vector_column_of

TOP_ROWS = 24
_RAW = "_raw"  # scores before they are ranked; deleted once the ranks are there
_SCORES = ("representativeness", "diversity")


def score(
    config: SaeConfig,
    features: RowTable,
    sae: Location,
    out: str | Location,
    *,
    column: str | None = None,
    top_rows: int = TOP_ROWS,
) -> RowTable:
    """Writes codes, the factor table and the scores of all rows of a table with vectors.

    Args:
        config: its `rare_quantile` says which factors are rare, its `compute` with what to encode.
        features: targets, a pool with vectors of the user's own, or any row table with a column of vectors.
        sae: folder of the model, fitted or imported, whose dimension is that of the vectors.
        out: folder that will hold `codes/`, `table/` and `scores/`.
        column: which column has the vectors; None for the only one.
        top_rows: rows that the factor table keeps for each factor.

    Returns:
        The score table: `row_id`, `representativeness`, `diversity` (ranks in [0, 1]), `factor` (strongest). By how
        much a rank can differ from the exact one is in its summary as `rank_error`.

    Raises:
        InputError: the model or the column is missing, they differ in dimension, or features are not finite.
        UsageError: settings were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    if top_rows < 1:
        raise UsageError(f"top_rows = {top_rows}", "keep 1 row or more for each factor")
    folders = FactorLayout.of(Location.parse(out))
    column = vector_column_of(features, column)
    with ray_session():
        codes, latents, counted = encode_codes(config, features, column, sae, folders.codes, top_rows)
        table = folders.table
        content, inputs = {"top_rows": top_rows}, {"codes": codes.manifest.identity}
        if begin(table, KIND, content, inputs) is None:
            factors = counted if counted is not None else count_codes(codes, latents, top_rows)
            summary = {"rows": factors.rows, "dead": int((factors.counts == 0).sum()), "pools": _pools(features)}
            finish(table, KIND, content, inputs, [save_factors(table, factors)], summary)
        return _scores(config, codes, load_factors(table).frequencies, folders.scores)


def _pools(features: RowTable) -> list[dict[str, Any]] | None:
    """Which pools the row_ids are of, as targets say it; None where that is not known."""
    if features.manifest.kind == "pool":
        return [{"identity": features.manifest.identity, "first_row_id": 0}]
    pools: list[dict[str, Any]] | None = features.manifest.summary.get("pools")
    return pools


def _scores(config: SaeConfig, codes: RowTable, p: Float64Array, location: Location) -> RowTable:
    content = {"rare_quantile": config.rare_quantile}
    inputs = {"codes": codes.manifest.identity}
    if begin(location, "scores", content, inputs) is None:
        started = time.monotonic()
        sketches = _rate(codes, p, config.rare_quantile, location)
        files = _rank(codes, sketches, location)
        summary = {
            "frequencies": [round(float(x), 8) for x in p],
            "rank_error": {name: sketch.largest_error for name, sketch in sketches.items()},
            "seconds": round(time.monotonic() - started, 3),
        }
        finish(location, "scores", content, inputs, files, summary)
    location.child(_RAW).delete_folder()
    return RowTable(location, "scores")


def _rate(codes: RowTable, p: Float64Array, quantile: float, location: Location) -> dict[str, RankSketch]:
    """Writes the scores of each shard as they are, and returns the sketches of all rows."""
    raw, at, names = location.child(_RAW), codes.location, [f.path for f in codes.files]

    def rate(row: dict[str, Any]) -> dict[str, Any]:
        name = names[row["shard"]]
        if raw.child(name).is_file():  # from an attempt that was stopped
            table = read_table(raw, name)
        else:
            row_ids, factors, values = read_codes(at, name)
            columns = {
                "row_id": row_ids,
                "representativeness": representativeness(factors, values, p),
                "diversity": diversity(factors, values, p, quantile),
                "factor": strongest_factor(factors, values),
            }
            table = pa.table(columns)
            write_table(raw, name, table)
        sketches = {score: RankSketch.of(table.column(score).to_numpy()) for score in _SCORES}
        return {"rows": table.num_rows, "result": sketches}

    totals = {score: RankSketch.empty() for score in _SCORES}
    shards = run_shards("score", range(len(names)), lambda d: d.map(rate, num_cpus=0.5), total=len(codes))
    for row in shards:
        totals = {score: total + row["result"][score] for score, total in totals.items()}
    return totals


def _rank(codes: RowTable, sketches: dict[str, RankSketch], location: Location) -> list[FileEntry]:
    """Writes each shard with ranks instead of scores."""
    raw, names = location.child(_RAW), [f.path for f in codes.files]

    def rank(row: dict[str, Any]) -> dict[str, Any]:
        table = read_table(raw, names[row["shard"]])
        columns = {name: table.column(name) for name in table.column_names}
        columns |= {score: pa.array(sketches[score].ranks(table.column(score).to_numpy())) for score in _SCORES}
        return {"rows": table.num_rows, "result": write_table(location, names[row["shard"]], pa.table(columns))}

    there = describe_all(location, sorted(set(names) & set(location.files())))
    todo = [i for i, name in enumerate(names) if name not in there]
    rows = sum(codes.files[i].rows for i in todo)
    made = run_shards("rank", todo, lambda d: d.map(rank, num_cpus=0.5), total=rows)
    return [*there.values(), *(row["result"] for row in made)]
