"""The gate's own stop and its forecasts on every pool, with the product's light classifier.

    python -m benchmarks.battery stop --json [--settings clean]

A fifth of a setting's rows is kept from the gate: what a forecast says of further labels is judged on them, and on the
test rows too where these are of the same kind. The gate is run beyond its stop, to six tenths of the labels or to the
stop where that is later; then the model learns from all rows but those for validation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from benchmarks.battery.encoding import Features
from benchmarks.battery.labels import describe, setting_of, standard_features
from benchmarks.battery.options import Options
from benchmarks.battery.pools import Ids, Place, Pool, loaded
from benchmarks.battery.settings import CLEAN
from benchmarks.battery.verdicts import cell
from benchmarks.common import note
from benchmarks.labels.data import Vectors, principal_components
from coevo_ray.config import GateSettings
from coevo_ray.core.gate.forecast import Forecast, Measured, Usual
from coevo_ray.core.gate.gate import AnnotationGate
from coevo_ray.core.graph.graph import build_graph
from coevo_ray.core.probes.light_classifier import LightClassifier, fit_light_classifier
from coevo_ray.core.probes.probe import LinearProbe

# Shares of the labels at which a forecast is judged: at the first round with as many.
SHARES = (0.1, 0.2, 0.3, 0.5)
_TITLES = {"forecasts": "as the product makes them", "left_out_pool": "with what is usual taken from the other pools"}
_KEPT = 0.2
_ENDLESS: dict[str, Any] = {"tolerance": 0.0, "relative_gain": 0.0, "loss_tolerance": 0.0}
_NEIGHBOURS = 16
_UNTIL = 0.6
_USUAL_SHARES, _LEAST_KAPPA = (0.1, 0.2, 0.3), 0.01
_LAST_TUNED = 1000  # rows by which the penalty with all labels is chosen, at random
# Without rows for validation the gate stops by the loss on its first labels, as version 0.1.0 did.
GATE = "gate"
WAYS: dict[str, dict[str, Any]] = {GATE: {}, "without_validation": {"validation_share": 0.0}}
CHOSEN_ON = ("digits", "cifar10", "tiny_imagenet", "banking77", "debian_sections")


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one setting for a gate, and those that judge it.

    Attributes:
        features: float32[n, d].
        labels: int64[n], as an annotator gives them.
        judged: float32[t, d].
        truth: int64[t], labels of the same kind.
        classes: C.
    """

    features: Vectors
    labels: Ids
    judged: Vectors
    truth: Ids
    classes: int


class Round(NamedTuple):
    """A round of a gate.

    Attributes:
        labels: so far, those for validation included.
        told: labels that the model has learned from.
        accuracy: of the model on the judged rows.
        everything: accuracy of a model that learned from all labels so far, those for validation too.
        stopped_by: the reason for which the gate would end here.
        measured: what the forecast follows from.
        total: rows that the model may learn from.
    """

    labels: int
    told: int
    accuracy: float
    everything: float
    stopped_by: str | None
    measured: list[Measured]
    total: int


Ways = dict[str, list[list[Round]]]  # way -> seed -> rounds


