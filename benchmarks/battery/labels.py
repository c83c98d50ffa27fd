"""Labels against accuracy on every pool and setting: the gate, random rows, the smallest margin, published rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.battery.encoding import Features, available_priors, encode_pool
from benchmarks.battery.heads import TunedLinear, fit_tuned
from benchmarks.battery.options import Options
from benchmarks.battery.pools import Ids, Place, Pool, loaded
from benchmarks.battery.settings import CLEAN, COPIES, Setting, make_setting
from benchmarks.battery.verdicts import cell, chosen_constants, lost_to, verdicts
from benchmarks.common import note
from benchmarks.labels.data import LabelPool, principal_components
from benchmarks.labels.method import Labelled
from benchmarks.labels.methods import make_method
from coevo_ray.config import GateSettings
from coevo_ray.core.graph.graph import build_graph

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
_BETWEEN = (0.075, 0.15, 0.25, 0.4)  # rounds that are not reported
FIRST, AREA = "first", "area"
GATE = "gate"
SIMPLE = ("random", "margin")
METHODS = (GATE, *SIMPLE)
# Published rules, see `benchmarks.labels.peers` and `benchmarks.labels.uherding`; on rows as they are, for some take
# minutes a curve.
PEERS = ("uherding", "activeml_typiclust", "activeml_badge", "activeml_drop_query")
# The gate with other settings, see `benchmarks.labels.methods.GATES`.
VARIANTS = ("gate_top",)
# The pools on which the gate's defaults were chosen; the draw's width and power on each four of the five.
CHOSEN_ON = ("digits", "cifar10", "tiny_imagenet", "banking77", "debian_sections")
_NEIGHBOURS = 16

Curve = dict[str, float]  # share -> accuracy
# Name of a setting -> its cells and its verdicts.
Settings = Callable[[str], tuple[dict[str, Any], dict[str, Any]]]


def measure(places: Sequence[Place], options: Options) -> dict[str, Any]:
    """Runs the part of the battery on labels.

    Args:
        places: the pools.
        options: of the run.

    Returns:
        `pools`: pool -> what it is; `table`: pool -> setting -> method -> share of labels (`first` for the random
        first rows, `area` for the mean over the logarithm of the share) -> `mean`, `spread` and `values` of the
        accuracy on test rows, `all_labels` among the methods with the one share 1; `verdicts`: pool -> setting -> share
        -> the gate against the best of the simple methods; `below_random` and `below_peer`: cells in which the gate
        lost, see `below`;
        `chosen_on`: the pools on which the gate's constants were chosen; `left_out`: priors that are not there, and
        why; if it chooses, `constants`: pool -> `Choice`.
    """

    def prepare(pool: Pool, features: Features) -> Settings:
        return lambda name: _setting(pool, features, name, options)

    result = over_pools(places, options, CHOSEN_ON, (GATE, *VARIANTS), prepare)
    return {**result, **find_below(result["table"])}


def find_below(table: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """`below_random` and `below_peer`: cells in which the gate lost, see `below`."""
    return {"below_random": below(table, ("random",)), "below_peer": below(table, ("margin", *PEERS))}


def below(table: dict[str, Any], others: Sequence[str]) -> list[dict[str, Any]]:
    """The cells in which the gate is below another method by more than two standard errors, seed by seed.

    Args:
        table: see `measure`.
        others: methods that it is compared with, each by itself.

    Returns:
        `pool`, `setting`, `share`, `method`, and `points` with their `standard_error`.
    """
    lost = []
    for pool, settings in table.items():
        for setting, methods in settings.items():
            for share in (share for share in methods[GATE] if share != FIRST):
                values = {name: found[share]["values"] for name, found in methods.items() if share in found}
                for said in lost_to(values, GATE, others):
                    lost.append({"pool": pool, "setting": setting, "share": share, **said})
    return lost


def over_pools(
    places: Sequence[Place],
    options: Options,
    chosen_on: Sequence[str],
    ours: Sequence[str],
    prepare: Callable[[Pool, Features], Settings],
) -> dict[str, Any]:
    """Measures every setting on every pool.

    Args:
        places: the pools.
        options: of the run.
        chosen_on: pools on which our constants were chosen.
        ours: our methods, among which constants are chosen.
        prepare: pool and standard features -> a function of a setting's name that gives its cells and verdicts.
    """
    result: dict[str, Any] = {"pools": {}, "table": {}, "verdicts": {}, "chosen_on": list(chosen_on), "left_out": {}}
    for pool in loaded(places, options.limits):
        features, result["left_out"][pool.modality] = standard_features(pool, options)
        result["pools"][pool.name] = describe(pool, features)
        setting = prepare(pool, features)
        found = {name: setting(name) for name in options.settings}
        result["table"][pool.name] = {name: cells for name, (cells, _) in found.items()}
        result["verdicts"][pool.name] = {name: said for name, (_, said) in found.items()}
    if options.choose:
        result["constants"] = chosen_constants(result["table"], ours)
    return result


def standard_features(pool: Pool, options: Options) -> tuple[Features, dict[str, str]]:
    """The features of the pool's standard prior, and the priors that are not there."""
    there, left_out = available_priors(pool.modality)
    return encode_pool(pool, options.cache, there[:1], COPIES in options.settings)[0], left_out


