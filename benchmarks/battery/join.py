"""python -m benchmarks.battery.join RESULT.json... [--page]: results of one part, as one.

Long runs are made in pieces: other pools, other settings or other shares of one pool, of backbones other models.
Prints the joined JSON, or with `--page` its tables. Constants are chosen anew, each pool's on the others, and lost
cells are found anew.
"""

from __future__ import annotations

import copy
import json
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.battery import backbones, doubt_rows, labels, networks, policies, targets
from benchmarks.battery.table import lines
from benchmarks.battery.verdicts import chosen_constants
from coevo_ray.errors import InputError

# Equal in all runs that are joined, where they have it.
_SAME = (
    "benchmark",
    "part",
    "quick",
    "repeats",
    "chosen_on",
    "assignment_chosen_on",
    "versions",
    "head",
    "model",
    "batch_rows",
    "rates",
)
_BY_POOL = ("table", "verdicts", "labels", "share_of_labels", "sweep")  # of the part on targets


@dataclass(frozen=True)
class _Part:
    """A part of the battery: our methods, among which constants are chosen, and its lists of lost cells."""

    ours: tuple[str, ...]
    lists: Callable[[dict[str, Any]], dict[str, Any]]


_PARTS = {
    "labels": _Part((labels.GATE, *labels.VARIANTS), labels.find_below),
    "networks": _Part((networks.OURS,), networks.find_lost),
    "policies": _Part((policies.OURS, *policies.VARIANTS), policies.find_lost),
}


def join(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One result of several.

    Args:
        results: of the parts `targets`, `labels`, `policies`, `networks`, `backbones` or `doubt_rows`, as the battery
            printed them.

    Raises:
        InputError: they differ in what is the same for a whole run, or two of them have the same cell.
    """
    joined = _facts(results)
    if joined["part"] == "targets":
        return joined | _targets(results, joined["pools"])
    if joined["part"] == "doubt_rows":
        _refuse_twice(results, joined["pools"])
        joined["table"] = {pool: sizes for each in results for pool, sizes in each["table"].items()}
        return joined | {"page": list(doubt_rows.page_of(joined, joined["repeats"]))}
    for name in ("table", "verdicts"):
        joined[name] = {}
        for each in results:
            _add(joined[name], each[name])
    if joined["part"] == "backbones":
        return joined | _backbones(results, joined)
    part = _PARTS[joined["part"]]
    joined |= part.lists(joined["table"])
    if "kept" in joined:
        joined["kept"] = sorted({share for each in results for share in each["kept"]})
    if all("constants" in each for each in results):
        joined["constants"] = chosen_constants(joined["table"], part.ours)
    joined["busy_before"] = max(float(each.get("busy_before") or 0.0) for each in results)
    return joined


def _facts(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Facts that all results share, with the pools and machines of each.

    Raises:
        InputError: they are not of one run.
    """
    first = results[0]
    differ = [name for name in _SAME if any(each.get(name) != first.get(name) for each in results)]
    if differ or first["part"] not in {*_PARTS, "targets", "backbones", "doubt_rows"}:
        raise _not_one(f"results that differ in {differ}")
    joined = dict(first)
    for name in ("pools", "left_out"):
        joined[name] = {key: value for each in results for key, value in each[name].items()}
        if any(joined[name][key] != value for each in results for key, value in each[name].items()):
            raise _not_one(f"results of pools that differ in {name}")
    machines = [each.get("hardware") for each in results]
    if any(machine != machines[0] for machine in machines):
        joined["hardware"] = machines
    return joined


def _targets(results: Sequence[dict[str, Any]], pools: dict[str, Any]) -> dict[str, Any]:
    """Tables of the part on targets: each pool is measured as a whole, with the sweep of constants where it has one."""
    _refuse_twice(results, pools)
    found: dict[str, Any] = {
        name: {pool: value for each in results for pool, value in each.get(name, {}).items()} for name in _BY_POOL
    }
    return found | {"page": list(targets.page_of({"pools": pools, **found}))}


def _refuse_twice(results: Sequence[dict[str, Any]], pools: dict[str, Any]) -> None:
    """Refuses two results with one pool.

    Raises:
        InputError: there are such.
    """
    twice = [pool for pool in pools if sum(pool in each["pools"] for each in results) > 1]
    if twice:
        raise _not_one(f"two results with {', '.join(twice)}")


def _backbones(results: Sequence[dict[str, Any]], joined: dict[str, Any]) -> dict[str, Any]:
    """Lost cells, gains and page of the joined tables."""
    lost = [cell for each in results for cell in each["lost"]]
    found = {**joined, "lost": lost, "from_targets": backbones.gains(joined["table"])}
    return {name: found[name] for name in ("lost", "from_targets")} | {"page": list(backbones.page_of(found))}


def _add(whole: dict[str, Any], part: dict[str, Any], place: str = "") -> None:
    """Adds cells, or verdicts, to a nested table.

    Raises:
        InputError: a cell is there.
    """
    for name, value in part.items():
        at = f"{place} {name}".strip()
        if name not in whole:
            whole[name] = copy.deepcopy(value)
        elif "mean" in value or "verdict" in value or not value:
            raise _not_one(f"two results with {at}")
        else:
            _add(whole[name], value, at)


def _not_one(what: str) -> InputError:
    return InputError(f"{what}", "join runs of one part of the battery, each with cells of its own")


def main() -> None:
    """Joins files."""
    made = ArgumentParser(description=__doc__.split("\n")[0])
    made.add_argument("results", nargs="+", type=Path, help="JSON files of the battery")
    made.add_argument("--page", action="store_true", help="print tables in place of JSON")
    arguments = made.parse_args()
    try:
        joined = join([json.loads(file.read_text().splitlines()[-1]) for file in arguments.results])
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    print("\n".join(lines(joined)) if arguments.page else json.dumps(joined))


if __name__ == "__main__":
    main()