def measure(places: Sequence[Place], options: Options) -> dict[str, Any]:
    """Runs the part of the battery on the stop.

    Args:
        places: the pools.
        options: of the run.

    Returns:
        `pools`: pool -> what it is; `table`: pool -> setting -> way -> `share` of all labels at the stop, `lost`, the
        accuracy with all labels less that there, `accuracy` there, and by share of labels (`at_0.1`) the accuracy of
        a model that learned from all of them: each with mean, spread and values; `stopped_by`, seed by seed;
        `forecasts`: pool -> setting -> share -> seed by seed `came` (what all further labels added), `middle`, `low`
        and `high` of its forecast, `held` (it was within), and `level_held` (the accuracy with all labels was within
        its interval); `left_out_pool`: the same with what is usual taken from the other pools; `usual`: what that
        is for each pool; `held`: share of all runs in which intervals held; `page`: for people.
    """
    result: dict[str, Any] = {"pools": {}, "table": {}, "left_out": {}, "chosen_on": list(CHOSEN_ON)}
    runs: dict[str, dict[str, Ways]] = {}
    for pool in loaded(places, options.limits):
        features, result["left_out"][pool.modality] = standard_features(pool, options)
        result["pools"][pool.name] = describe(pool, features)
        runs[pool.name] = {name: _setting(pool, features, name, options) for name in options.settings}
        result["table"][pool.name] = {
            name: {way: _ends(of_seeds) for way, of_seeds in ways.items()} for name, ways in runs[pool.name].items()
        }
    others = {
        pool: usual_of(
            [each for other in runs if other != pool for ways in runs[other].values() for each in ways[GATE]]
        )
        for pool in runs
        if len(runs) > 1
    }
    result["usual"] = {pool: usual._asdict() for pool, usual in others.items()}
    result["forecasts"] = _forecasts(runs, dict.fromkeys(runs, Usual()))
    result["left_out_pool"] = _forecasts({pool: runs[pool] for pool in others}, others)
    result["held"] = {name: held(result[name]) for name in ("forecasts", "left_out_pool")}
    return {**result, "page": list(_page(result, options.seeds))}


def usual_of(runs: Sequence[Sequence[Round]]) -> Usual:
    """Kappa in some runs, its spread, and the factor by which it is larger later."""
    kappas, ratios = [], []
    for rounds in runs:
        for share in _USUAL_SHARES:
            before = rounds[: next(i for i, each in enumerate(rounds) if each.labels >= share * rounds[-1].labels) + 1]
            potentials = np.array([each.measured[-1].potential for each in before])
            kappa = (rounds[-1].accuracy - before[-1].accuracy) / potentials[-1]
            slope = np.polyfit(-potentials, [each.accuracy for each in before], 1)[0]
            kappas.append(max(kappa, _LEAST_KAPPA))
            ratios.append(kappa / max(slope, _LEAST_KAPPA))
    logs = np.log(kappas)
    return Usual()._replace(
        kappa=float(np.exp(np.median(logs))), spread=float(logs.std()), later=float(np.median(ratios))
    )


def _forecasts(runs: dict[str, dict[str, Ways]], usual: dict[str, Usual]) -> dict[str, Any]:
    return {
        pool: {
            name: {str(share): _judged(ways[GATE], share, usual[pool]) for share in SHARES}
            for name, ways in settings.items()
        }
        for pool, settings in runs.items()
    }