def describe(pool: Pool, features: Features) -> dict[str, Any]:
    """Facts about a pool for the result."""
    return {
        "modality": pool.modality,
        "classes": len(pool.classes),
        "rows": len(pool.train),
        "test_rows": len(pool.test),
        "prior": features.prior,
    }


def setting_of(pool: Pool, features: Features, name: str, seed: int) -> Setting:
    """A setting of a pool."""
    from benchmarks.battery.copies import copied_rows

    labels = pool.train.labels
    copies = copied_rows(len(labels)) if features.copies is not None else None
    return make_setting(name, labels, len(pool.classes), seed, features.train.astype(np.float32), copies)


def _setting(pool: Pool, features: Features, name: str, options: Options) -> tuple[dict[str, Any], dict[str, Any]]:
    """Method -> share -> cell, and share -> verdict on the gate."""
    wanted = name == CLEAN and not options.quick and find_spec("skactiveml") is not None
    peers = PEERS if wanted else ()
    methods = (*METHODS, *peers, *(VARIANTS if options.choose else ()))
    found: dict[str, list[Curve]] = {method: [] for method in (*methods, "all_labels")}
    for seed in range(options.seeds):
        rows = label_pool(pool, features, setting_of(pool, features, name, seed))
        for method in methods:
            found[method].append(curve(rows, method, seed, () if options.quick else _BETWEEN))
            note(f"{pool.name} {name} {method} seed {seed}: {_short(found[method][-1])}")
        found["all_labels"].append({"1": _accuracy(rows, fit_tuned(rows.features, rows.labels, rows.classes, seed))})
    return summed_up(found)


def summed_up(found: dict[str, list[Curve]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Method -> share -> cell, and share -> verdict, of the shares that all seeds have.

    Seeds of a long tail differ in rows, so that a share may be no more than the first rows in some of them.
    """
    table = {
        method: {
            share: cell([each[share] for each in curves])
            for share in curves[0]
            if all(share in each for each in curves)
        }
        for method, curves in found.items()
    }
    said = {}
    for share in table[GATE]:
        if share != FIRST:  # there every method has the same random rows
            values = {
                method: [each[share] for each in curves] for method, curves in found.items() if share in curves[0]
            }
            said[share] = verdicts(values, (GATE, *VARIANTS), SIMPLE)
    return table, said


def label_pool(pool: Pool, features: Features, setting: Setting) -> LabelPool:
    """The rows of a setting as the labels benchmark's methods take them: principal components and their graph.

    The labels are those that an annotator gives, wrong ones among them.
    """
    x, x_test = principal_components(features.rows[setting.rows], features.test.astype(np.float32))
    return LabelPool(
        features=x,
        labels=setting.labels,
        test_features=x_test,
        test_labels=pool.test.labels,
        graph=build_graph(x, _NEIGHBOURS, "exact", recall_sample=0),
        classes=len(pool.classes),
        rows=setting.rows,
    )


def curve(pool: LabelPool, name: str, seed: int, between: Sequence[float] = ()) -> Curve:
    """Accuracy of the tuned head at each share of labels, which one method chooses.

    `FIRST` stands for the product's random first rows; shares that are no more are left out. `AREA` is the mean of the
    accuracy over the logarithm of the number of labels, between those of the points.

    Args:
        pool: the rows.
        name: see `make_method`.
        seed: of the method, of the random first rows and of the folds.
        between: shares with a round whose accuracy is not reported.
    """
    rows = len(pool.labels)
    first = GateSettings().seed_rows(rows, pool.classes)  # the product's default; the same rows for every method
    reported = {first: FIRST}
    reported |= {round(share * rows): str(share) for share in SHARES if round(share * rows) > first}
    counts = sorted({*reported, *(count for share in between if (count := round(share * rows)) > first)})
    heads = zip(counts, _rounds(pool, name, seed, counts), strict=True)
    points = {count: _accuracy(pool, head) for count, head in heads if count in reported}
    x, y = np.log(list(points)), np.array(list(points.values()))
    area = {AREA: float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0]))} if len(points) > 1 else {}
    return {reported[count]: value for count, value in points.items()} | area


def _rounds(pool: LabelPool, name: str, seed: int, counts: Sequence[int]) -> Iterator[TunedLinear]:
    """The tuned head after each round; it is also the model that the method chooses by."""
    method = make_method(name, pool, seed)
    rows: Ids = np.zeros(0, dtype=np.int64)
    now = None
    for count in counts:
        new = method.first(count) if now is None else method.choose(now, count - len(rows))
        rows = np.concatenate([rows, new])
        head = fit_tuned(pool.features[rows], pool.labels[rows], pool.classes, seed)
        decay = 1.0 / (head.penalty * count)
        now = Labelled(rows, pool.labels[rows], counts[0], decay, head.probe, head.predict_proba(pool.features))
        yield head


def _accuracy(pool: LabelPool, head: TunedLinear) -> float:
    return float((head.predict(pool.test_features) == pool.test_labels).mean())


def _short(found: Curve) -> str:
    return ", ".join(f"{share} {value:.4f}" for share, value in found.items())
