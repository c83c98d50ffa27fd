"""Feed: what an epoch of a part of a pool costs, and how fast the feed is beside a torch DataLoader.

    python -m benchmarks.feed --json [--quick] [--data FOLDER] [--rows N] [--copies N] [--workers N]

A pool, and one of many copies of it, are read in random subsets of several sizes. Both sides decode by one function
and have the same torchvision transform: one that only normalises, and one that draws a crop and a mirror image for each
image first. Without --data they are scikit-learn's digits as small JPEGs.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

from benchmarks.common import Child, busiest, cores, finish, in_child, middle, note, parser, rows_of, spread
from benchmarks.feed import sides as sides

SHARES = [0.1, 0.3, 0.5, 0.7, 1.0]
KINDS = ("fixed", "random")
_RATIO = 0.95  # target
_ALLOWED = {"relative_epoch_time": 0.05, "relative_epoch_time_small": 0.12}


def main() -> None:
    """Runs the benchmark."""
    arguments = _arguments()
    rows, repeats = rows_of(arguments), 1 if arguments.quick else 3
    copies = arguments.copies or (4 if arguments.quick else 20)
    with tempfile.TemporaryDirectory(prefix="coevo-feed-") as folder:
        made = in_child(sides.make_pools, folder, arguments.data, rows, copies).result
        note(f"pools of {made['small']:,} and {made['large']:,} rows, {made['file_bytes_per_row']} bytes a row")
        small, large = f"{folder}/small", f"{folder}/large"
        children: list[Child] = []

        def child(function: Any, *values: Any) -> Any:
            children.append(in_child(function, *values))
            return children[-1].result

        speed = {kind: _side_by_side(child, small, repeats, arguments.workers, kind) for kind in KINDS}
        fixed = speed[KINDS[0]]["ours"]
        workers = int(max(fixed, key=lambda key: fixed[key]["median"]))
        note(f"epochs of parts with {workers} workers")
        epochs = {
            "small": child(sides.feed_epochs, small, SHARES, repeats, workers, KINDS[0]),
            "large": child(sides.feed_epochs, large, SHARES, 1, workers, KINDS[0]),
        }
        batch = child(sides.feed_epochs, small, [1.0], repeats, 0, "batch")
    result = {
        "rows": {"small": made["small"], "large": made["large"]},
        "repeats": repeats,
        **_summary(epochs, speed, workers),
        "batch_transform_rows_per_s": round(made["small"] / middle(batch["seconds"]["1.0"])),
        "data": {"file_bytes_per_row": made["file_bytes_per_row"], "generated": arguments.data is None},
        "busy_before": busiest(children),
    }
    finish("feed", result, arguments.json)


def _arguments() -> argparse.Namespace:
    made = parser(__doc__.split("\n")[0], 50_000, 4_000)
    made.add_argument("--data", help="folder of train-*.parquet with columns image (encoded bytes) and label")
    made.add_argument("--copies", type=int, help="of the pool in the large one; otherwise 20, with --quick 4")
    made.add_argument("--workers", type=int, default=cores(), help="most worker processes that either side tries")
    arguments = made.parse_args()
    if (arguments.copies is not None and arguments.copies < 1) or arguments.workers < 0:
        made.error("--copies must be 1 or more, --workers 0 or more")
    return arguments


def _side_by_side(child: Any, pool: str, repeats: int, most: int, kind: str) -> dict[str, Any]:
    """Rows per second of whole epochs, for each number of worker processes; the sides take turns."""
    seconds: dict[str, dict[str, list[float]]] = {"ours": {}, "loader": {}}
    rows = 0
    for _ in range(repeats):
        for workers in range(most + 1):
            ours = child(sides.feed_epochs, pool, [1.0], 1, workers, kind)
            rows = ours["counts"]["1.0"]["rows_made"]
            seconds["ours"].setdefault(str(workers), []).extend(ours["seconds"]["1.0"])
            loader = child(sides.loader_epochs, pool, 1, workers, kind)
            seconds["loader"].setdefault(str(workers), []).extend(loader)
            taken = f"{seconds['ours'][str(workers)][-1]:.2f} s, DataLoader {loader[-1]:.2f} s"
            note(f"{kind}, {workers} workers: an epoch of {rows:,} rows in {taken}")
    return {
        side: {workers: spread([rows / s for s in taken]) for workers, taken in found.items()}
        for side, found in seconds.items()
    }


def _summary(epochs: dict[str, Any], speed: dict[str, Any], workers: int) -> dict[str, Any]:
    """The promised keys, whether they hold, and what they come from."""
    ratios = {kind: _ratio(found) for kind, found in speed.items()}
    relative = {
        "relative_epoch_time": relative_times(epochs["large"]["seconds"]),
        "relative_epoch_time_small": relative_times(epochs["small"]["seconds"]),
    }
    return {
        **relative,
        "ratio_to_dataloader": ratios,
        "peak_bytes": {name: found["peak_bytes"] for name, found in epochs.items()},
        "peak_ratio": round(epochs["large"]["peak_bytes"] / epochs["small"]["peak_bytes"], 3),
        "holds": {
            **{key: {r: t <= float(r) + _ALLOWED[key] for r, t in times.items()} for key, times in relative.items()},
            "ratio_to_dataloader": {kind: ratio >= _RATIO for kind, ratio in ratios.items()},
        },
        "workers": workers,
        "rows_per_s": speed,
        "seconds": {name: {r: spread(s) for r, s in found["seconds"].items()} for name, found in epochs.items()},
        "counts": {name: found["counts"] for name, found in epochs.items()},
        "batch_rows": sides.BATCH_ROWS,
    }


def _ratio(found: dict[str, Any]) -> float:
    """Rows per second of our best number of processes over those of the DataLoader's best."""
    best = {side: max(row["median"] for row in by_workers.values()) for side, by_workers in found.items()}
    return round(float(best["ours"] / best["loader"]), 3)


def relative_times(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Kept share -> median seconds of its epochs over those of the whole, but for the whole itself.

    Args:
        seconds: kept share -> seconds of each repeat; "1.0" is the whole.
    """
    whole = middle(seconds["1.0"])
    return {share: round(middle(taken) / whole, 4) for share, taken in seconds.items() if share != "1.0"}
