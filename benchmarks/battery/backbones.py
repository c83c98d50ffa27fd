"""Networks of several families under policies, from random weights and from consensus targets of all priors.

Each is trained as in `networks`. The question is whether selection and targets carry over from one family to another.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.battery import networks
from benchmarks.battery.encoding import Features, encode_pool
from benchmarks.battery.options import Options
from benchmarks.battery.pools import Place, Pool
from benchmarks.battery.settings import COPIES
from benchmarks.battery.targets import coverage_all, data_of
from benchmarks.policies.data import Vectors
from coevo_ray.errors import UsageError

# Residual, plain and transformer networks, as train names them.
MODELS = (
    "torchvision:resnet18",
    "torchvision:resnet50",
    "torchvision:vgg16_bn",
    "torchvision:vit_b_16",
    "timm:vit_tiny_patch16_224",
)
_SAME = ("pools", "left_out", "kept", "head", "target_epochs", "image_size", "chosen_on")
_SHORT = {"factors": "factors", "full_budget": "full budget", "rotation": "rotation"}


def measure(places: Sequence[Place], options: Options) -> dict[str, Any]:
    """Runs the part of the battery on backbones; text pools are passed over.

    Args:
        places: the pools.
        options: of the run; its `models`, each in turn.

    Returns:
        `table`: model -> pool -> setting -> kept share -> row -> cell, see `networks.measure`; `verdicts`: the same
        down to the verdict; `lost`: cells in which `factors` lost, each with its `model`; `from_targets`: model ->
        mean over cells of what a start from targets adds, in points; and what `networks.measure` says of the run.

    Raises:
        UsageError: near-copies are asked for, which only one prior encodes.
    """
    if COPIES in options.settings:
        raise UsageError("near-copies have no consensus targets here", "--settings without copies")
    whole: dict[str, Any] = {"table": {}, "verdicts": {}, "lost": [], "from_targets": {}}

    def consensus(pool: Pool, features: Features) -> Vectors:
        """One prior more than `factors` looks at makes them targets of several."""
        return coverage_all(data_of(pool, encode_pool(pool, options.cache), seed=0)[0]).targets[0]

    for model in options.models or MODELS:
        network = replace(options.network, model=model)
        found = networks.measure(places, replace(options, network=network), consensus)
        whole |= {name: found[name] for name in _SAME}
        whole["batch_rows"], whole["rates"] = network.batch_rows, list(options.rates)
        whole["table"][model], whole["verdicts"][model] = found["table"], found["verdicts"]
        whole["lost"] += [{"model": model, **cell} for cell in found["lost"]]
    whole["from_targets"] = gains(whole["table"])
    return {**whole, "page": list(page_of(whole))}


def gains(table: dict[str, Any]) -> dict[str, float]:
    """Model -> points that a start from targets adds, mean over policies and cells."""
    return {model: round(100 * statistics.fmean(_gains(cells)), 2) for model, cells in table.items()}


def _cells(table: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each place of one model's table, in words, with its rows."""
    for pool, settings in table.items():
        for setting, shares in settings.items():
            yield from ((f"{pool}, {setting}, {100 * float(share):g} %", rows) for share, rows in shares.items())


def _gains(table: dict[str, Any]) -> Iterator[float]:
    """Accuracy that a start from targets adds, for each policy of each cell."""
    for _, rows in _cells(table):
        yield from (rows[f"{name}_from_targets"]["mean"] - rows[name]["mean"] for name in networks.POLICIES)


def page_of(whole: dict[str, Any]) -> Iterator[str]:
    """The result as one table."""
    yield from ("# backbones", "", "Percent on test rows, mean +- standard deviation over seeds; first from random")
    yield from ("weights, then from consensus targets. Points of `factors` against the better of the other two, +-", "")
    titles = ("", "pool, setting, kept", *_SHORT.values(), "points", *_SHORT.values(), "points")
    yield f"| {' | '.join(titles)} |"
    yield "|---" * len(titles) + "|"
    for model, table in whole["table"].items():
        said = dict(_cells(whole["verdicts"][model]))
        for place, rows in _cells(table):
            columns = [model, place]
            for end in networks.STARTS.values():
                columns += [_shown(rows[name + end]) for name in _SHORT]
                columns.append(_points(said[place][networks.OURS + end]))
            yield f"| {' | '.join(columns)} |"
    yield ""
    gains = ", ".join(f"{model} {points:+.1f}" for model, points in whole["from_targets"].items())
    yield f"Targets add, mean over policies and cells: {gains}."


def _shown(cell: dict[str, Any]) -> str:
    return f"{100 * cell['mean']:.1f} +- {100 * cell['spread']:.1f}"


def _points(verdict: dict[str, Any]) -> str:
    return f"{verdict['points']:+.1f} +- {verdict['standard_error']:.1f} {verdict['verdict']}"