def held(forecasts: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Of all runs, the share in which an interval held: what -> share of labels -> share of runs."""
    cells = [each for settings in forecasts.values() for shares in settings.values() for each in shares.items()]
    return {
        what: {
            str(share): float(np.mean([value for s, each in cells if s == str(share) for value in each[what]]))
            for share in SHARES
            if cells
        }
        for what in ("held", "level_held")
    }


def _setting(pool: Pool, features: Features, name: str, options: Options) -> Ways:
    runs: Ways = {way: [] for way in WAYS}
    for seed in range(options.seeds):
        rows = rows_of_setting(pool, features, name, seed)
        for way, settings in WAYS.items():
            runs[way].append(run(rows, seed, **settings))
            end = stopped(runs[way][-1])
            note(f"{pool.name} {name} {way} seed {seed}: {end.labels / len(rows.labels):.3f} {end.stopped_by}")
    return runs


def rows_of_setting(pool: Pool, features: Features, name: str, seed: int) -> Rows:
    """A setting's rows for the gate, and those that judge it."""
    setting = setting_of(pool, features, name, seed)
    every = np.random.default_rng([seed, 11]).permutation(len(setting.labels))
    kept = np.sort(every[: round(_KEPT * len(every))])
    ours = np.sort(every[len(kept) :])
    x = features.rows[setting.rows].astype(np.float32)
    judged, truth = x[kept], setting.labels[kept]
    if name == CLEAN:
        judged = np.concatenate([judged, features.test.astype(np.float32)])
        truth = np.concatenate([truth, pool.test.labels])
    x, judged = principal_components(x[ours], judged)
    return Rows(x, setting.labels[ours], judged, truth, len(pool.classes))


def run(rows: Rows, seed: int, **settings: Any) -> list[Round]:
    """The gate over all its rounds, as the product runs it, but for its stop.

    Args:
        rows: of a setting.
        seed: of the gate.
        settings: of the gate, other than its defaults.
    """
    config = GateSettings(seed=seed, **settings)
    count, classes = len(rows.labels), rows.classes
    graph = build_graph(rows.features, _NEIGHBOURS, "exact", recall_sample=0, centre=True)
    rule = config.rule_for(count, classes)
    gate = AnnotationGate(replace(rule, **_ENDLESS), graph, np.ones(count, dtype=np.bool_))
    requests = gate.request_seed(config.seed_rows(count, classes))
    rounds: list[Round] = []
    decay: tuple[float | None, int] = (None, 0)
    while True:
        gate.submit(requests.positions, rows.labels[requests.positions])
        head, decay = _fitted(gate, rows, config, decay)
        gate.update_predictions(head(rows.features))
        if not gate.inner.reserved.size and head.validation_loss is not None:
            gate.note_loss(gate.rounds - 1, head.validation_loss)
        stops = AnnotationGate.from_state(rule, graph, *gate.state()).stopped_by
        rounds.append(_round(gate, rows, head, stops))
        if gate.labelled_rows >= _UNTIL * count and any(each.stopped_by for each in rounds):
            return [*rounds, _last(gate, rows, config)]
        requests = gate.request()


def _last(gate: AnnotationGate, rows: Rows, config: GateSettings) -> Round:
    """With all labels but those for validation."""
    told = np.setdiff1d(np.arange(len(rows.labels)), gate.inner.reserved)
    head = fit_light_classifier(
        rows.features[told],
        rows.labels[told],
        np.random.default_rng(config.seed).random(len(told)) < _LAST_TUNED / len(told),
        rows.classes,
        seed=config.seed,
    )
    accuracy = float((head(rows.judged).argmax(axis=1) == rows.truth).mean())
    return Round(len(rows.labels), len(told), accuracy, accuracy, "exhausted", [], len(told))


def _fitted(
    gate: AnnotationGate, rows: Rows, config: GateSettings, settled: tuple[float | None, int]
) -> tuple[LightClassifier, tuple[float | None, int]]:
    """The light classifier on the labels so far; its penalty is chosen anew once labels have doubled."""
    positions, labels, asked_in = gate.labels()
    untold = gate.is_validating(positions)
    told = positions[~untold]
    now = len(told)
    head = fit_light_classifier(
        rows.features[told],
        labels[~untold],
        asked_in[~untold] == 0,
        rows.classes,
        decay_rows=settled[0] if now < 2 * settled[1] else None,
        calibrate=config.calibrate,
        seed=config.seed,
        validation=(rows.features[positions[untold]], labels[untold]) if gate.inner.reserved.size else None,
    )
    return head, settled if now < 2 * settled[1] else (head.decay_rows, now)


def _round(gate: AnnotationGate, rows: Rows, head: LightClassifier, stops: str | None) -> Round:
    positions, labels, _ = gate.labels()
    every = LinearProbe.fit(rows.features[positions], labels, rows.classes, head.decay_rows / len(labels))
    accuracy, everything = (
        float((predicted.argmax(axis=1) == rows.truth).mean())
        for predicted in (head(rows.judged), every.predict_proba(rows.judged))
    )
    measured, told = gate.inner.measured_rounds(), len(gate.inner.told)
    return Round(len(labels), told, accuracy, everything, stops, measured, max(gate.inner.learnable, told))


def stopped(rounds: Sequence[Round]) -> Round:
    """The round in which the gate would have ended."""
    return next(each for each in rounds if each.stopped_by is not None)


def _at(rounds: Sequence[Round], share: float) -> Round:
    return next(each for each in rounds if each.labels >= share * rounds[-1].labels)


def _ends(runs: Sequence[Sequence[Round]]) -> dict[str, Any]:
    ends = [stopped(rounds) for rounds in runs]
    return {
        "share": cell([end.labels / rounds[-1].labels for end, rounds in zip(ends, runs, strict=True)]),
        "lost": cell([rounds[-1].accuracy - end.accuracy for end, rounds in zip(ends, runs, strict=True)]),
        "accuracy": cell([end.accuracy for end in ends]),
        **{f"at_{share}": cell([_at(rounds, share).everything for rounds in runs]) for share in SHARES},
        "stopped_by": [end.stopped_by for end in ends],
    }


def _judged(runs: Sequence[Sequence[Round]], share: float, usual: Usual) -> dict[str, Any]:
    """Forecasts at a share of the labels, for all labels, seed by seed."""
    found: dict[str, Any] = {name: [] for name in ("came", "low", "middle", "high", "held", "level_held")}
    for rounds in runs:
        at, end = _at(rounds, share), rounds[-1].accuracy
        forecast = Forecast.of(at.measured, at.total, usual)
        gain, level = forecast.gain(at.total), forecast.accuracy_at(at.total)
        came = end - at.accuracy
        found["came"].append(came)
        for name, value in gain._asdict().items():
            found[name].append(value)
        found["held"].append(gain.low <= came <= gain.high)
        found["level_held"].append(level is not None and level.low <= end <= level.high)
    return found


def _page(result: dict[str, Any], seeds: int) -> Iterator[str]:
    yield from ("# The gate's stop and its forecasts", "")
    yield f"Percent, means over {seeds} seeds +- standard deviation. Lost: accuracy with all labels less that at the"
    yield "stop. Columns of shares: accuracy of a model that learned from all labels so far, those for validation too."
    heads = [f"{100 * share:g} %" for share in SHARES]
    yield from ("", f"| pool | setting | stop | labels | lost | stopped by | {' | '.join(heads)} |", "|---" * 10 + "|")
    for pool, settings in result["table"].items():
        for setting, ways in settings.items():
            for way, end in ways.items():
                reasons = ", ".join(dict.fromkeys(end["stopped_by"]))
                shares = " | ".join(_points(end[f"at_{share}"]) for share in SHARES)
                stop = f"{_points(end['share'])} | {_points(end['lost'])} | {reasons}"
                yield f"| {pool} | {setting} | {way} | {stop} | {shares} |"
    for name, title in _TITLES.items():
        if not result[name]:  # there is no other pool
            continue
        yield from ("", f"Forecasts of what all further labels add, in points, {title}.", "")
        yield "| pool | setting | labels | forecast | 90 % interval | came | held | level held |"
        yield "|---|---|---|---|---|---|---|---|"
        for pool, settings in result[name].items():
            for setting, shares in settings.items():
                for share, each in shares.items():
                    low, middle, high, came = (
                        f"{100 * np.mean(each[column]):.1f}" for column in ("low", "middle", "high", "came")
                    )
                    kept = f"{sum(each['held'])} of {seeds} | {sum(each['level_held'])} of {seeds}"
                    labels = f"{100 * float(share):g} %"
                    yield f"| {pool} | {setting} | {labels} | {middle} | {low} to {high} | {came} | {kept} |"
        yield ""
        for what, values in result["held"][name].items():
            of = "gains" if what == "held" else "levels"
            said = ", ".join(f"{100 * value:.0f} % at {100 * float(share):g} %" for share, value in values.items())
            yield f"- intervals of {of} held in {said} of the labels"


def _points(found: dict[str, Any]) -> str:
    return f"{100 * found['mean']:.1f} +- {100 * found['spread']:.1f}"
