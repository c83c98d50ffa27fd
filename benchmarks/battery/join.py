"""python -m benchmarks.battery.join RESULT.json... [--page]: results of one part on different pools, as one.

Long runs are made a pool at a time. Prints the joined JSON, or with `--page` its tables. Constants are chosen anew,
each pool's on the others.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.battery import labels, policies
from benchmarks.battery.table import lines
from benchmarks.battery.verdicts import chosen_constants
from coevo_ray.errors import InputError

_SAME = ("benchmark", "part", "quick", "repeats", "chosen_on", "versions")
_OURS = {"labels": (labels.GATE, *labels.VARIANTS), "policies": (policies.OURS, *policies.VARIANTS)}


def join(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One result of several.

    Args:
        results: of the parts `labels` or `policies`, as the battery printed them.

    Raises:
        InputError: they differ in what is the same for a whole run, or have a pool twice.
    """
    first = results[0]
    differ = [name for name in _SAME if any(each.get(name) != first.get(name) for each in results)]
    pools = [pool for each in results for pool in each["pools"]]
    if differ or len(set(pools)) < len(pools) or first["part"] not in _OURS:
        raise InputError(
            f"results that differ in {differ}, of pools {pools}", "join runs of one part of the battery on other pools"
        )
    joined = dict(first)
    for name in ("pools", "table", "verdicts", "left_out"):
        joined[name] = {key: value for each in results for key, value in each[name].items()}
    for name in ("below_random", "below_peer"):
        if name in first:
            joined[name] = [entry for each in results for entry in each[name]]
    if all("constants" in each for each in results):
        joined["constants"] = chosen_constants(joined["table"], _OURS[first["part"]])
    joined["busy_before"] = max(float(each.get("busy_before") or 0.0) for each in results)
    return joined


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
