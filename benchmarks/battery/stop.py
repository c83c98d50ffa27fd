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
from coevo_ray.core.gate.forecast import Interval
from coevo_ray.core.gate.gate import AnnotationGate
from coevo_ray.core.graph.graph import build_graph
from coevo_ray.core.probes.light_classifier import LightClassifier, fit_light_classifier

# Shares of the labels at which a forecast is judged: at the first round with as many.
SHARES = (0.1, 0.2, 0.3, 0.5)
_KEPT = 0.2
_ENDLESS: dict[str, Any] = {"tolerance": 0.0, "relative_gain": 0.0, "loss_tolerance": 0.0}
_NEIGHBOURS = 16
_UNTIL = 0.6
_LAST_TUNED = 1000  # rows by which the penalty with all labels is chosen, at random
# Without rows for validation the gate stops by the loss on its first labels, as version 0.1.0 did.
WAYS = {"gate": {}, "without_validation": {"validation_share": 0.0}}
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
        stopped_by: the reason for which the gate would end here.
        further: forecast of what all further labels add.
        level: forecast of the accuracy with all labels.
        mean_gain: of the unlabelled rows.
        validated: accuracy on the validation rows, and their number.
    """

    labels: int
    told: int
    accuracy: float
    stopped_by: str | None
    further: Interval | None
    level: Interval | None
    mean_gain: float
    validated: tuple[float, int]


def measure(places: Sequence[Place], options: Options) -> dict[str, Any]:
    """Runs the part of the battery on the stop.

    Args:
        places: the pools.
        options: of the run.

    Returns:
        `pools`: pool -> what it is; `table`: pool -> setting -> way -> `share` of all labels at the stop, `lost` points
        of accuracy there against all labels, `accuracy` there, each with mean, spread and values, and `stopped_by`;
        `forecasts`: pool -> setting -> share -> whether the 90 % intervals held, seed by seed: `further` labels' gain,
        and the `level` that they lead to; their `width` in points, and what came (`truth`);
        `held`: share of all runs in which they held; `page`: for people.
    """
    result: dict[str, Any] = {"pools": {}, "table": {}, "forecasts": {}, "left_out": {}, "chosen_on": list(CHOSEN_ON)}
    for pool in loaded(places, options.limits):
        features, result["left_out"][pool.modality] = standard_features(pool, options)
        result["pools"][pool.name] = describe(pool, features)
        found = {name: _setting(pool, features, name, options) for name in options.settings}
        result["table"][pool.name] = {name: each[0] for name, each in found.items()}
        result["forecasts"][pool.name] = {name: each[1] for name, each in found.items()}
    result["held"] = held(result["forecasts"])
    return {**result, "page": list(_page(result, options.seeds))}


def held(forecasts: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Of all runs, the share in which an interval held: what -> share of labels -> share of runs."""
    cells = [each for settings in forecasts.values() for shares in settings.values() for each in shares.items()]
    return {
        what: {
            share: float(np.mean([value for s, each in cells if s == share for value in each[what]]))
            for share in sorted({s for s, _ in cells})
        }
        for what in ("further", "level")
    }


def _setting(pool: Pool, features: Features, name: str, options: Options) -> tuple[dict[str, Any], dict[str, Any]]:
    runs: dict[str, list[list[Round]]] = {way: [] for way in WAYS}
    for seed in range(options.seeds):
        rows = rows_of_setting(pool, features, name, seed)
        for way, settings in WAYS.items():
            runs[way].append(run(rows, seed, **settings))
            end = stopped(runs[way][-1])
            note(f"{pool.name} {name} {way} seed {seed}: {end.labels / len(rows.labels):.3f} {end.stopped_by}")
    table = {way: _ends(of_seeds) for way, of_seeds in runs.items()}
    return table, {str(share): _judged(runs["gate"], share) for share in SHARES}


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
    return Round(len(rows.labels), len(told), accuracy, "exhausted", None, None, 0.0, (0.0, 0))


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
    forecast = gate.forecast
    mean = (head(rows.judged).argmax(axis=1) == rows.truth).mean()
    checked = gate.inner.reserved[gate.inner.validating]
    right = head(rows.features[checked]).argmax(axis=1) == rows.labels[checked]
    return Round(
        gate.labelled_rows,
        len(gate.inner.told),
        float(mean),
        stops,
        None if forecast is None else forecast.gain(forecast.total),
        None if forecast is None else forecast.accuracy_at(forecast.total),
        float(gate.mean_gain or 0.0),
        (float(right.mean()) if len(right) else 0.0, len(right)),
    )


