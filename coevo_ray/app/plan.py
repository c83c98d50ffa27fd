"""`coevo-ray plan`: which rows a policy would use over a run, or at least how many, without training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from coevo_ray.actors.ledger_inputs import set_known
from coevo_ray.core.arrays import BoolArray, Int32Array, Int64Array
from coevo_ray.core.json import JsonObject
from coevo_ray.core.selection.coverage import random_coverage
from coevo_ray.core.selection.ledger import SelectionLedger
from coevo_ray.core.selection.planned import planned_visits
from coevo_ray.core.selection.policies import KeptShares, Policy, make_policy
from coevo_ray.core.selection.policies.base import LOSSES
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.pool import TRAIN
from coevo_ray.pool.stages import pool_for
from coevo_ray.store.location import ArtifactLike, Location
from coevo_ray.store.opening import open_table
from coevo_ray.store.row_table import RowTable

# Inputs that a policy may need, and the option that gives each. Without training there are no losses: of a policy that
# needs them only the numbers of rows are planned.
_SOURCES = {
    "representativeness": "scores",
    "diversity": "scores",
    "factor": "scores",
    "label": "pool",
    "doubt": "evidence",
    "irreducible": "evidence",
    "copies": "evidence",
    "copy": "evidence",
}
_REMEDIES = {
    "scores": "give scores, the folder of a score table, or take rotation",
    "pool": "give pool, the folder of a pool with labels, or leave class quotas out",
    "evidence": "give evidence, which a training with targets leaves in its folder",
}


def plan(
    policy: str,
    *,
    rows: int | None = None,
    keep: float = 0.5,
    epochs: int = 10,
    seed: int = 0,
    scores: ArtifactLike | None = None,
    keep_last: float | None = None,
    full_tail: float = 0.0,
    class_power: float | None = None,
    unbiased: bool = False,
    policy_options: JsonObject | None = None,
    pool: ArtifactLike | None = None,
    evidence: ArtifactLike | None = None,
) -> JsonObject:
    """Simulates a trajectory: the subsets are those of a training with the same settings, seed and inputs.

    Args:
        policy: name of the policy, or `package.module:Class` for your own.
        rows: rows of the training split, if no `pool`, `scores` or `evidence` gives them.
        keep: kept share in (0, 1].
        epochs: epochs of the full schedule.
        seed: seed of the policy.
        scores: score table, or its folder; needed by `scored`, used by `factors`.
        keep_last: kept share of the last epoch, linear between; None for the same in all.
        full_tail: share of the epochs, at the end, on all rows.
        class_power: class quotas in proportion to size ** this, which need `pool`; None leaves classes alone.
        unbiased: weight rows by the inverse of their selection probability; changes only weights.
        policy_options: the policy's own options.
        pool: a pool, or its folder, whose training rows with a label are the candidates. Without one they are the rows
            that all given tables have.
        evidence: evidence on labels and copies, or its folder, or the training that gathered it; used by `factors`.

    Returns:
        `rows` (candidates), `epochs` (that are run), `samples`, `never_used_share`, `usage` (count -> rows), and by
        epoch: `kept` (rows), `never_used_by_epoch` (share of the candidates that neither it nor an earlier epoch used);
        with scores `factors_covered` and `factors_covered_so_far` (share of the candidates' factors with a selected row
        in this epoch, or in any up to it) and `factors_covered_at_random` (the former's mean for as many random rows);
        with weights `largest_weight`. For a policy that uses losses, which only a training knows, only `rows`,
        `epochs`, `samples` and `kept`.

    Raises:
        UsageError: the policy is unknown, needs something that was not given, or a number is out of bounds.
        InputError: an input is missing, or the inputs do not fit together.
    """
    places = {"pool": pool, "scores": scores, "evidence": evidence}
    _check(rows, epochs, keep, places)
    shares = KeptShares(keep, keep_last, full_tail)
    rule = make_policy(policy, class_power=class_power, unbiased=unbiased, **(policy_options or {}))
    by_losses = bool(LOSSES & rule.needs)
    if not by_losses:
        _check_needs(rule, places)
    known = _open(rows, places)
    if by_losses:
        return _numbers(policy, rule, shares, epochs, int(known.candidates.sum()))
    ledger = SelectionLedger(
        rows=len(known.candidates), candidates=known.candidates, policy=rule, keep=shares, epochs=epochs, seed=seed
    )
    set_known(ledger, known.candidates, known.labels, known.place("scores"), known.place("evidence"))
    by_epoch = _simulate(ledger, known, rule.epochs_to_run(epochs, shares, int(known.candidates.sum())))
    return {
        "policy": policy,
        "rows": int(known.candidates.sum()),
        "epochs": len(by_epoch["kept"]),
        "samples": sum(by_epoch["kept"]),
        "never_used_share": ledger.never_used_share(),
        "usage": {str(k): int(v) for k, v in ledger.usage_histogram().items()},
        **{name: values for name, values in by_epoch.items() if values},
    }


@dataclass(frozen=True)
class _Known:
    """Inputs of a simulation, of N rows.

    Attributes:
        candidates: bool[N].
        labels: int64[N], or None.
        factor: int32[N], strongest factors, -1 without one; or None.
        tables: `scores` and `evidence`, as far as they were given.
    """

    candidates: BoolArray
    labels: Int64Array | None = None
    factor: Int32Array | None = None
    tables: dict[str, RowTable] = field(default_factory=dict)

    def place(self, kind: str) -> Location | None:
        """Folder of the table of a kind, or None without one."""
        return self.tables[kind].location if kind in self.tables else None


def _check(rows: int | None, epochs: int, keep: float, places: dict[str, ArtifactLike | None]) -> None:
    given = [name for name, place in places.items() if place is not None]
    if rows is None and not given:
        raise UsageError("neither rows nor a table of them", "give rows, a pool, scores or evidence")
    if rows is not None and given:
        raise UsageError(f"rows {rows} with {', '.join(given)}, which has rows of its own", "leave rows out")
    if (rows is not None and rows < 1) or epochs < 1 or not 0 < keep <= 1:
        raise UsageError(f"rows {rows}, epochs {epochs}, keep {keep}", "need rows >= 1, epochs >= 1, 0 < keep <= 1")


def _check_needs(rule: Policy, places: dict[str, ArtifactLike | None]) -> None:
    for name in sorted(rule.needs & _SOURCES.keys()):
        source = _SOURCES[name]
        if places[source] is None:
            raise UsageError(f"policy {rule.name} needs {name}, and there is no {source}", _REMEDIES[source])


def _open(rows: int | None, places: dict[str, ArtifactLike | None]) -> _Known:
    if rows is not None:
        return _Known(np.ones(rows, dtype=bool))
    tables = {kind: open_table(place, kind) for kind in ("scores", "evidence") if (place := places[kind]) is not None}
    labels = None
    if places["pool"] is not None:
        pool = pool_for("plan", places["pool"])
        labels = pool.labels()
        candidates = (pool.splits() == TRAIN) & (labels >= 0)
        if not candidates.any():
            raise InputError("no training row has a label", "ingest a source with labels, or give rows")
    else:
        candidates = _in_all(tables)
    factor = _factors(tables["scores"], candidates) if "scores" in tables else None
    return _Known(candidates, labels, factor, tables)


def _in_all(tables: dict[str, RowTable]) -> BoolArray:
    """bool[N]: rows that every table has."""
    found = [table.row_ids() for table in tables.values()]
    times = np.bincount(np.concatenate(found))
    if len(times) == 0 or times.max() < len(found):
        raise InputError(f"no row is in {' and in '.join(tables)}", "give tables of the same pool, with rows")
    flags: BoolArray = times == len(found)
    return flags


def _factors(scores: RowTable, candidates: BoolArray) -> Int32Array:
    """int32[N]: the strongest factors of the candidates, -1 without one and for all others."""
    table = scores.scan(["row_id", "factor"])
    row_ids = table.column("row_id").to_numpy()
    inside = row_ids < len(candidates)  # what lies beyond is refused when the ledger gets its scores
    factor = np.full(len(candidates), -1, dtype=np.int32)
    factor[row_ids[inside]] = table.column("factor").to_numpy()[inside]
    factor[~candidates] = -1
    return factor


def _numbers(policy: str, rule: Policy, shares: KeptShares, epochs: int, candidates: int) -> JsonObject:
    """Numbers of rows of every epoch, which need no losses."""
    kept = planned_visits(rule, shares, epochs, candidates)
    return {"policy": policy, "rows": candidates, "epochs": len(kept), "samples": sum(kept), "kept": kept}


def _simulate(ledger: SelectionLedger, known: _Known, epochs: int) -> dict[str, list[Any]]:
    """Selects and commits every epoch; figures of each, empty where there is nothing to say."""
    by_epoch: dict[str, list[Any]] = {
        "kept": [],
        "never_used_by_epoch": [],
        "factors_covered": [],
        "factors_covered_at_random": [],
        "factors_covered_so_far": [],
        "largest_weight": [],
    }
    covered = None if known.factor is None else _Covered(known.factor, int(known.candidates.sum()))
    for epoch in range(epochs):
        subset = ledger.select(epoch)
        ledger.commit(epoch)
        by_epoch["kept"].append(len(subset))
        by_epoch["never_used_by_epoch"].append(round(ledger.never_used_share(), 6))
        if covered is not None:
            now, so_far = covered.add(subset.row_ids)
            by_epoch["factors_covered"].append(round(now, 4))
            by_epoch["factors_covered_at_random"].append(round(covered.at_random(len(subset)), 4))
            by_epoch["factors_covered_so_far"].append(round(so_far, 4))
        if subset.weights is not None:
            by_epoch["largest_weight"].append(round(float(subset.weights.max()), 4))
    return by_epoch


class _Covered:
    """Counts the factors that selected rows have, out of those that candidates have."""

    def __init__(self, factor: Int32Array, candidates: int) -> None:
        self._factor, self._candidates = factor, candidates
        self._sizes = np.unique(factor[factor >= 0], return_counts=True)[1]
        self._seen = np.zeros(int(factor.max(initial=0)) + 1, dtype=bool)
        self._all = max(1, int(self._flags(factor).sum()))

    def add(self, row_ids: Int64Array) -> tuple[float, float]:
        """Share of the factors that some rows have, and with all rows before them."""
        now = self._flags(self._factor[row_ids])
        self._seen |= now
        return float(now.sum() / self._all), float(self._seen.sum() / self._all)

    def at_random(self, rows: int) -> float:
        """Mean share of the factors that so many random candidates have."""
        return random_coverage(self._sizes, self._candidates, rows)

    def _flags(self, factor: Int32Array) -> BoolArray:
        flags = np.zeros_like(self._seen)
        flags[factor[factor >= 0]] = True
        return flags
