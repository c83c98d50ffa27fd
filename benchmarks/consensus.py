"""Consensus of priors: time and memory of everything but forward passes, on a large shared set.

    python -m benchmarks.consensus --json [--quick] [--rows N]

Features come in blocks, as tasks read them; their making is not timed. Summing up, components, joint sums and the fit
are those of `encode` and `merge`, in one process and without Ray.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import busiest, finish, in_child, note, parser, peak_bytes, rows_of
from coevo_ray.core.alignment.components import Components, fit_components, to_components
from coevo_ray.core.alignment.consensus import fit_consensus
from coevo_ray.core.alignment.moments import Moments, add_moments, moments_of
from coevo_ray.core.rows.hashing import hash_rows

PRIORS, FEATURES, COMPONENTS, DIM = 5, 1280, 512, 256  # as `encode` would choose for so many rows
_BLOCK_ROWS, _SIGNAL = 4096, 400
Block = npt.NDArray[np.float32]


def main() -> None:
    """Runs the benchmark."""
    arguments = parser(__doc__.split("\n")[0], 100_000, 8_192).parse_args()
    child = in_child(measure, rows_of(arguments))
    sizes = {"priors": PRIORS, "features": FEATURES, "components": COMPONENTS, "dim": DIM}
    finish("consensus", {**sizes, "repeats": 1, **child.result, "busy_before": busiest([child])}, arguments.json)


def measure(rows: int) -> dict[str, Any]:
    """Times every step on some shared rows.

    Returns:
        `rows`, `seconds` in all and `stage_seconds`, `peak_bytes` of the process and `idle_bytes` before the first
        step, `r2` of each prior.
    """
    spent: dict[str, float] = defaultdict(float)
    idle = peak_bytes()
    components = [_components(prior, rows, spent) for prior in range(PRIORS)]
    fit, held = _joined(components, rows, spent)
    began = time.perf_counter()
    consensus = fit_consensus(fit, held, [COMPONENTS] * PRIORS, DIM)
    spent["fit"] = time.perf_counter() - began
    return {
        "rows": rows,
        "seconds": round(sum(spent.values()), 2),
        "stage_seconds": {name: round(seconds, 2) for name, seconds in spent.items()},
        "idle_bytes": idle,
        "peak_bytes": peak_bytes(),
        "r2": [round(prior.r2, 4) for prior in consensus.priors],
    }


def _components(prior: int, rows: int, spent: dict[str, float]) -> Components:
    def sums() -> Iterator[Moments]:
        for block in _blocks(prior, rows):
            began = time.perf_counter()
            moments = moments_of(block)
            spent["moments"] += time.perf_counter() - began
            yield moments

    total = add_moments(sums())
    began = time.perf_counter()
    components = fit_components(total, COMPONENTS)
    spent["components"] += time.perf_counter() - began
    note(f"prior {prior}: components of {rows:,} rows")
    return components


def _joined(components: list[Components], rows: int, spent: dict[str, float]) -> tuple[Moments, Moments]:
    fit: Moments | None = None
    held: Moments | None = None
    for start, *blocks in zip(range(0, rows, _BLOCK_ROWS), *(_blocks(k, rows) for k in range(PRIORS)), strict=True):
        began = time.perf_counter()
        joined = np.concatenate([to_components(b, c) for b, c in zip(blocks, components, strict=True)], axis=1)
        out = hash_rows(np.arange(start, start + len(joined)), 0) < np.uint64(2**64 // 5)
        parts = moments_of(joined[~out]), moments_of(joined[out])
        fit = parts[0] if fit is None else add_moments([fit, parts[0]])
        held = parts[1] if held is None else add_moments([held, parts[1]])
        spent["joint_moments"] += time.perf_counter() - began
    if fit is None or held is None:
        raise ValueError("no rows")
    return fit, held


def _blocks(prior: int, rows: int) -> Iterator[Block]:
    """Features of one signal as a prior sees it, with noise of its own."""
    signal_map = np.random.default_rng(1000 + prior).standard_normal((_SIGNAL, FEATURES), dtype=np.float32)
    signal_map *= (np.arange(1, _SIGNAL + 1, dtype=np.float32) ** -0.5)[:, None]
    for start in range(0, rows, _BLOCK_ROWS):
        size = min(_BLOCK_ROWS, rows - start)
        signal = np.random.default_rng(start).standard_normal((size, _SIGNAL), dtype=np.float32)
        noise = np.random.default_rng([prior, start]).standard_normal((size, FEATURES), dtype=np.float32)
        yield signal @ signal_map + noise


if __name__ == "__main__":
    main()
