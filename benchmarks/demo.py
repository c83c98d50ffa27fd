"""The demo's decisions over several draws of its pools: targets, gate and selection beside the simple alternatives.

    python -m benchmarks.demo --json [--seeds K] [--first-seed S] [--pools digits,docstrings] [--work DIR], or --quick

The clean samples are encoded once, as the demo encodes its pool. Each seed then draws the faults again
(`coevo_ray.pool.messy`), and heads are fitted on the rows that are left, wrong labels among them. Accuracies are on the
clean held-out rows, the same number of each class. The set-up was chosen on seeds 0 to 3; figures are from seed 10 on.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.battery.heads import fit_tuned
from benchmarks.battery.labels import curve
from benchmarks.battery.verdicts import cell, judge
from benchmarks.common import busiest, finish, in_child, names, note, parser, positive
from benchmarks.labels.data import Ids, LabelPool, Vectors
from benchmarks.policies.data import factors, with_evidence
from benchmarks.policies.heads import Head, train_heads
from coevo_ray.app.demo import demo_config
from coevo_ray.core.graph.graph import build_graph
from coevo_ray.core.selection.policies import KeptShares
from coevo_ray.pool.messy import Messy, make_messy, words_of

FIRST_SEED = 10
SOURCES: dict[str, Any] = {
    "digits": {"sources": ["sample:digits"], "classes": 10},
    "docstrings": {"sources": [{"uri": "sample:docstrings", "text_column": "text", "key_column": "id"}]},
}
TARGETS, PIXELS = "targets", "pixels"
OURS = {"targets": (TARGETS,), "gate": ("gate",), "policies": ("factors",)}
SHARES = ("0.1", "0.2", "0.3", "0.5")
_SAE_STEPS, _NEIGHBOURS, _RATE = 400, 16, 0.1


@dataclass(frozen=True, eq=False)
class Clean:
    """A clean sample, encoded.

    Attributes:
        features: float32[n, d] by name: the targets, and each prior's own features; of digits also the pixels.
        similar: float32[n, m], by which the sample finds similar classes.
        labels: int64[n].
    """

    features: dict[str, Vectors]
    similar: Vectors
    labels: Ids


def main() -> None:
    """Runs the benchmark."""
    made = parser(__doc__.split("\n")[0], 0, 0)
    made.add_argument("--seeds", type=positive, default=6, help="draws of each pool")
    made.add_argument("--first-seed", type=int, default=FIRST_SEED, help="seed of the first draw")
    made.add_argument("--pools", type=names, default=tuple(SOURCES), help="of " + ", ".join(SOURCES))
    made.add_argument("--work", help="folder that keeps the encoded samples for the next run")
    arguments = made.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or temporary
        children = [in_child(encode, name, work) for name in arguments.pools]
        seeds = seeds_of(arguments)
        children += [in_child(measure, name, work, seeds, arguments.quick) for name in arguments.pools]
    found = {name: child.result for name, child in zip(arguments.pools, children[len(arguments.pools) :], strict=True)}
    finish("demo", {"seeds": seeds, "pools": found, "busy_before": busiest(children)}, arguments.json)


def seeds_of(arguments: argparse.Namespace) -> list[int]:
    """The seeds of the draws."""
    count = min(arguments.seeds, 2) if arguments.quick else arguments.seeds
    return list(range(arguments.first_seed, arguments.first_seed + count))


def encode(name: str, work: str) -> None:
    """Encodes a clean sample with the demo's priors, each on every row; what is there is kept."""
    import coevo_ray

    folder, settings = Path(work, name), demo_config(texts=name != "digits").encode
    pool = coevo_ray.ingest(SOURCES[name], folder / "pool")
    coevo_ray.encode(settings, pool, folder / "encode")


def load(name: str, work: str) -> Clean:
    """What `encode` made."""
    import coevo_ray
    from coevo_ray.pipelines.encode.contribution import Contribution
    from coevo_ray.pipelines.merge.check import prior_label
    from coevo_ray.store.location import Location
    from coevo_ray.store.row_table import vectors

    folder = Path(work, name)
    pool = coevo_ray.Pool(Location.parse(folder / "pool"))
    rows = np.arange(len(pool), dtype=np.int64)
    targets = coevo_ray.load_targets(folder / "encode", pool).read(rows).column("target")
    features = {TARGETS: vectors(targets)}
    for place in sorted((folder / "encode" / "contributions").iterdir()):
        each = Contribution(Location.parse(place))
        features[prior_label(each)] = vectors(each.encoded_rows(["feature"]).column("feature"))
    if name == "digits":
        from sklearn.datasets import load_digits

        keys = pool.scan(["key"]).column("key").to_pylist()
        similar = load_digits().data[[int(Path(key).stem) for key in keys]].astype(np.float32)
        features[PIXELS] = similar
    else:
        similar = words_of(pool.scan(["text"]).column("text").to_pylist())
    return Clean(features, similar, pool.labels())


