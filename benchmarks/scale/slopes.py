"""Processor time by rows, and its slope in log-log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks import selection
from benchmarks.common import Child, in_child, note
from benchmarks.scale import parts

CLASSES, GRAPH = 10, "graph"
FROM_ROWS = 100_000  # below, what does not depend on rows is most of the time
_PARTS = ("predictions", "near_duplicates", "own_copies", "groups", "draw_herding", "draw_typical", "draw_top")
_POLICIES = ("rotation", "factors", "factors_all")
_GRAPH_ROWS, _GRAPH_DIM = 1_000_000, 64  # the most rows, for its cost grows faster than these
_SCORE_DIM, _SCORE_LATENTS, _SCORE_K, _SCORE_BATCH = 128, 1024, 24, 1024


def measure(sizes: Sequence[int]) -> tuple[dict[str, Any], list[Child]]:
    """Measures each stage at each size, in a process of its own.

    Args:
        sizes: numbers of rows.

    Returns:
        `table`: stage -> rows -> `seconds`, `cpu_seconds`, `us_per_row` (of processor time); `slopes`: stage -> slope
        of processor time over rows in log-log, from `FROM_ROWS` on where there are two such sizes; and the processes.
    """
    table: dict[str, dict[str, Any]] = {}
    children: list[Child] = []
    for stage, (function, arguments) in _stages().items():
        for rows in (rows for rows in sizes if stage != GRAPH or rows <= _GRAPH_ROWS):
            child = in_child(function, *arguments(rows))
            children.append(child)
            cpu, seconds = _seconds(child.result)
            table.setdefault(stage, {})[str(rows)] = {
                "seconds": round(seconds, 4),
                "cpu_seconds": round(cpu, 4),
                "us_per_row": round(1e6 * cpu / rows, 3),
            }
            note(f"{stage}: {rows:,} rows, {cpu:.3f} s of processor time")
    slopes = {
        stage: _slope({int(rows): each["cpu_seconds"] for rows, each in row.items()}) for stage, row in table.items()
    }
    return {"table": table, "slopes": slopes, "slopes_from_rows": FROM_ROWS}, children


def _stages() -> dict[str, tuple[Callable[..., Any], Callable[[int], tuple[Any, ...]]]]:
    made: dict[str, tuple[Callable[..., Any], Callable[[int], tuple[Any, ...]]]] = {
        f"gate: {name}": (parts.PARTS[name], lambda rows: (rows, CLASSES, False)) for name in _PARTS
    }
    for policy in _POLICIES:
        made[f"ledger: {policy}"] = (selection.measure, partial(_of_policy, policy))
    made["score"] = (score, lambda rows: (rows,))
    made[GRAPH] = (graph, lambda rows: (rows,))
    return made


def _of_policy(policy: str, rows: int) -> tuple[str, int]:
    return policy, rows


def score(rows: int) -> dict[str, float]:
    """Codes of rows by a sparse autoencoder, a batch at a time, without the store."""
    import time

    import torch

    from coevo_ray.core.factors.sae import SAEConfig, TopKSAE

    torch.manual_seed(0)
    sae = TopKSAE(SAEConfig(dim=_SCORE_DIM, latents=_SCORE_LATENTS, k=_SCORE_K)).eval()
    batch = torch.randn(_SCORE_BATCH, _SCORE_DIM)
    cpu, started = time.process_time(), time.perf_counter()
    with torch.no_grad():
        for start in range(0, rows, _SCORE_BATCH):
            sae.encode(batch[: rows - start])
    return {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}


def graph(rows: int) -> dict[str, float]:
    """The neighbour graph of rows around centres, without the store."""
    import time

    from coevo_ray.core.graph.graph import build_graph

    random = np.random.default_rng(0)
    centres = random.standard_normal((200, _GRAPH_DIM), dtype=np.float32)
    features = random.standard_normal((rows, _GRAPH_DIM), dtype=np.float32)
    features += centres[random.integers(0, len(centres), rows)]
    cpu, started = time.process_time(), time.perf_counter()
    build_graph(features, k=parts.NEIGHBOURS)
    return {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}


def _seconds(result: dict[str, Any]) -> tuple[float, float]:
    """Processor time and wall clock of a result; an epoch's of the ledger."""
    if "select_seconds" in result:
        both = np.add(result["select_seconds"], result["commit_seconds"])
        return float(result["cpu_seconds"]), float(np.median(both))
    return float(result["cpu_seconds"]), float(result["seconds"])


def _slope(by_rows: dict[int, float]) -> float | None:
    """Least squares; None for one size."""
    chosen = {rows: cpu for rows, cpu in by_rows.items() if rows >= FROM_ROWS and cpu > 0}
    chosen = chosen if len(chosen) > 1 else {rows: cpu for rows, cpu in by_rows.items() if cpu > 0}
    if len(chosen) < 2:
        return None
    return round(float(np.polyfit(np.log(list(chosen)), np.log(list(chosen.values())), 1)[0]), 4)