def stopped(rounds: Sequence[Round]) -> Round:
    """The round in which the gate would have ended."""
    return next(each for each in rounds if each.stopped_by is not None)


def _ends(runs: Sequence[Sequence[Round]]) -> dict[str, Any]:
    ends = [stopped(rounds) for rounds in runs]
    return {
        "share": cell([end.labels / rounds[-1].labels for end, rounds in zip(ends, runs, strict=True)]),
        "lost": cell([rounds[-1].accuracy - end.accuracy for end, rounds in zip(ends, runs, strict=True)]),
        "accuracy": cell([end.accuracy for end in ends]),
        "stopped_by": [end.stopped_by for end in ends],
    }


def _judged(runs: Sequence[Sequence[Round]], share: float) -> dict[str, Any]:
    """Forecasts at a share of the labels, for all labels."""
    found: dict[str, Any] = {"further": [], "level": [], "width": [], "truth": [], "middle": []}
    for rounds in runs:
        at = next(each for each in rounds if each.labels >= share * rounds[-1].labels)
        assert at.further is not None and at.level is not None
        came, end = rounds[-1].accuracy - at.accuracy, rounds[-1].accuracy
        found["further"].append(at.further.low <= came <= at.further.high)
        found["level"].append(at.level.low <= end <= at.level.high)
        found["width"].append([at.further.high - at.further.low, at.level.high - at.level.low])
        found["truth"].append(came)
        found["middle"].append(at.further.middle)
    return found


def _page(result: dict[str, Any], seeds: int) -> Iterator[str]:
    yield from ("# The gate's stop and its forecasts", "")
    yield f"Means over {seeds} seeds +- standard deviation. Lost: points of accuracy at the stop against all labels."
    yield from (
        "",
        "| pool | setting | stop | labels | lost | accuracy | stopped by |",
        "|---|---|---|---|---|---|---|",
    )
    for pool, settings in result["table"].items():
        for setting, ways in settings.items():
            for way, end in ways.items():
                reasons = ", ".join(dict.fromkeys(end["stopped_by"]))
                figures = (_points(end[name]) for name in ("share", "lost", "accuracy"))
                yield f"| {pool} | {setting} | {way} | {' | '.join(figures)} | {reasons} |"
    yield from ("", "Forecasts of what all further labels add, in points: middle and width of the 90 % interval, what")
    yield from ("came, and how often the interval held; then for the accuracy with all labels.", "")
    yield "| pool | setting | labels | forecast | width | came | held | width of level | held |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for pool, settings in result["forecasts"].items():
        for setting, shares in settings.items():
            for share, each in shares.items():
                width = 100 * np.mean(each["width"], axis=0)
                yield (
                    f"| {pool} | {setting} | {100 * float(share):g} % | {100 * np.mean(each['middle']):.1f} | "
                    f"{width[0]:.1f} | {100 * np.mean(each['truth']):.1f} | {sum(each['further'])} of {seeds} | "
                    f"{width[1]:.1f} | {sum(each['level'])} of {seeds} |"
                )
    yield ""
    for what, shares in result["held"].items():
        said = ", ".join(f"{100 * value:.0f} % at {100 * float(share):g} %" for share, value in shares.items())
        yield f"- intervals of {what} held in: {said}"


def _points(found: dict[str, Any]) -> str:
    return f"{100 * found['mean']:.1f} +- {100 * found['spread']:.1f}"
