"""Doubt about labels by the number of rows: from how many on right labels stay undoubted and wrong ones are found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.battery.doubt import quality
from benchmarks.battery.labels import describe, standard_features
from benchmarks.battery.options import Options
from benchmarks.battery.pools import Ids, Place, loaded
from benchmarks.battery.settings import CLEAN, make_setting
from benchmarks.common import note
from benchmarks.policies.data import Vectors, components
from coevo_ray.core.probes.label_doubt import DOUBTED, label_doubt
from coevo_ray.core.probes.noise_matrix import fewest_rows

SIZES = (200, 300, 400, 500, 600, 800, 1000, 1500, 2000, 3000, 4000)
SETTINGS = (CLEAN, "pair_noise")
Figures = dict[str, float]


def measure(places: Sequence[Place], options: Options) -> dict[str, Any]:
    """Runs the part of the battery on doubt among few rows: mistakes are looked for in however few there are.

    Args:
        places: the pools.
        options: of the run; each seed draws the rows again.

    Returns:
        `pools`: pool -> what it is; `table`: pool -> rows -> `fewest`, rows from which the product looks for mistakes;
        `alarms`, share of the draws of right labels in which some are doubted; `clean`, share of right labels that are
        doubted, mean over the draws; `recall` and `precision`, means, a fifth of the labels being those of the most
        similar class; `left_out`: priors that are not there, and why; `page`: for people.
    """
    result: dict[str, Any] = {"pools": {}, "table": {}, "left_out": {}}
    for pool in loaded(places, options.limits):
        features, result["left_out"][pool.modality] = standard_features(pool, replace(options, settings=SETTINGS))
        result["pools"][pool.name] = describe(pool, features)
        rows, labels = features.train.astype(np.float32), pool.train.labels
        sizes = [size for size in SIZES if size <= len(rows)]
        sizes = sizes[:2] if options.quick else sizes
        result["table"][pool.name] = {}
        for size in sizes:
            found = _summed_up([_draw(rows, labels, size, seed) for seed in range(options.seeds)])
            result["table"][pool.name][str(size)] = found
            note(f"{pool.name} {size} rows: {found}")
    return {**result, "page": list(page_of(result, options.seeds))}


def _draw(features: Vectors, labels: Ids, size: int, seed: int) -> Figures:
    """One draw of rows, with right labels and with wrong ones."""
    drawn = np.random.default_rng([seed, size]).permutation(len(labels))[:size]
    rows, _ = components(features[drawn], features[drawn[:2]])
    given = np.unique(labels[drawn], return_inverse=True)[1].astype(np.int64)  # classes that are there
    figures: Figures = {"fewest": float(fewest_rows(given))}
    for name in SETTINGS:
        setting = make_setting(name, given, int(given.max()) + 1, seed, rows)
        doubt = label_doubt(rows[setting.rows], setting.labels, seed=seed, fewest=0)
        told = quality(doubt > DOUBTED, setting.labels != setting.true)
        figures |= {"clean": told["flagged"]} if name == CLEAN else {k: told[k] for k in ("recall", "precision")}
    return figures


def _summed_up(draws: list[Figures]) -> Figures:
    mean = {name: round(float(np.mean([each[name] for each in draws])), 4) for name in draws[0]}
    return {**mean, "alarms": round(float(np.mean([each["clean"] > 0 for each in draws])), 4)}


def page_of(result: dict[str, Any], seeds: int) -> Iterator[str]:
    """The page: for each pool the figures by the number of rows."""
    yield from ("# doubt_rows", "")
    yield f"Percent, mean over {seeds} draws of so many rows. `draws with alarms`: some right labels are doubted;"
    yield "`right labels doubted`: of all draws; recall and precision where a fifth of the labels is that of the most"
    yield "similar class. Mistakes are looked for in however few rows; `judged` says whether the product does so."
    for pool, sizes in result["table"].items():
        facts = result["pools"][pool]
        yield from ("", f"## {pool}", "", f"{facts['classes']} classes, {facts['prior']}.", "")
        yield "| rows | judged | draws with alarms | right labels doubted | recall | precision |"
        yield "|---|---|---|---|---|---|"
        for size, found in sizes.items():
            shown = (f"{100 * found[name]:.1f}" for name in ("alarms", "clean", "recall", "precision"))
            judged = "yes" if int(size) >= found["fewest"] else "no"
            yield "| " + " | ".join((f"{int(size):,}", judged, *shown)) + " |"
