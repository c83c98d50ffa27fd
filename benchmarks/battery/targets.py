"""Targets of several priors on every pool: mixed, on every row, as published, and each prior alone; what labels buy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.battery.encoding import Features, available_priors, encode_pool
from benchmarks.battery.heads import knn, tuned_linear
from benchmarks.battery.options import Options
from benchmarks.battery.pools import Ids, Place, Pool, loaded
from benchmarks.battery.priors import WEAK
from benchmarks.battery.verdicts import cell, judge
from benchmarks.common import note
from coevo_ray.core.alignment.alignment import align, fit_alignment, held_out, identity_alignment
from coevo_ray.core.alignment.components import fit_components, to_components
from coevo_ray.core.alignment.consensus import Consensus, fit_consensus, quality_shares, to_latent
from coevo_ray.core.alignment.moments import moments_of
from coevo_ray.core.alignment.projection import normalise, project, projection_matrix
from coevo_ray.core.alignment.uniformity import uniformity
from coevo_ray.core.rows.hashing import assign_participants, choose_rows, hash_rows
from coevo_ray.pipelines.encode.job import shared_rows

Vectors = npt.NDArray[np.float32]
Halves = tuple[Vectors, Vectors]  # of the training rows and of the test rows

DIM = 128  # of the published form, and of the default in small pools
# Dimension and share of the shared rows of the default form; with fewer than four shared rows a dimension it is DIM.
WIDE_DIM, SHARED = 256, 0.1
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
# Dimensions and shared rows with --choose.
SWEEP = ((64, 1000), (128, 1000), (256, 1000), (128, 4000), (256, 4000), (512, 4000))
# The pools on which the consensus' constants (shrink, ridges, halving of quality) were chosen.
CHOSEN_ON = ("tiny_imagenet", "banking77")
# Those on which it was decided that at one pass the best prior alone encodes (`mixed_by_quality`).
ASSIGNMENT_CHOSEN_ON = ("digits", "banking77", "debian_sections")
MIXED, BY_QUALITY, PUBLISHED, ALL = "mixed", "mixed_by_quality", "mixed_published", "coverage_all"
UNEVEN, WITH_WEAK = "mixed_90_5_5", "mixed_by_quality_with_weak"
_MEASURES = ("linear", "knn")


@dataclass(frozen=True, eq=False)
class Data:
    """One pool and seed: features of all priors, and rows of the shared set.

    Attributes:
        features: for each prior those of the training and of the test rows.
        names: of the priors.
        labels, test_labels: int64[n], int64[t]; for evaluation alone.
        shared: int64[s], rows of the shared set.
        seed: of everything drawn.
        dim: n.
    """

    features: list[Halves]
    names: list[str]
    labels: Ids
    test_labels: Ids
    shared: Ids
    seed: int
    dim: int = DIM

    def owners(self, weights: Sequence[float]) -> tuple[Ids, Ids]:
        """The prior of each training and each test row."""
        rows = len(self.labels)
        owner = assign_participants(np.arange(rows + len(self.test_labels)), weights, self.seed).astype(np.int64)
        return owner[:rows], owner[rows:]

    def judged(self, targets: Halves) -> tuple[float, float]:
        """Accuracy of a tuned linear head and of neighbours."""
        train, test = targets
        linear = tuned_linear(train, self.labels, test, self.test_labels, self.seed)
        return linear, knn(train, self.labels, test, self.test_labels)


def measure(places: Sequence[Place], options: Options) -> dict[str, Any]:
    """Runs the part of the battery on targets; settings do not concern it, for targets know no labels.

    Args:
        places: the pools.
        options: of the run.

    Returns:
        `pools`: pool -> what it is; `table`: pool -> method -> `linear`, `knn` (mean over seeds), `spread` of both,
        `passes` (forward passes a row) and, where it mixes priors, `mixing_cost` (points: the row-weighted mean of the
        priors alone in the same latent, less the mixed targets); `verdicts`: pool -> method -> measure -> verdict
        against the best prior alone; `labels`: pool -> method -> share of random labels -> accuracy;
        `share_of_labels`: pool -> method -> smallest share that reaches the published targets with all labels;
        `chosen_on`, `assignment_chosen_on`; `left_out`; with `options.choose` also `sweep`: pool -> rows of `dim`,
        `shared` and the table of `mixed_by_quality` and `coverage_all`.
    """
    result: dict[str, Any] = {
        name: {} for name in ("pools", "table", "verdicts", "labels", "share_of_labels", "left_out")
    }
    if options.choose:
        result["sweep"] = {}
    result["chosen_on"], result["assignment_chosen_on"] = list(CHOSEN_ON), list(ASSIGNMENT_CHOSEN_ON)
    for pool in loaded(places, options.limits):
        priors, result["left_out"][pool.modality] = available_priors(pool.modality)
        features = encode_pool(pool, options.cache, priors)
        result["pools"][pool.name] = {
            "modality": pool.modality,
            "rows": len(pool.train),
            "test_rows": len(pool.test),
            "classes": len(pool.classes),
            "priors": [f.prior for f in features],
            **dict(zip(("dim", "shared"), usual(len(pool.train)), strict=True)),
        }
        runs, curves = [], []
        for seed in range(options.seeds):
            note(f"targets: {pool.name}, seed {seed}")
            data, weak = data_of(pool, features, seed)
            found = dict(_methods(data, weak))
            runs.append(_all_judged(data, found))
            curves.append(_curves(data, found))
        table = _table(runs)
        result["table"][pool.name], result["verdicts"][pool.name] = table, _verdicts(runs)
        result["labels"][pool.name] = _labels(curves)
        if options.choose:
            result["sweep"][pool.name] = _sweep(pool, features, options)
        result["share_of_labels"][pool.name] = _shares(curves)
    result["page"] = list(page_of(result))
    return result


@dataclass(frozen=True, eq=False)
class Made:
    """Targets of one method.

    Attributes:
        targets: of training and test rows.
        passes: forward passes a row.
        apart: each prior's targets of all rows in the same space, and its share of the rows, where priors are mixed.
    """

    targets: Halves
    passes: float = 1
    apart: tuple[tuple[Halves, float], ...] = ()


def usual(rows: int) -> tuple[int, int]:
    """Dimension and shared rows that the package would choose for a pool of so many training rows."""
    wide = shared_rows(SHARED, WIDE_DIM, rows, rows)
    return (WIDE_DIM, wide) if wide >= 4 * WIDE_DIM else (DIM, min(rows, max(round(SHARED * rows), 4 * DIM)))


def data_of(
    pool: Pool, features: list[Features], seed: int, size: tuple[int, int] | None = None
) -> tuple[Data, Halves | None]:
    """The priors that are meant to be good, and the weak one's features where there is one.

    Args:
        pool: the pool.
        features: of its priors.
        seed: of everything drawn.
        size: dimension and shared rows; None for `usual` ones.
    """
    dim, count = size or usual(len(pool.train))
    shared = choose_rows(np.arange(len(pool.train)), min(count, len(pool.train)), seed)
    halves = {f.prior: (f.train.astype(np.float32), f.test.astype(np.float32)) for f in features}
    weak = halves.pop(WEAK, None)
    labels = (pool.train.labels, pool.test.labels)
    return Data([*halves.values()], [*halves], *labels, shared, seed, dim), weak


def _methods(data: Data, weak: Halves | None) -> Iterator[tuple[str, Made]]:
    for name, halves in zip(data.names, data.features, strict=True):
        alone = replace(data, features=[halves], names=[name])
        yield f"single:{name}", Made(_latent(alone)[1][0])
        yield f"single_published:{name}", Made(_published(alone).targets)
    if len(data.features) < 2:
        return
    consensus, spaces = _latent(data)
    yield MIXED, _mixed(data, spaces, (1.0,) * len(spaces))
    yield BY_QUALITY, _mixed(data, spaces, quality_shares([p.weight for p in consensus.priors]))
    yield UNEVEN, _mixed(data, spaces, (0.9, *(0.1 / (len(spaces) - 1),) * (len(spaces) - 1)))
    yield PUBLISHED, _published(data)
    yield ALL, coverage_all(data)
    if weak is not None:
        wider = replace(data, features=[*data.features, weak], names=[*data.names, WEAK])
        consensus, spaces = _latent(wider)
        yield WITH_WEAK, _mixed(wider, spaces, quality_shares([p.weight for p in consensus.priors]))
        yield f"{ALL}_with_weak", coverage_all(wider)


def _mixed_and_all(data: Data) -> Iterator[tuple[str, Made]]:
    """The two methods of the sweep."""
    yield BY_QUALITY, by_quality(data)
    yield ALL, coverage_all(data)


def by_quality(data: Data) -> Made:
    """One pass a row: the prior that reaches the latent best, as the package assigns rows."""
    consensus, spaces = _latent(data)
    return _mixed(data, spaces, quality_shares([p.weight for p in consensus.priors]))


def evenly_mixed(data: Data) -> Made:
    """One pass a row, by priors with equal shares of the rows."""
    return _mixed(data, _latent(data)[1], (1.0,) * len(data.features))


def coverage_all(data: Data) -> Made:
    """Every row by every prior: the mean in the latent, weighted by how well each reaches it."""
    consensus, raw = _latent(data, unit=False)
    return Made(_mean(raw, [p.weight for p in consensus.priors]), passes=len(raw))


def _latent(data: Data, unit: bool = True) -> tuple[Consensus, list[Halves]]:
    """The product's default: components on the shared set, the latent, each prior's targets of all rows."""
    components = [fit_components(moments_of(train[data.shared]), 2 * data.dim) for train, _ in data.features]
    kept = [
        (to_components(train, c), to_components(test, c))
        for (train, test), c in zip(data.features, components, strict=True)
    ]
    joined = np.concatenate([train[data.shared] for train, _ in kept], axis=1)
    held = held_out(hash_rows(data.shared, data.seed))
    widths = [train.shape[1] for train, _ in kept]
    dim = min(data.dim, sum(widths))
    consensus = fit_consensus(moments_of(joined[~held]), moments_of(joined[held]), widths, dim)
    made = [(to_latent(a, p), to_latent(b, p)) for (a, b), p in zip(kept, consensus.priors, strict=True)]
    return consensus, [(normalise(a), normalise(b)) for a, b in made] if unit else made


def _published(data: Data) -> Made:
    """CoOpt, arXiv 2505.14117: random projection, ridge to the prior of the best uniformity."""
    projected = []
    for train, test in data.features:
        matrix = projection_matrix(train.shape[1], DIM, data.seed)
        projected.append((project(train, matrix), project(test, matrix)))
    shared = [train[data.shared] for train, _ in projected]
    reference = int(np.argmin([uniformity(s) for s in shared]))
    spaces = []
    for place, (train, test) in enumerate(projected):
        fitted = (
            identity_alignment(DIM)
            if place == reference
            else fit_alignment(shared[place], shared[reference], seed=data.seed, row_ids=data.shared)
        )
        spaces.append((align(train, fitted.matrix), align(test, fitted.matrix)))
    return _mixed(data, spaces, (1.0,) * len(spaces))


def _mixed(data: Data, spaces: Sequence[Halves], weights: Sequence[float]) -> Made:
    owners = data.owners(weights)
    train, test = (
        np.stack([halves[part] for halves in spaces])[owner, np.arange(len(owner))] for part, owner in enumerate(owners)
    )
    total = sum(weights)
    apart = tuple((halves, w / total) for halves, w in zip(spaces, weights, strict=True) if w > 0)
    return Made((train, test), apart=apart)


def _mean(spaces: Sequence[Halves], weights: Sequence[float]) -> Halves:
    train, test = (
        normalise(np.sum([np.float32(w) * halves[part] for halves, w in zip(spaces, weights, strict=True)], axis=0))
        for part in (0, 1)
    )
    return train, test


def _all_judged(data: Data, found: dict[str, Made]) -> dict[str, dict[str, Any]]:
    """The figures of each method; a prior's targets in a latent, which several methods mix, are judged once."""
    known: dict[int, tuple[float, float]] = {}

    def judged(targets: Halves) -> tuple[float, float]:
        key = id(targets[0])  # `found` keeps the arrays, so that no other gets this number
        if key not in known:
            known[key] = data.judged(targets)
        return known[key]

    return {name: _judged(made, judged) for name, made in found.items()}


