"""What a retrieval is worth, and what the seeds of the retrieval benchmark say together."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.labels.curve import accuracy_of
from benchmarks.labels.data import Ids, Vectors
from benchmarks.labels.summary import cell
from benchmarks.retrieval.data import FOREIGN, Case
from benchmarks.retrieval.methods import OPTIONS, OWN, RANDOM, RULES, TOP_GAIN, State, learned, own_rows, rows_by
from coevo_ray.core.probes.probe import LinearProbe

SHARES = ("near_copies", "foreign", "rare")
Found = Mapping[str, Any]


def run_case(case: Case, seed: int, counts: list[int], budgets: Sequence[int], decay_rows: float) -> dict[str, Any]:
    """What each method's rows are worth in one case.

    Args:
        case: the pools.
        seed: of the gate and of all chance.
        counts: own labels after each round of the gate; the last ones are there before anything is retrieved.
        budgets: rows to retrieve.
        decay_rows: the head's weight decay times labels.

    Returns:
        `before`, accuracy without further rows; `all_open`, with all useful open rows; `methods`: method -> budget ->
        `accuracy`, `rows`, shares (`SHARES`) of the rows, `seconds` of choosing.
    """
    state = learned(case, seed, counts, decay_rows)
    methods: dict[str, dict[int, dict[str, float]]] = {}
    _ = state.own, state.open, state.gains, state.copies  # what several methods share is not on one's clock
    for name in (OWN, *RULES, *OPTIONS):
        for budget in budgets:
            started = time.perf_counter()
            rows = own_rows(state, budget) if name == OWN else rows_by(name, state, budget)
            seconds = time.perf_counter() - started
            assert len(np.unique(rows)) == len(rows) <= budget
            own = case.own
            features, labels = (own.features, own.labels) if name == OWN else (case.features, case.labels)
            found = {"accuracy": with_rows(state, features[rows], labels[rows], decay_rows), "rows": len(rows)}
            shares = {} if name == OWN else shares_of(case, rows)
            methods.setdefault(name, {})[budget] = {**found, **shares, "seconds": seconds}
    return {
        "before": with_rows(state, case.features[:0], case.labels[:0], decay_rows),
        "all_open": with_rows(state, case.features, case.labels, decay_rows),
        "methods": methods,
    }


def with_rows(state: State, features: Vectors, labels: Ids, decay_rows: float) -> float:
    """Accuracy of the head on the own labels and those of further rows; an annotator has none for foreign ones."""
    own, now, useful = state.case.own, state.now, labels != FOREIGN
    x = np.concatenate([own.features[now.rows], features[useful]])
    y = np.concatenate([now.labels, labels[useful]])
    return accuracy_of(own, LinearProbe.fit(x, y, own.classes, decay_rows / len(y)))


def shares_of(case: Case, rows: Ids) -> dict[str, float]:
    """What retrieved rows are.

    Returns:
        Shares of the rows: `near_copies` of own rows or of another retrieved row, by where they come from; `foreign`
        rows of other data; rows of `rare` classes of the own pool.
    """
    origin = case.origin[rows]
    again = np.ones(len(rows), dtype=bool)
    again[np.unique(origin, return_index=True)[1]] = False
    copies = (np.isin(origin, case.own.rows) | again) & (origin != FOREIGN)
    of = (copies, origin == FOREIGN, np.isin(case.labels[rows], case.rare))
    return {name: float(each.mean()) for name, each in zip(SHARES, of, strict=True)}


def setting_of(runs: Sequence[Found]) -> dict[str, Any]:
    """A setting's part of the result.

    Args:
        runs: of `run_case`, one for each seed.

    Returns:
        `before` and `all_open`, `mean` and `spread` over seeds; `table`: method -> budget -> `mean` and `spread` of the
        accuracy; `minus_random` and `minus_top_gain`, mean differences seed by seed, in points of accuracy, each with
        its `standard_error`; mean shares; median `seconds`.
    """
    table: dict[str, dict[str, Any]] = {}
    for name, budgets in runs[0]["methods"].items():
        for budget in budgets:
            of = [run["methods"][name][budget] for run in runs]
            values = [each["accuracy"] for each in of]
            against = {}
            for other in (RANDOM, TOP_GAIN):
                reference = [run["methods"][other][budget]["accuracy"] for run in runs]
                against[f"minus_{other}"] = difference(values, reference)
            means = {key: round(statistics.fmean(each[key] for each in of), 4) for key in SHARES if key in of[0]}
            seconds = round(statistics.median(each["seconds"] for each in of), 4)
            rows = min(each["rows"] for each in of)
            table.setdefault(name, {})[str(budget)] = {
                **cell(values),
                **against,
                **means,
                "rows": rows,
                "seconds": seconds,
            }
    return {**{key: cell([run[key] for run in runs]) for key in ("before", "all_open")}, "table": table}


def difference(values: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """`points`, mean difference seed by seed in hundredths, and its `standard_error`."""
    points = [100 * (a - b) for a, b in zip(values, reference, strict=True)]
    error = statistics.stdev(points) / len(points) ** 0.5 if len(points) > 1 else 0.0
    return {"points": round(statistics.fmean(points), 3), "standard_error": round(error, 3)}