def measure(name: str, work: str, seeds: list[int], quick: bool) -> dict[str, Any]:
    """The decisions on one pool; runs in a child process.

    Returns:
        `targets`, `gate` and `policies`, each: cell -> row -> `mean`, `spread` and `values`; `verdicts` on ours against
        the best simple alternative; `rows` and `test_rows` of the draws.
    """
    torch.set_num_threads(1)
    clean = load(name, work)
    config = demo_config(texts=name != "digits").train
    assert config is not None
    head = Head(hidden=0, epochs=3 if quick else config.epochs, learning_rate=_RATE, weight_decay=config.weight_decay)
    found: dict[str, dict[str, dict[str, list[float]]]] = {part: {} for part in OURS}
    sizes = []
    for seed in seeds:
        messy = make_messy(clean.similar, clean.labels, seed)
        sizes.append(len(messy.train))
        _add(found["targets"], _targets(clean, messy, seed))
        _add(found["gate"], _gate(clean, messy, seed))
        _add(found["policies"], _policies(clean, messy, head, config.keep, config.policies, seed))
        note(f"{name} seed {seed}: {len(messy.train):,} rows")
    return {**_summed_up(found), "rows": round(statistics.fmean(sizes)), "test_rows": len(messy.test)}


def _add(table: dict[str, dict[str, list[float]]], new: dict[str, dict[str, float]]) -> None:
    for at, rows in new.items():
        for row, value in rows.items():
            table.setdefault(at, {}).setdefault(row, []).append(value)


def _summed_up(found: dict[str, dict[str, dict[str, list[float]]]]) -> dict[str, Any]:
    """Cells, and verdicts on ours against the best of the others, in each cell."""
    result: dict[str, Any] = {"verdicts": {}}
    for part, table in found.items():
        result[part] = {at: {row: cell(values) for row, values in rows.items()} for at, rows in table.items()}
        for at, rows in table.items():
            (ours,) = OURS[part]
            others = {row: values for row, values in rows.items() if row != ours}
            said = {row: judge(rows[ours], {row: values}).to_json() for row, values in others.items()}
            result["verdicts"].setdefault(part, {})[at] = said
    return result


def _targets(clean: Clean, messy: Messy, seed: int) -> dict[str, dict[str, float]]:
    """A tuned linear head on all labels and on a tenth: on targets, and on each prior's features alone."""
    found: dict[str, dict[str, float]] = {}
    for share in ("0.1", "1"):
        rows = slice(0, round(float(share) * len(messy.train)))
        found[share] = {}
        for name, features in clean.features.items():
            tuned = fit_tuned(features[messy.train[rows]], messy.given[rows], int(clean.labels.max()) + 1, seed)
            found[share][name] = float((tuned.predict(features[messy.test]) == clean.labels[messy.test]).mean())
    return found


def _gate(clean: Clean, messy: Messy, seed: int) -> dict[str, dict[str, float]]:
    """The gate's labels, random ones, and those of the smallest margin; annotators err as the pool's labels do."""
    x = _centred(clean, messy)
    pool = LabelPool(
        features=x[messy.train],
        labels=messy.given,
        test_features=x[messy.test],
        test_labels=clean.labels[messy.test],
        graph=build_graph(x[messy.train], _NEIGHBOURS, "exact", recall_sample=0),
        classes=int(clean.labels.max()) + 1,
        rows=messy.train,
    )
    curves = {method: curve(pool, method, seed, (0.075, 0.15, 0.25, 0.4)) for method in ("gate", "random", "margin")}
    return {share: {method: each[share] for method, each in curves.items()} for share in SHARES}


def _policies(
    clean: Clean, messy: Messy, head: Head, keep: float, policies: tuple[str, ...], seed: int
) -> dict[str, dict[str, float]]:
    """The demo's head under each of its policies, and under rotation."""
    x = _centred(clean, messy)
    codes = factors(x[messy.train], _SAE_STEPS)
    test = clean.labels[messy.test]
    setting = with_evidence(messy.train, x[messy.train], messy.given, x[messy.test], test, codes, 0.0)
    shares = KeptShares(keep)
    rows = {
        policy: train_heads(setting, policy, {}, shares, head, [seed])["accuracy"][0]
        for policy in (*policies, "rotation")
    }
    return {str(keep): rows}


def _centred(clean: Clean, messy: Messy) -> Vectors:
    """The targets, centred on the training rows, of unit mean square."""
    x = clean.features[TARGETS]
    x = x - x[messy.train].mean(axis=0)
    scaled: Vectors = x / np.sqrt((x[messy.train] ** 2).mean())
    return scaled


if __name__ == "__main__":
    main()