def _sweep(pool: Pool, features: list[Features], options: Options) -> list[dict[str, Any]]:
    """Dimensions and shared rows, with all other constants as they are."""
    rows = []
    for dim, shared in SWEEP:
        if shared > len(pool.train):
            continue
        note(f"targets: {pool.name}, n {dim}, {shared:,} shared rows")
        runs = []
        for seed in range(options.seeds):
            data = data_of(pool, features, seed, (dim, shared))[0]
            runs.append(_all_judged(data, dict(_mixed_and_all(data))))
        rows.append({"dim": dim, "shared": shared, **_table(runs)})
    return rows


def _judged(made: Made, judged: Callable[[Halves], tuple[float, float]]) -> dict[str, Any]:
    found = dict(zip(_MEASURES, judged(made.targets), strict=True))
    row: dict[str, Any] = {**found, "passes": made.passes}
    if len(made.apart) > 1:
        alone = [(judged(halves), share) for halves, share in made.apart]
        row["mixing_cost"] = {
            name: sum(values[i] * share for values, share in alone) - found[name] for i, name in enumerate(_MEASURES)
        }
    elif made.apart:
        row["mixing_cost"] = dict.fromkeys(_MEASURES, 0.0)
    return row


def _table(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for method in runs[0]:
        cells = {name: cell([run[method][name] for run in runs]) for name in _MEASURES}
        row: dict[str, Any] = {name: found["mean"] for name, found in cells.items()}
        row |= {"spread": {name: found["spread"] for name, found in cells.items()}, "passes": runs[0][method]["passes"]}
        if "mixing_cost" in runs[0][method]:
            costs = {n: np.mean([run[method]["mixing_cost"][n] for run in runs]) for n in _MEASURES}
            row["mixing_cost"] = {name: round(100 * float(cost), 2) for name, cost in costs.items()}
        table[method] = row
    return table


def _verdicts(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Ours against the best prior alone, in either form."""
    singles = [name for name in runs[0] if name.startswith("single")]
    ours = [name for name in runs[0] if name not in singles and name != PUBLISHED]
    return {
        method: {
            name: judge(
                [run[method][name] for run in runs], {single: [run[single][name] for run in runs] for single in singles}
            ).to_json()
            for name in _MEASURES
        }
        for method in ours
    }


def _curves(data: Data, found: dict[str, Made]) -> dict[str, dict[float, float]]:
    """Accuracy of a tuned linear head with a share of the labels, of rows drawn at random."""
    order = np.random.default_rng(data.seed).permutation(len(data.labels))
    full = {f"full:{data.names[0]}": data.features[0]}
    wanted = full | {name: found[name].targets for name in (PUBLISHED, BY_QUALITY, ALL) if name in found}
    curves: dict[str, dict[float, float]] = {}
    for name, (train, test) in wanted.items():
        curves[name] = {}
        for share in SHARES:
            rows = order[: max(2, round(share * len(order)))]
            curves[name][share] = tuned_linear(train[rows], data.labels[rows], test, data.test_labels, data.seed)
    return curves


def _labels(curves: Sequence[dict[str, dict[float, float]]]) -> dict[str, Any]:
    return {
        name: {str(share): cell([curve[name][share] for curve in curves]) for share in SHARES} for name in curves[0]
    }


def _shares(curves: Sequence[dict[str, dict[float, float]]]) -> dict[str, Any]:
    """The smallest share whose mean reaches that of all labels on other targets; None where none does."""
    means = {n: {s: float(np.mean([c[n][s] for c in curves])) for s in SHARES} for n in curves[0]}
    goals = {f"all_on_{name}": means[name][1.0] for name in means if name == PUBLISHED or name.startswith("full:")}
    ours = [name for name in (BY_QUALITY, ALL) if name in means]
    return {
        goal: {name: next((s for s in SHARES if means[name][s] >= value), None) for name in ours}
        for goal, value in goals.items()
    }


def page_of(result: dict[str, Any]) -> Iterator[str]:
    """Lines of the page of a result."""
    yield "# targets"
    yield ""
    yield "Percent on test rows: a tuned linear head / 20 neighbours. Cost: points that mixing itself costs. Verdict:"
    yield "points against the best prior alone, in either form. Constants were chosen on: " + ", ".join(CHOSEN_ON) + ";"
    yield f"the assignment of {BY_QUALITY} on: " + ", ".join(ASSIGNMENT_CHOSEN_ON) + "."
    for pool, table in result["table"].items():
        about = result["pools"][pool]
        yield from (
            "",
            f"## {pool}",
            "",
            f"{about['rows']:,} rows, {about['classes']} classes, n {about['dim']}, {about['shared']:,} shared rows",
            "",
        )
        yield "| method | linear | kNN | passes | mixing cost | against the best prior alone |"
        yield "|---|---|---|---|---|---|"
        for method, row in table.items():
            cost = row.get("mixing_cost")
            shown = "" if cost is None else f"{cost['linear']:.1f} / {cost['knn']:.1f}"
            said = result["verdicts"][pool].get(method, {})
            words = " / ".join(f"{v['verdict']} {v['points']:+.1f}" for v in said.values())
            figures = (method, _percent(row, "linear"), _percent(row, "knn"), row["passes"], shown, words)
            yield f"| {' | '.join(str(figure) for figure in figures)} |"
        yield ""
        yield "| labels | " + " | ".join(f"{share:.0%}" for share in SHARES) + " |"
        yield "|---" * (len(SHARES) + 1) + "|"
        for method, curve in result["labels"][pool].items():
            yield f"| {method} | " + " | ".join(f"{100 * curve[str(s)]['mean']:.1f}" for s in SHARES) + " |"
        if sweep := result.get("sweep", {}).get(pool):
            yield from ("", f"| n | shared rows | {BY_QUALITY} | {ALL} |", "|---|---|---|---|")
            for row in sweep:
                cells = [f"{_percent(row[m], 'linear')} / {_percent(row[m], 'knn')}" for m in (BY_QUALITY, ALL)]
                yield f"| {row['dim']} | {row['shared']:,} | {' | '.join(cells)} |"
        for goal, shares in result["share_of_labels"][pool].items():
            reached = ", ".join(f"{name} {'not' if s is None else f'at {s:.0%}'}" for name, s in shares.items())
            yield from ("", f"{goal} is reached by: {reached}")


def _percent(row: dict[str, Any], name: str) -> str:
    return f"{100 * row[name]:.1f} +- {100 * row['spread'][name]:.1f}"
