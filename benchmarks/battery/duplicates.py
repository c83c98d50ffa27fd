"""Near-duplicates on every pool, clean and half made of near-copies: how many are found, and how many are none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.battery.encoding import Features
from benchmarks.battery.labels import describe, setting_of, standard_features
from benchmarks.battery.options import Options
from benchmarks.battery.pools import Place, Pool, loaded
from benchmarks.battery.settings import COPIES
from coevo_ray.core.graph.copies import MARGIN, SIMILARITY, copy_groups, spacing_of
from coevo_ray.core.graph.graph import build_graph

CHOSEN_ON = ("digits", "cifar10", "banking77")
SETTINGS = ("clean", COPIES)
# Name -> similarity and margin; none for the pool's own measure.
RULES: dict[str, tuple[float | None, float | None]] = {"own": (None, None), "numbers": (SIMILARITY, MARGIN)}
_NEIGHBOURS = 16


def measure(places: Sequence[Place], options: Options) -> dict[str, Any]:
    """Runs the part of the battery on near-duplicates.

    Args:
        places: the pools.
        options: of the run; its settings do not matter here.

    Returns:
        `pools`: pool -> what it is; `table`: pool -> setting -> rule -> `joined` (rows that join an earlier one's
        group), `copies` (rows that are near-copies of an earlier one), `precision` and `recall` of the former against
        the latter (None without any; a clean pool may have copies of its own, which nobody knows), `same_label` (share
        of joined rows whose group's first row has their label) and, of the pool's own measure, the `nearest` share;
        `chosen_on`: the pools on which its constants were chosen; `page`: the table for people.
    """
    result: dict[str, Any] = {"pools": {}, "table": {}, "chosen_on": list(CHOSEN_ON), "left_out": {}}
    with_copies = Options(**{**options.__dict__, "settings": SETTINGS})
    for pool in loaded(places, options.limits):
        features, result["left_out"][pool.modality] = standard_features(pool, with_copies)
        result["pools"][pool.name] = describe(pool, features)
        result["table"][pool.name] = {name: found(pool, features, name) for name in SETTINGS}
    return {**result, "page": list(_page(result))}


def found(pool: Pool, features: Features, setting: str) -> dict[str, dict[str, Any]]:
    """Rule -> figures of one pool in one setting."""
    drawn = setting_of(pool, features, setting, seed=0)
    graph = build_graph(features.rows[drawn.rows], _NEIGHBOURS, "exact", centre=True, recall_sample=0)
    first = np.unique(drawn.groups, return_index=True)[1]
    copies = np.ones(len(drawn.rows), dtype=bool)
    copies[first] = False
    figures: dict[str, dict[str, Any]] = {}
    for rule, numbers in RULES.items():
        leader = copy_groups(graph, *numbers)
        joined = np.flatnonzero(leader != np.arange(len(leader)))
        right = drawn.groups[leader[joined]] == drawn.groups[joined]
        figures[rule] = {
            "joined": len(joined),
            "copies": int(copies.sum()),
            "precision": _share(int(right.sum()), len(joined)),
            "recall": _share(int((copies[joined] & right).sum()), int(copies.sum())),
            "same_label": _share(int((drawn.true[leader[joined]] == drawn.true[joined]).sum()), len(joined)),
        }
    figures["own"]["nearest"] = round(spacing_of(graph).nearest, 4)
    return figures


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _page(result: dict[str, Any]) -> Iterator[str]:
    yield f"Constants were chosen on {', '.join(CHOSEN_ON)}. In a clean pool, precision takes all rows for different."
    yield from ("", "| pool | setting | rule | joined | copies | precision | recall | same label |", "|---" * 8 + "|")
    for pool, settings in result["table"].items():
        for setting, rules in settings.items():
            for rule, of in rules.items():
                shares = (of["precision"], of["recall"], of["same_label"])
                cells = ["" if value is None else f"{value:.3f}" for value in shares]
                yield "| " + " | ".join([pool, setting, rule, str(of["joined"]), str(of["copies"]), *cells]) + " |"
