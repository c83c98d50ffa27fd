"""The factor sheet: what chosen factors look like, by the rows that activate them most."""

from __future__ import annotations

from typing import Any

import numpy as np

from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.factors.table import NO_ROW, FactorTable
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.stages import pool_for
from coevo_ray.pool.targets_of_pool import first_target
from coevo_ray.reporting.factor_page import FactorCard, FactorSheet, render_sheet
from coevo_ray.reporting.tiles import showing_of, tiles_of
from coevo_ray.store.factor_files import KIND, load_factors
from coevo_ray.store.location import ArtifactLike, Location, Place
from coevo_ray.store.opening import locate
from coevo_ray.store.row_table import RowTable

GROUPS = ("frequent", "rare", "all")


def sae_show(
    factors: ArtifactLike,
    pool: ArtifactLike,
    out: Place = "factors.html",
    *,
    choose: str = "frequent",
    limit: int = 24,
    rows: int = 12,
) -> JsonObject:
    """Writes an HTML page with the most activating images or texts of chosen factors; it needs no network.

    Args:
        factors: what `sae` or `sae_score` returned, the folder that they wrote to, or its factor table.
        pool: the pool that was scored, or its folder.
        out: the page: a local path or a URI that ends in .html.
        choose: "frequent", "rare" (of those that are active at all), "all" (by number), or numbers such as "3,17".
        limit: most factors shown of a group; numbers are all shown.
        rows: most rows shown of each factor.

    Returns:
        `sheet` (where it is), `factors` (their numbers), `alive`, `dead`, `rows` (of the pool that are shown), `bytes`.

    Raises:
        UsageError: the choice is not one of these, or the page is not to be an .html file.
        InputError: there is no factor table or pool, or the factors are of other rows.
        StoppedError: the store refused.
    """
    page = Location.parse(out)
    if not page.name.endswith((".html", ".htm")):
        raise UsageError(f"the sheet {page} is not an .html file", "name the page, for instance factors.html")
    if limit < 1 or rows < 1:
        raise UsageError(f"limit {limit} and rows {rows}", "both must be 1 or more")
    place, opened = locate(factors, KIND), pool_for("sae_show", pool)
    table = load_factors(place)
    numbers = choose_factors(table, choose, limit)
    origin = RowTable(place, KIND)
    _check_rows(table, origin, opened)
    first = first_target(origin, opened)
    tops = {factor: _tops(table, factor, first, opened, rows) for factor in numbers}
    shown = np.unique(np.concatenate([[NO_ROW], *(ids for ids, _ in tops.values())]))[1:].astype(np.int64)
    tiles = dict(tiles_of(opened, shown))
    cards = []
    for factor in numbers:
        ids, values = tops[factor]
        examples = tuple(zip(values.tolist(), (tiles[row] for row in ids.tolist()), strict=True))
        frequency, mean = float(table.frequencies[factor]), float(table.mean_values[factor])
        cards.append(FactorCard(factor, frequency, int(table.counts[factor]), mean, examples))
    sheet = FactorSheet(str(place), str(opened.location), showing_of(opened.modality), choose, table, tuple(cards))
    data = render_sheet(sheet).encode("utf-8", "replace")
    page.write_bytes(data)
    alive = int((table.counts > 0).sum())
    figures = {"alive": alive, "dead": len(table.counts) - alive, "rows": len(shown), "bytes": len(data)}
    return {"sheet": str(page), "factors": numbers, **figures}


def choose_factors(table: FactorTable, choose: str, limit: int) -> list[int]:
    """The factors that a choice names, see `sae_show`.

    Raises:
        UsageError: it is neither a group nor numbers of factors that there are.
    """
    alive = np.flatnonzero(table.counts > 0)
    order = {"frequent": -table.counts[alive], "rare": table.counts[alive], "all": alive}
    if choose in order:
        return [int(j) for j in alive[np.lexsort((alive, order[choose]))][:limit]]
    names = [name.strip() for name in choose.split(",")]
    last = len(table.counts) - 1
    if not all(name.isdecimal() and int(name) <= last for name in names):
        raise UsageError(f"no such factors: {choose!r}", f"give {', '.join(GROUPS)}, or numbers from 0 to {last}: 3,17")
    return list(dict.fromkeys(int(name) for name in names))


def _tops(table: FactorTable, factor: int, first: int, pool: Pool, rows: int) -> tuple[Int64Array, Any]:
    """A factor's top rows as row_ids of the pool, and their values; merged targets may have rows of other pools."""
    ids, values = table.top(factor)
    mine = (ids >= first) & (ids < first + len(pool))
    return ids[mine][:rows] - first, values[mine][:rows]


def _check_rows(table: FactorTable, place: RowTable, pool: Pool) -> None:
    """A table that names no pools must at least fit."""
    last = int(table.top_rows.max(initial=NO_ROW))
    if place.manifest.summary.get("pools") is None and last >= len(pool):
        raise InputError(
            f"the factors at {place.location} are of rows up to {last}, {pool.location} has {len(pool)}",
            "give the pool that was scored",
        )
