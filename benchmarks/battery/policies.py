"""Policies on every pool and setting: heads on frozen features at equal visits."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.battery.encoding import Features
from benchmarks.battery.heads import FOLDS, stratified_folds
from benchmarks.battery.labels import Settings, over_pools, setting_of
from benchmarks.battery.options import Options
from benchmarks.battery.pools import Place, Pool
from benchmarks.battery.verdicts import cell, verdicts
from benchmarks.common import note
from benchmarks.policies.data import Codes, Setting, Vectors, components, factors, with_evidence
from benchmarks.policies.heads import Head, train_heads
from benchmarks.policies.measure import ROWS
from coevo_ray.core.selection.policies import KeptShares

KEEP = 0.3
OURS = "factors"
SIMPLE = ("full_budget", "rotation", "random")
# Published rules that go by losses, and weigh, order or cluster them.
PUBLISHED = ("infobatch", "rho_loss", "order_dp", "repb", "rcap", "seta")
POLICIES = (OURS, *SIMPLE, *PUBLISHED)
# `factors` with other constants, see `benchmarks.policies.measure.ROWS`.
VARIANTS = ("factors_bare", "factors_half_doubt")
# The pools on which the constants of `factors` were chosen, before there was a battery.
CHOSEN_ON = ("cifar10", "digits")
DECAYS = (1e-4, 1e-3, 5e-3, 2e-2)
HEAD = Head(hidden=256, epochs=20)
_SPENT = ("visits", "seconds", "preparation_seconds")
_QUICK_HEAD = Head(hidden=64, epochs=5)
_QUICK_SAE_STEPS = 40

# A pool's rows and test rows as heads see them, the rows' factors, and the seconds of making those.
Known = tuple[Vectors, Vectors, Codes, float]


def measure(places: Sequence[Place], options: Options) -> dict[str, Any]:
    """Runs the part of the battery on selection policies.

    Args:
        places: the pools.
        options: of the run.

    Returns:
        `pools`: pool -> what it is; `table`: pool -> setting -> policy -> `mean`, `spread` and `values` of the
        accuracy (mean over classes, on test rows), `weight_decays`, the chosen ones, and, mean over seeds, `visits` of
        rows, counted, `seconds` of the training with its selection, and `preparation_seconds` of making the factors,
        copies or probes that the policy looks at; `verdicts`: pool -> setting ->
        `factors` against the best of the simple policies; `chosen_on`: the pools on which the constants of `factors`
        were chosen; `keep`; `head`; `left_out`: priors that are not there, and why; if it
        chooses, `constants`: pool -> `Choice`.
    """
    head = _QUICK_HEAD if options.quick else HEAD

    def prepare(pool: Pool, features: Features) -> Settings:
        known = rows_and_factors(features, _QUICK_SAE_STEPS if options.quick else None)
        return lambda name: _setting(pool, features, known, name, head, options)

    result = over_pools(places, options, CHOSEN_ON, (OURS, *VARIANTS), prepare)
    return {**result, "keep": KEEP, "head": {"hidden": head.hidden, "epochs": head.epochs}}


def _setting(
    pool: Pool, features: Features, known: Known, name: str, head: Head, options: Options
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Policy -> cell, and the verdict on ours."""
    rows = (*POLICIES, *(VARIANTS if options.choose else ()))
    values: dict[str, list[float]] = {row: [] for row in rows}
    decays: dict[str, list[float]] = {row: [] for row in rows}
    spent: dict[str, list[dict[str, float]]] = {row: [] for row in rows}
    for seed in range(options.seeds):
        setting = evidence(pool, features, known, name, seed)
        for row in rows:
            decays[row].append(best_decay(setting, row, head, seed))
            policy, constants = ROWS[row]
            tuned = replace(head, weight_decay=decays[row][-1])
            trained = train_heads(setting, policy, constants, KeptShares(KEEP), tuned, [seed])
            values[row].append(trained["accuracy"][0])
            spent[row].append({name: trained[name] for name in _SPENT})
            note(f"{pool.name} {name} {row} seed {seed}: {values[row][-1]:.4f}, decay {decays[row][-1]:g}")
    table = {row: {**cell(values[row]), "weight_decays": decays[row], **_means(spent[row])} for row in rows}
    return table, verdicts(values, (OURS, *VARIANTS), SIMPLE)


def _means(spent: list[dict[str, float]]) -> dict[str, float]:
    means = {name: statistics.fmean(each[name] for each in spent) for name in _SPENT}
    return {**{name: round(value, 3) for name, value in means.items()}, "visits": round(means["visits"])}


def rows_and_factors(features: Features, sae_steps: int | None = None) -> Known:
    """Makes once what serves all settings of a pool: components and factors of training rows and near-copies.

    Neither depends on labels, so one fit serves all settings and seeds.
    """
    rows, test = components(features.rows, features.test.astype(np.float32))
    note(f"fitting factors of {len(rows):,} rows ...")
    begun = time.perf_counter()
    return rows, test, factors(rows, sae_steps), time.perf_counter() - begun


def evidence(pool: Pool, features: Features, known: Known, name: str, seed: int) -> Setting:
    """A setting of a pool as the policies benchmark's trainings take it, with factors, scores, doubt and copies."""
    drawn = setting_of(pool, features, name, seed)
    rows, test, (indices, values), seconds = known
    codes = indices[drawn.rows], values[drawn.rows]
    return with_evidence(drawn.rows, rows[drawn.rows], drawn.labels, test, pool.test.labels, codes, seconds)


def best_decay(setting: Setting, row: str, head: Head, seed: int) -> float:
    """The weight decay, of `DECAYS`, whose heads are best in 3-fold cross-validation on the training rows.

    Each row of the table has its own, chosen by trainings under its policy on the labels as a trainer sees them.
    Factors, doubt and copies are those of all rows.
    """
    folds = stratified_folds(setting.labels, FOLDS, seed)
    policy, constants = ROWS[row]

    def accuracy(decay: float) -> float:
        tried = replace(head, weight_decay=decay)
        return statistics.fmean(
            train_heads(setting, policy, constants, KeptShares(KEEP), tried, [seed], folds == fold)["accuracy"][0]
            for fold in range(FOLDS)
        )

    return max(reversed(DECAYS), key=accuracy)
