"""The ledger of a loader: of a table's rows, with what other tables know of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from coevo_ray.actors.ledger_inputs import set_known
from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.rows.row_set import RowSet
from coevo_ray.core.selection.ledger import SelectionLedger
from coevo_ray.core.selection.policies import Policy, make_policy
from coevo_ray.pool.pool import TRAIN
from coevo_ray.store.location import ArtifactLike, Location
from coevo_ray.store.opening import locate
from coevo_ray.store.row_table import RowTable


def ledger_of(
    table: RowTable,
    policy: str | Policy,
    options: Mapping[str, Any],
    rows: Int64Array | None,
    known: Mapping[str, ArtifactLike | None],
    **schedule: Any,
) -> SelectionLedger:
    """Makes a ledger over a table's rows.

    Args:
        table: a pool, or any other row table; N is its last row_id and one more.
        policy: its name, or the policy itself.
        options: of a policy by name.
        rows: int64[n], distinct rows that may be selected; None for those of training, see `Feed.loader`.
        known: `scores` and `evidence` of the rows, or None each.
        schedule: `keep`, `epochs` and `seed` as `SelectionLedger` has them.

    Raises:
        InputError: a row is not there or given twice, or a table is not there or of more rows.
        UsageError: the policy, an option, the share or the number of epochs is wrong.
    """
    rule = make_policy(policy, **options) if isinstance(policy, str) else policy
    size = max((file.last_row_id for file in table.files), default=-1) + 1
    labels = _labels(table, size)
    candidates = RowSet.from_ids(_training_rows(table, labels) if rows is None else rows, size)
    ledger = SelectionLedger(rows=size, candidates=candidates, policy=rule, **schedule)
    set_known(ledger, candidates.flags(), labels, _found(known, "scores"), _found(known, "evidence"))
    return ledger


def _labels(table: RowTable, size: int) -> Int64Array | None:
    """A pool's labels int64[N], -1 where a row has none; None of other tables and where no row has any."""
    if table.manifest.kind != "pool" or "label" not in table.schema().names:
        return None
    found = table.scan(["row_id", "label"])
    labels = np.full(size, -1, dtype=np.int64)
    labels[found.column("row_id").to_numpy()] = found.column("label").fill_null(-1).to_numpy()
    return labels if (labels >= 0).any() else None


def _training_rows(table: RowTable, labels: Int64Array | None) -> Int64Array:
    """The rows that a training learns from: int64[n]."""
    has_splits = table.manifest.kind == "pool" and "split" in table.schema().names
    found = table.scan(["row_id", "split"] if has_splits else ["row_id"])
    rows: Int64Array = found.column("row_id").to_numpy()
    if has_splits:
        rows = rows[found.column("split").to_numpy() == TRAIN]
    return rows if labels is None else rows[labels[rows] >= 0]


def _found(known: Mapping[str, ArtifactLike | None], kind: str) -> Location | None:
    what = known[kind]
    return None if what is None else locate(what, kind)
