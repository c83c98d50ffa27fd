"""Doubt about labels on every pool: how many wrong labels are found, how many right ones are suspected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.battery.heads import fit_tuned, stratified_folds
from benchmarks.battery.labels import describe, standard_features
from benchmarks.battery.options import Options
from benchmarks.battery.pools import Ids, Place, loaded
from benchmarks.battery.settings import NOISE, Setting, make_setting
from benchmarks.battery.verdicts import cell
from benchmarks.common import note
from benchmarks.policies.data import Vectors, components
from coevo_ray.core.probes.former_doubt import former_doubt, mistake_rates
from coevo_ray.core.probes.label_doubt import cross_fitted, fold_of, fold_probes, label_doubt, predict_folds

HARD = "hard_noise"
SETTINGS = ("clean", "noise", "pair_noise", HARD)
OURS, FORMER, LIKELIEST = "evidence", "version_0_1_0", "not_the_likeliest"
# cleanlab's filters (Northcutt et al. 2021, arXiv 1911.00068), on the same cross-fitted probabilities.
CLEANLAB = {"cleanlab_by_noise_rate": "prune_by_noise_rate", "cleanlab_confident": "confident_learning"}
# The pools on which the constants of the rule were chosen.
CHOSEN_ON = ("digits", "cifar10", "tiny_imagenet", "banking77")
_DOUBTED = 0.5
_FOLDS = 2

Flags = npt.NDArray[np.bool_]
Figures = dict[str, float]


def measure(places: Sequence[Place], options: Options) -> dict[str, Any]:
    """Runs the part of the battery on doubt about labels.

    Args:
        places: the pools.
        options: of the run; of its settings those with wrong labels and `clean` count, `hard_noise` is always there.

    Returns:
        `pools`: pool -> what it is; `table`: pool -> setting -> method -> `flagged`, and where labels are wrong
        `recall` and `precision`: `mean`, `spread` and `values` over the seeds; `chosen_on`: the pools on which our
        constants were chosen; `left_out`: priors, and methods, that are not there, and why; `page`: for people.
    """
    settings = tuple(name for name in SETTINGS if name in options.settings or name == HARD)
    result: dict[str, Any] = {"pools": {}, "table": {}, "chosen_on": list(CHOSEN_ON), "left_out": {}}
    if find_spec("cleanlab") is None:
        result["left_out"]["methods"] = dict.fromkeys(CLEANLAB, "cleanlab is not installed")
    for pool in loaded(places, options.limits):
        features, result["left_out"][pool.modality] = standard_features(pool, replace(options, settings=settings))
        result["pools"][pool.name] = describe(pool, features)
        rows, _ = components(features.train.astype(np.float32), features.test.astype(np.float32))
        result["table"][pool.name] = {
            name: _cells([_figures(pool.name, rows, pool.train.labels, name, seed) for seed in range(options.seeds)])
            for name in settings
        }
    return {**result, "page": list(_page(result, options.seeds))}


def hard_noise(features: Vectors, labels: Ids, classes: int, seed: int) -> Setting:
    """Moves the labels of the hardest fifth of the rows to the likeliest other class.

    Hard are rows of the least margin between the label's probability and the largest other one, under tuned heads that
    were fitted on the true labels of other rows: mistakes depend on features, not on the class alone.

    Args:
        features: float32[n, d].
        labels: int64[n], the true ones.
        classes: C.
        seed: of the folds.
    """
    every = np.arange(len(labels))
    fold = stratified_folds(labels, _FOLDS, seed)
    others = np.empty((len(labels), classes), dtype=np.float64)
    for part in range(_FOLDS):
        head = fit_tuned(features[fold != part], labels[fold != part], classes, seed)
        others[fold == part] = head.predict_proba(features[fold == part])
    own = others[every, labels]
    others[every, labels] = -1.0
    hardest = np.argsort(own - others.max(axis=1), kind="stable")[: round(NOISE * len(labels))]
    given = labels.copy()
    given[hardest] = others[hardest].argmax(axis=1)
    return Setting(HARD, seed, every, given, labels, every)


def flags(features: Vectors, labels: Ids, seed: int) -> dict[str, Flags]:
    """The rows whose label each method suspects, bool[n] by method; those of cleanlab where it is installed."""
    probabilities = cross_fitted(features, labels, folds=_FOLDS, seed=seed)
    found = {
        OURS: label_doubt(features, labels, folds=_FOLDS, seed=seed) > _DOUBTED,
        FORMER: _former(features, labels, seed),
        LIKELIEST: probabilities.argmax(axis=1) != labels,
    }
    if find_spec("cleanlab") is not None:
        from cleanlab.filter import find_label_issues

        for name, rule in CLEANLAB.items():
            found[name] = np.asarray(find_label_issues(labels, probabilities, filter_by=rule, n_jobs=1), dtype=bool)
    return found


def _former(features: Vectors, labels: Ids, seed: int) -> Flags:
    fold = fold_of(np.arange(len(labels), dtype=np.int64), _FOLDS, seed)
    classes = int(labels.max()) + 1
    probes = fold_probes(features, labels, fold, folds=_FOLDS, classes=classes, scaling="each")
    probabilities = predict_folds(probes, features, fold)
    doubted: Flags = former_doubt(probabilities, labels, mistake_rates(probabilities, labels)) > _DOUBTED
    return doubted


def quality(flagged: Flags, wrong: Flags) -> Figures:
    """`flagged`, share of the rows; where labels are wrong also `recall` and `precision` (0 where none is flagged)."""
    figures = {"flagged": float(flagged.mean())}
    if wrong.any():
        hits = float((flagged & wrong).sum())
        figures |= {"recall": hits / float(wrong.sum()), "precision": hits / max(1.0, float(flagged.sum()))}
    return figures


def _figures(pool: str, features: Vectors, labels: Ids, name: str, seed: int) -> dict[str, Figures]:
    """Method -> figures of one setting and seed."""
    classes = int(labels.max()) + 1
    if name == HARD:
        setting = hard_noise(features, labels, classes, seed)
    else:
        setting = make_setting(name, labels, classes, seed, features)
    wrong = setting.labels != setting.true
    found = flags(features[setting.rows], setting.labels, seed)
    figures = {method: quality(flagged, wrong) for method, flagged in found.items()}
    note(f"{pool} {name} seed {seed}: " + ", ".join(f"{method} {_short(each)}" for method, each in figures.items()))
    return figures


def _cells(seeds: Sequence[dict[str, Figures]]) -> dict[str, dict[str, Any]]:
    """Method -> figure -> cell."""
    return {
        method: {figure: cell([each[method][figure] for each in seeds]) for figure in seeds[0][method]}
        for method in seeds[0]
    }


def _page(result: dict[str, Any], seeds: int) -> Iterator[str]:
    yield from (
        "# doubt",
        "",
        f"Percent, mean over {seeds} seeds +- standard deviation. A fifth of the labels is wrong:",
    )
    yield "`noise` any other class, `pair_noise` the most similar class, `hard_noise` the likeliest other class at"
    yield "the rows of the least margin."
    for pool, settings in result["table"].items():
        facts, on = result["pools"][pool], result["chosen_on"]
        chosen = "were" if pool in on else "were not"
        yield from ("", f"## {pool}", "", f"{facts['rows']:,} rows, {facts['classes']} classes, {facts['prior']}.")
        yield from (f"The constants of `{OURS}` {chosen} chosen on this pool.", "")
        yield from ("| setting | method | recall | precision | flagged |", "|---|---|---|---|---|")
        for setting, methods in settings.items():
            for method, cells in methods.items():
                shown = (_shown(cells.get(figure)) for figure in ("recall", "precision", "flagged"))
                yield "| " + " | ".join((setting, method, *shown)) + " |"


def _shown(found: dict[str, Any] | None) -> str:
    return f"{100 * found['mean']:.1f} +- {100 * found['spread']:.1f}" if found else ""


def _short(figures: Figures) -> str:
    return "/".join(f"{100 * value:.0f}" for value in figures.values())
