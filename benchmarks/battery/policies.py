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
from benchmarks.battery.verdicts import cell, lost_cells, verdicts
from benchmarks.common import note
from benchmarks.policies.data import Codes, Setting, Vectors, components, factors, with_evidence
from benchmarks.policies.heads import Head, train_heads
from benchmarks.policies.measure import ROWS
from coevo_ray.core.selection.policies import KeptShares

OURS = "factors"
SIMPLE = ("full_budget", "rotation", "random")
# Published rules that go by losses, and weigh, order or cluster them.
PUBLISHED = ("infobatch", "rho_loss", "order_dp", "repb", "rcap", "seta")
POLICIES = (OURS, *SIMPLE, *PUBLISHED)
# `full_budget` for the seconds of `factors`, those of making factors, copies and probes among them; no more than the
# full schedule.
SAME_SECONDS = "full_budget_seconds"
# `factors` with other constants, see `benchmarks.policies.measure.ROWS`.
VARIANTS = ("factors_bare", "factors_half_doubt")
# The pools on which the constants of `factors` were chosen, before there was a battery.
CHOSEN_ON = ("cifar10", "digits")
DECAYS = (1e-4, 1e-3, 5e-3, 2e-2)
HEAD = Head(hidden=256, epochs=20)
_SPENT = ("visits", "seconds", "preparation_seconds")
_QUICK_HEAD = Head(hidden=64, epochs=5)
QUICK_SAE_STEPS = 40

# A pool's rows and test rows as heads see them, the rows' factors, and the seconds of making those.
Known = tuple[Vectors, Vectors, Codes, float]
Trained = dict[str, float]  # see `tuned_training`


def measure(places: Sequence[Place], options: Options) -> dict[str, Any]:
    """Runs the part of the battery on selection policies.

    Args:
        places: the pools.
        options: of the run.

    Returns:
        `pools`: pool -> what it is; `table`: pool -> setting -> kept share -> policy -> `mean`, `spread` and `values`
        of the accuracy (mean over classes, on test rows), `weight_decays`, the chosen ones, and, mean over seeds,
        `visits` of rows, counted, `seconds` of the training with its selection, and `preparation_seconds` of making
        the factors, copies or probes that the policy looks at; `verdicts`: pool -> setting -> kept share -> `factors`
        against the best of the simple policies; `lost`: cells in which `factors` lost, see `find_lost`; `chosen_on`:
        the pools on which the constants of `factors` were chosen; `kept`: the shares; `head`; `left_out`: priors that
        are not there, and why; if it chooses, `constants`: pool -> `Choice`.
    """
    head = _QUICK_HEAD if options.quick else HEAD

    def prepare(pool: Pool, features: Features) -> Settings:
        known = rows_and_factors(features, QUICK_SAE_STEPS if options.quick else None)
        return lambda name: _setting(pool, features, known, name, head, options)

    result = over_pools(places, options, CHOSEN_ON, (OURS, *VARIANTS), prepare)
    lists = find_lost(result["table"])
    return {**result, **lists, "kept": list(options.kept), "head": {"hidden": head.hidden, "epochs": head.epochs}}


def find_lost(table: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """`lost`: the cells in which `factors` is below another policy by more than two standard errors, seed by seed.

    Args:
        table: see `measure`.

    Returns:
        For each `pool`, `setting`, `share`, and `method`, which is one of the policies or `SAME_SECONDS`; `points` with
        their `standard_error`.
    """
    return {"lost": lost_cells(table, {OURS: (*SIMPLE, *PUBLISHED, SAME_SECONDS)})}


def _setting(
    pool: Pool, features: Features, known: Known, name: str, head: Head, options: Options
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Kept share -> policy -> cell, and kept share -> verdicts on ours."""
    rows = (*POLICIES, *(VARIANTS if options.choose else ()))
    found: dict[str, dict[str, list[Trained]]] = {str(keep): {} for keep in options.kept}
    for seed in range(options.seeds):
        setting = evidence(pool, features, known, name, seed)
        full: dict[float, Trained] = {}  # `SAME_SECONDS` is often the full schedule, whatever the share
        for keep in options.kept:
            trained = {row: tuned_training(setting, row, head, keep, seed) for row in rows}
            longer = same_seconds(trained[OURS], trained["full_budget"], keep)
            if longer not in full:
                full[longer] = tuned_training(setting, "full_budget", head, longer, seed)
            for row, each in {**trained, SAME_SECONDS: full[longer]}.items():
                found[str(keep)].setdefault(row, []).append(each)
                about = f"{each['accuracy']:.4f}, decay {each['weight_decay']:g}"
                note(f"{pool.name} {name} {keep:g} {row} seed {seed}: {about}")
    table = {keep: {row: _cell(each) for row, each in trained.items()} for keep, trained in found.items()}
    said = {
        keep: verdicts({row: cells["values"] for row, cells in each.items()}, (OURS, *VARIANTS), SIMPLE)
        for keep, each in table.items()
    }
    return table, said


def _cell(trained: list[Trained]) -> dict[str, Any]:
    """The cell of one policy's trainings, one a seed."""
    means = {name: statistics.fmean(each[name] for each in trained) for name in _SPENT}
    spent = {**{name: round(value, 3) for name, value in means.items()}, "visits": round(means["visits"])}
    decays = [each["weight_decay"] for each in trained]
    return {**cell([each["accuracy"] for each in trained]), "weight_decays": decays, **spent}


def tuned_training(setting: Setting, row: str, head: Head, keep: float, seed: int) -> Trained:
    """A training under one row of the table, with the weight decay that is best for it.

    Returns:
        `accuracy`, `weight_decay`, `visits`, `seconds` and `preparation_seconds`.
    """
    policy, constants = ROWS[row]
    decay = best_decay(setting, row, head, keep, seed)
    tuned = replace(head, weight_decay=decay)
    trained = train_heads(setting, policy, constants, KeptShares(keep), tuned, [seed])
    spent = {name: trained[name] for name in _SPENT}
    return {"accuracy": trained["accuracy"][0], "weight_decay": decay, **spent}


def same_seconds(ours: Trained, full_budget: Trained, keep: float) -> float:
    """The share of the full schedule for which `full_budget` trains as long as ours with all that ours needs.

    Args:
        ours: the training whose seconds, with those of the preparation, are to be spent.
        full_budget: a training at the share `keep`, which says what a visit takes.
        keep: kept share of both.
    """
    times = (ours["seconds"] + ours["preparation_seconds"]) / full_budget["seconds"]
    return min(1.0, keep * times)


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


def best_decay(setting: Setting, row: str, head: Head, keep: float, seed: int) -> float:
    """The weight decay, of `DECAYS`, whose heads are best in 3-fold cross-validation on the training rows.

    Each row of the table has its own at each share, chosen by trainings under its policy on the labels as a trainer
    sees them. Factors, doubt and copies are those of all rows.
    """
    folds = stratified_folds(setting.labels, FOLDS, seed)
    policy, constants = ROWS[row]

    def accuracy(decay: float) -> float:
        tried = replace(head, weight_decay=decay)
        return statistics.fmean(
            train_heads(setting, policy, constants, KeptShares(keep), tried, [seed], folds == fold)["accuracy"][0]
            for fold in range(FOLDS)
        )

    return max(reversed(DECAYS), key=accuracy)
