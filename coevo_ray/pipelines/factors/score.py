"""Score: two passes of Ray Data turn features into factors and scores (arXiv 2603.04981).

Pass one encodes each shard of the features and counts its factors (`codes`). Pass two computes representativeness and
diversity from codes and the factors' frequencies, shard by shard. Ranks need all rows: pass two counts scores in
sketches with fixed bins, sketches add up, and each shard looks its ranks up in the sum. On the driver only the list of
files grows with the rows.
"""

from __future__ import annotations

import time

import pyarrow as pa

from coevo_ray.config import SaeConfig, SettingsLike, as_settings
from coevo_ray.core.arrays import Float64Array
from coevo_ray.core.factors.rank_sketch import RankSketch
from coevo_ray.core.factors.scores import diversity, representativeness, strongest_factor
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import UsageError
from coevo_ray.pipelines.factors.codes import count_codes, encode_codes, read_codes
from coevo_ray.pool.stages import pool_for
from coevo_ray.pool.targets_of_pool import require_alone
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import Row, run_each
from coevo_ray.store.artifact import begin, finish
from coevo_ray.store.data_files import read_table
from coevo_ray.store.factor_files import KIND, load_factors, save_factors
from coevo_ray.store.layout import FactorLayout
from coevo_ray.store.location import ArtifactLike, Location, Place
from coevo_ray.store.manifest import FileEntry
from coevo_ray.store.opening import locate, open_table
from coevo_ray.store.parts import Parts
from coevo_ray.store.row_table import RowTable, vector_column_of
from coevo_ray.store.writing import writing_all
from coevo_ray.training.sae_fit import fit_sae

TOP_ROWS = 24
_RAW = "_raw"  # unranked scores; deleted after ranking
_SCORES = ("representativeness", "diversity")


def sae(
    config: SettingsLike[SaeConfig],
    pool: ArtifactLike,
    targets: ArtifactLike | None,
    out: Place,
    column: str | None = None,
) -> RowTable:
    """Fits the sparse autoencoder on a pool's targets, or on vectors of its own, and scores every row.

    Args:
        config: latents, k, epochs; a dict, or a YAML file.
        pool: the pool, or its folder.
        targets: its targets, or their folder; None takes the vectors of the pool itself.
        out: folder that will hold `model/`, `codes/`, `table/` (the factors) and `scores/`.
        column: name of the column of vectors; None for the only one.

    Returns:
        The score table: `row_id`, `representativeness`, `diversity`, `factor`.

    Raises:
        InputError: an input is missing or unfit.
        UsageError: settings are wrong, or were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    settings, location, opened = as_settings(SaeConfig, config, "sae"), Location.parse(out), pool_for("sae", pool)
    table: RowTable = opened
    if targets is not None:
        table = open_table(targets, "targets")
        require_alone(table, opened)
    model = fit_sae(settings, opened, table, FactorLayout.of(location).model, column=column)
    return score(settings, table, model, location, column=column)


def sae_score(
    config: SettingsLike[SaeConfig], features: ArtifactLike, model: ArtifactLike, out: Place, column: str | None = None
) -> RowTable:
    """Scores every row of a feature table with an existing model, fitted on other rows or imported.

    Args:
        config: `rare_quantile` and `compute`; the model has its own sizes. A dict, or a YAML file.
        features: targets, a pool with vectors, or the folder of either.
        model: the model, or its folder, or what `sae` made.
        out: folder that will hold `codes/`, `table/` and `scores/`.
        column: name of the column of vectors; None for the only one.

    Returns:
        The score table: `row_id`, `representativeness`, `diversity`, `factor`.

    Raises:
        InputError: an input is missing or unfit.
        UsageError: settings are wrong, or were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    settings = as_settings(SaeConfig, config, "sae")
    return score(settings, open_table(features, None), locate(model, "sae"), out, column=column)


