"""Policies under networks that learn from images: from random weights, and from a network of the pool's targets."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from benchmarks.battery.copies import make_copies
from benchmarks.battery.encoding import Features
from benchmarks.battery.heads import stratified_folds
from benchmarks.battery.labels import Settings, over_pools
from benchmarks.battery.network_training import Pictures, learn_targets, train_network
from benchmarks.battery.options import Options
from benchmarks.battery.policies import CHOSEN_ON, QUICK_SAE_STEPS, Known, evidence, rows_and_factors
from benchmarks.battery.pools import Ids, Place, Pool
from benchmarks.battery.settings import COPIES
from benchmarks.battery.verdicts import cell, lost_cells, verdicts
from benchmarks.common import note
from benchmarks.policies.data import Setting, Vectors
from benchmarks.policies.heads import Head, preparation_seconds
from benchmarks.policies.measure import ROWS
from coevo_ray.core.selection.policies import KeptShares, make_policy

OURS = "factors"
SIMPLE = ("full_budget", "rotation")
POLICIES = (OURS, *SIMPLE)
# Start of a network -> suffix of its rows.
STARTS = {"random weights": "", "targets": "_from_targets"}
# Each setting, share and start has the peak learning rate that is best with it.
_TUNED_BY = "full_budget"
_QUICK_EPOCHS, _QUICK_TARGET_EPOCHS, _QUICK_RATES = 2, 1, (0.03, 0.1)
_FOLDS = 5  # the first is held out to choose a rate


# Pool and its standard features -> targets float32[n + m, d] of training rows and near-copies behind them.
TargetsOf = Callable[[Pool, Features], Vectors]


def measure(places: Sequence[Place], options: Options, targets_of: TargetsOf | None = None) -> dict[str, Any]:
    """Runs the part of the battery on networks; text pools are passed over.

    Args:
        places: the pools.
        options: of the run.
        targets_of: what a start from targets learns; None for the standard prior's components, which `factors` looks
            at, too.

    Returns:
        As `policies.measure`, with the rows of `POLICIES` and the same from targets; `weight_decays` are not chosen,
        `rates` are, one for each start; `seconds` of rows from targets do not count the training on targets, which is
        in `target_epochs` passes over all rows; `model`, `image_size`.
    """
    images = [place for place in places if place.modality == "image"]
    head = Head(epochs=_QUICK_EPOCHS if options.quick else options.epochs)

    def prepare(pool: Pool, features: Features) -> Settings:
        known = rows_and_factors(features, QUICK_SAE_STEPS if options.quick else None)
        targets = known[0] if targets_of is None else targets_of(pool, features)
        trainings = _Trainings(pool, features, known, targets, head, options)
        return trainings.setting

    result = over_pools(images, options, CHOSEN_ON, (OURS,), prepare)
    about = {
        "kept": list(options.kept),
        "head": {"epochs": head.epochs},
        "target_epochs": _target_epochs(options),
        "model": options.network.model,
        "image_size": options.image_size,
    }
    return {**result, **find_lost(result["table"]), **about}


def find_lost(table: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """`lost`: cells in which `factors` is below another policy that has the same start, see `policies.find_lost`."""
    return {"lost": lost_cells(table, {OURS + end: [name + end for name in SIMPLE] for end in STARTS.values()})}


def pictures_of(pool: Pool, rows: Ids, size: int, with_copies: bool) -> Pictures:
    """The images of a setting.

    Args:
        pool: of images.
        rows: int64[n], training rows, near-copies behind them.
        size: pixels of their sides.
        with_copies: whether some rows are near-copies.
    """
    from coevo_ray.pool.images import decode_resized

    samples = [*pool.train.samples, *(make_copies(pool).samples if with_copies else ())]
    train, test = (
        np.stack([decode_resized(sample, size) for sample in part])  # type: ignore[arg-type]  # samples of image pools are bytes
        for part in ([samples[row] for row in rows], pool.test.samples)
    )
    return Pictures(*(np.ascontiguousarray(part.transpose(0, 3, 1, 2)) for part in (train, test)))


class _Trainings:
    """The trainings of one pool."""

    def __init__(
        self, pool: Pool, features: Features, known: Known, targets: Vectors, head: Head, options: Options
    ) -> None:
        self._pool, self._features, self._known, self._head, self._options = pool, features, known, head, options
        self._targets = targets
        self._learned: dict[tuple[int, bytes], nn.Module] = {}

    def setting(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Kept share -> policy -> cell, and kept share -> verdicts on ours, each start by itself."""
        found: dict[str, dict[str, list[dict[str, float]]]] = {str(keep): {} for keep in self._options.kept}
        rates: dict[tuple[float, str], float] = {}
        for seed in range(self._options.seeds):
            setting = evidence(self._pool, self._features, self._known, name, seed)
            pictures = pictures_of(self._pool, setting.rows, self._options.image_size, name == COPIES)
            starts = dict(zip(STARTS.values(), (None, self._start(setting, pictures, seed)), strict=True))
            for keep in self._options.kept:
                for end, start in starts.items():
                    if (keep, end) not in rates:
                        rates[keep, end] = self._rate(setting, pictures, keep, start)
                    for policy in POLICIES:
                        trained = self._trained(setting, pictures, policy, keep, rates[keep, end], seed, start)
                        found[str(keep)].setdefault(policy + end, []).append(trained)
                        about = f"{trained['accuracy']:.4f}, rate {trained['rate']:g}"
                        note(f"{self._pool.name} {name} {keep:g} {policy + end} seed {seed}: {about}")
        table = {keep: {row: _cell(each) for row, each in rows.items()} for keep, rows in found.items()}
        return table, {keep: _verdicts(rows) for keep, rows in table.items()}

    def _trained(
        self,
        setting: Setting,
        pictures: Pictures,
        row: str,
        keep: float,
        rate: float,
        seed: int,
        start: nn.Module | None,
    ) -> dict[str, float]:
        head, network = replace(self._head, learning_rate=rate), self._options.network
        trained = train_network(setting, pictures, ROWS[row], KeptShares(keep), head, seed, network, start)
        policy, constants = ROWS[row]
        before = preparation_seconds(setting, make_policy(policy, **constants))
        spent = {name: trained[name] for name in ("accuracy", "seconds", "visits")}
        return {**spent, "preparation_seconds": before, "rate": rate}

    def _rate(self, setting: Setting, pictures: Pictures, keep: float, start: nn.Module | None) -> float:
        """The rate, of the options', that is best on a held-out fold of the labels as a trainer sees them."""
        held_out = stratified_folds(setting.labels, _FOLDS, 0) == 0
        policy, network = ROWS[_TUNED_BY], self._options.network

        def accuracy(rate: float) -> float:
            head = replace(self._head, learning_rate=rate)
            tried = train_network(setting, pictures, policy, KeptShares(keep), head, 0, network, start, held_out)
            return float(tried["accuracy"])

        return max(_QUICK_RATES if self._options.quick else self._options.rates, key=accuracy)

    def _start(self, setting: Setting, pictures: Pictures, seed: int) -> nn.Module:
        """A backbone that learned the targets of these rows; settings with the same rows share it."""
        order = np.argsort(setting.rows)
        key = (seed, setting.rows[order].tobytes())
        if key not in self._learned:
            note(f"{self._pool.name}: learning targets of {len(order):,} rows, seed {seed} ...")
            images = Pictures(pictures.train[order], pictures.test)
            epochs = _target_epochs(self._options)
            targets = self._targets[setting.rows[order]]
            made = learn_targets(images, targets, self._options.network, epochs, seed)
            self._learned[key] = made.backbone
        return self._learned[key]


def _target_epochs(options: Options) -> int:
    return _QUICK_TARGET_EPOCHS if options.quick else options.epochs


def _cell(trained: list[dict[str, float]]) -> dict[str, Any]:
    """The cell of one row's trainings, one a seed."""
    means = {
        name: round(statistics.fmean(each[name] for each in trained), 3) for name in ("seconds", "preparation_seconds")
    }
    visits = round(statistics.fmean(each["visits"] for each in trained))
    return {**cell([each["accuracy"] for each in trained]), "rate": trained[0]["rate"], "visits": visits, **means}


def _verdicts(rows: dict[str, Any]) -> dict[str, dict[str, str | float]]:
    """Ours from each start against the simple policies from there."""
    values = {row: cells["values"] for row, cells in rows.items()}
    said: dict[str, dict[str, str | float]] = {}
    for end in STARTS.values():
        said |= verdicts(values, (OURS + end,), [name + end for name in SIMPLE])
    return said