def score(
    config: SaeConfig,
    features: RowTable,
    sae: Location,
    out: Place,
    *,
    column: str | None = None,
    top_rows: int = TOP_ROWS,
) -> RowTable:
    """Writes codes, the factor table and the scores of all rows of a table with vectors.

    Args:
        config: `rare_quantile` bounds rare factors, `compute` states the resources of encoding.
        features: targets, a pool with the user's own vectors, or any row table with a column of vectors.
        sae: folder of the model, fitted or imported, with the dimension of the vectors.
        out: folder that will hold `codes/`, `table/` and `scores/`.
        column: column of the vectors; None for the only one.
        top_rows: rows that the factor table keeps for each factor.

    Returns:
        The score table: `row_id`, `representativeness`, `diversity` (ranks in [0, 1]), `factor` (strongest). The
        largest possible error of a rank is in its summary as `rank_error`.

    Raises:
        InputError: the model or the column is missing, they differ in dimension, or features are not finite.
        UsageError: settings were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    if top_rows < 1:
        raise UsageError(f"top_rows = {top_rows}", "keep 1 row or more for each factor")
    folders = FactorLayout.of(Location.parse(out))
    column = vector_column_of(features, column)
    with writing_all([folders.codes, folders.table, folders.scores]), ray_session(reads=[features.location]):
        codes, latents, counted = encode_codes(config, features, column, sae, folders.codes, top_rows)
        table = folders.table
        content, inputs = {"top_rows": top_rows}, {"codes": codes.manifest.identity}
        if begin(table, KIND, content, inputs) is None:
            factors = counted if counted is not None else count_codes(codes, latents, top_rows)
            summary = {"rows": factors.rows, "dead": int((factors.counts == 0).sum()), "pools": _pools(features)}
            finish(table, KIND, content, inputs, [save_factors(table, factors)], summary)
        return _scores(config, codes, load_factors(table).frequencies, folders.scores)


def _pools(features: RowTable) -> list[JsonObject] | None:
    """The pools of the row_ids, as targets state them; None where they are unknown."""
    if features.manifest.kind == "pool":
        return [{"identity": features.manifest.identity, "first_row_id": 0}]
    pools: list[JsonObject] | None = features.manifest.summary.get("pools")
    return pools


def _scores(config: SaeConfig, codes: RowTable, p: Float64Array, location: Location) -> RowTable:
    content = {"rare_quantile": config.rare_quantile}
    inputs = {"codes": codes.manifest.identity}
    if begin(location, "scores", content, inputs) is None:
        started = time.monotonic()
        parts = Parts.of(location, "scores", content, inputs)
        raw = Parts(location.child(_RAW), parts.made_of)
        sketches = _rate(codes, p, config.rare_quantile, raw)
        files = _rank(codes, sketches, raw, parts)
        summary = {
            "frequencies": [round(float(x), 8) for x in p],
            "rank_error": {name: sketch.largest_error for name, sketch in sketches.items()},
            "seconds": round(time.monotonic() - started, 3),
        }
        finish(location, "scores", content, inputs, files, summary)
    location.child(_RAW).delete_folder()
    return RowTable(location, "scores")


def _rate(codes: RowTable, p: Float64Array, quantile: float, raw: Parts) -> dict[str, RankSketch]:
    """Writes the unranked scores of each shard; returns the sketches of all rows."""
    at, names = codes.location, [f.path for f in codes.files]

    def rate(row: Row) -> Row:
        name = names[row["shard"]]
        there = raw.table(name)  # of an interrupted attempt
        if there is not None:
            table = there[0]
        else:
            row_ids, factors, values = read_codes(at, name)
            columns = {
                "row_id": row_ids,
                "representativeness": representativeness(factors, values, p),
                "diversity": diversity(factors, values, p, quantile),
                "factor": strongest_factor(factors, values),
            }
            table = pa.table(columns)
            raw.write_table(name, table)
        sketches = {score: RankSketch.of(table.column(score).to_numpy()) for score in _SCORES}
        return {"rows": table.num_rows, "result": sketches}

    totals = {score: RankSketch.empty() for score in _SCORES}
    shards = run_each("score", range(len(names)), rate, total=len(codes))
    for row in shards:
        totals = {score: total + row["result"][score] for score, total in totals.items()}
    return totals


def _rank(codes: RowTable, sketches: dict[str, RankSketch], raw: Parts, parts: Parts) -> list[FileEntry]:
    """Writes each shard with ranks in place of scores."""
    names = [f.path for f in codes.files]

    def rank(row: Row) -> Row:
        table = read_table(raw.folder, names[row["shard"]])
        columns = {name: table.column(name) for name in table.column_names}
        columns |= {score: pa.array(sketches[score].ranks(table.column(score).to_numpy())) for score in _SCORES}
        return {"rows": table.num_rows, "result": parts.write_table(names[row["shard"]], pa.table(columns))}

    there = parts.entries(names)
    todo = [i for i, name in enumerate(names) if name not in there]
    rows = sum(codes.files[i].rows for i in todo)
    made = run_each("rank", todo, rank, total=rows)
    return [*there.values(), *(row["result"] for row in made)]
