"""The sides of the gate's benchmark: the package's gate on its graph, and the published way, row by row over an index.

The loop asks hnswlib for each row's neighbours whenever it needs them, votes, fuses, and draws in proportion to gain;
after the answers it asks again for the neighbours of each answered row and looks at those. It is written as plainly as
the rule reads.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import cores, peak_bytes, timed
from benchmarks.gate.data import CLASSES, Data, read
from coevo_ray.core.gate.config import Rule

K, LEAST_SIMILARITY, RECHECK, RECHECK_SIMILARITY = 16, 0.85, 8, 0.9
LINKS, EF_CONSTRUCTION, EF_SEARCH = 16, 200, 64
_RECALL_ROWS, _CHUNK = 1000, 1 << 16
Neighbours = Callable[[int], tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.floating[Any]]]]


class LoopGate:
    """The published rule, one row at a time.

    Args:
        neighbours: gives a row's neighbours, nearest first, and their similarities.
        probabilities: float32[N, C].
    """

    def __init__(self, neighbours: Neighbours, probabilities: npt.NDArray[np.float32]) -> None:
        self._neighbours = neighbours
        self.predicted = probabilities.argmax(axis=1)
        self.confidence = np.clip((probabilities.max(axis=1).astype(np.float64) * CLASSES - 1) / (CLASSES - 1), 0, 1)
        self.labelled = np.zeros(len(probabilities), dtype=bool)
        self.gain = np.zeros(len(probabilities))

    def all_gains(self) -> None:
        """Computes the gain of each row."""
        for row in range(len(self.gain)):
            self.gain[row] = self._gain(row)

    def draw(self, count: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
        """Unlabelled rows without replacement, in proportion to gain."""
        weight = np.where(self.labelled, 0, np.maximum(self.gain, 1e-12))
        return random.choice(len(weight), count, replace=False, p=weight / weight.sum())

    def answer(self, rows: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> None:
        """Takes labels and looks again at the nearest neighbours of the answered rows."""
        for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
            self.labelled[row], self.predicted[row], self.confidence[row], self.gain[row] = True, label, 1.0, 0.0
        same: dict[int, bool] = {}
        for row in rows.tolist():
            others, similarities = self._neighbours(row)
            for other, similarity in zip(others[:RECHECK].tolist(), similarities[:RECHECK].tolist(), strict=True):
                if similarity > RECHECK_SIMILARITY and not self.labelled[other]:
                    same[other] = same.get(other, False) or self.predicted[other] == self.predicted[row]
        for other, agrees in same.items():
            new = self._gain(other)
            self.gain[other] = new if agrees else max(self.gain[other], new)

    def _gain(self, row: int) -> float:
        votes: dict[int, float] = {}
        others, similarities = self._neighbours(row)
        for other, similarity in zip(others.tolist(), similarities.tolist(), strict=True):
            if similarity >= LEAST_SIMILARITY:
                kind = int(self.predicted[other])
                votes[kind] = votes.get(kind, 0.0) + self.confidence[other] * similarity
        total = sum(votes.values())
        best = min(votes, key=lambda c: (-votes[c], c)) if total > 0 else 0
        share = votes[best] / total if total > 0 else 0.0
        return 1.0 - _fused(share, best, float(self.confidence[row]), int(self.predicted[row]))


def _fused(a: float, class_a: int, b: float, class_b: int) -> float:
    hi, lo = max(a, b), min(a, b)
    if lo <= 0.5:
        return hi
    support = lo if class_a == class_b else 1 - lo
    total = hi * support + (1 - hi) * (1 - support)
    return hi * support / total if total > 0 else 0.5


def measure_loop(folder: str, rounds: int, size: int) -> dict[str, Any]:
    """Times the published way in this process: `build_seconds`, `gain_seconds`, `round_seconds`, `recall`."""
    import hnswlib

    data, threads = read(folder), cores()
    unit = _unit(data.features)

    def build() -> Any:
        index = hnswlib.Index(space="cosine", dim=unit.shape[1])
        index.init_index(max_elements=len(unit), ef_construction=EF_CONSTRUCTION, M=LINKS)
        index.set_num_threads(threads)
        index.add_items(unit)
        index.set_ef(EF_SEARCH)
        return index

    index, building = timed(build)

    def neighbours(row: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        found, distances = index.knn_query(unit[row], k=K + 1)
        others = found[0] != row
        return found[0][others][:K].astype(np.int64), 1.0 - distances[0][others][:K]

    gate, random = LoopGate(neighbours, data.probabilities), np.random.default_rng(0)
    _, gains = timed(gate.all_gains)

    def run() -> None:
        for _ in range(rounds):
            rows = gate.draw(size, random)
            gate.answer(rows, data.labels[rows])

    _, drawing = timed(run)
    asked = _asked(len(unit))
    found = np.stack([np.sort(neighbours(int(row))[1])[::-1] for row in asked])
    return {
        "build_seconds": building,
        "gain_seconds": gains,
        "round_seconds": drawing,
        "recall": _recall(unit, asked, found),
    }


def measure_ours(folder: str, rule: Rule, rounds: int, size: int, compare: bool) -> dict[str, Any]:
    """Times the package in this process.

    Args:
        folder: of the data.
        rule: of the gate.
        rounds: how many, each of `size` labels; `margin` gets its predictions again after each, as a run does.
        size: labels of a round.
        compare: whether to compare all gains with the loop's over the same graph, afterwards.

    Returns:
        `build_seconds`, `gain_seconds`, `round_seconds`; `peak_bytes` up to there, `method`, `parameters`; `recall`:
        `measured` by the build itself, and `checked` here on other rows; `max_gain_difference` or None.
    """
    from coevo_ray.core.gate.config import GateConfig
    from coevo_ray.core.gate.gate import AnnotationGate
    from coevo_ray.core.graph.graph import build_graph

    data = read(folder)
    graph, building = timed(lambda: build_graph(data.features, K, threads=cores()))
    config = GateConfig(classes=CLASSES, round_size=size, rule=rule)
    gate = AnnotationGate(config, graph, np.ones(graph.rows, dtype=bool))
    _, gains = timed(lambda: gate.update_predictions(data.probabilities))
    after, drawn = [_gains(gate)] if compare else [], []

    def one() -> None:
        rows = gate.request().positions
        gate.submit(rows, data.labels[rows])
        if rule != "compat":
            gate.update_predictions(data.probabilities)
        drawn.append(rows)

    drawing = 0.0
    for _ in range(rounds):
        drawing += timed(one)[1]
        after += [_gains(gate)] if compare else []
    peak = peak_bytes()
    unit, asked = _unit(data.features), _asked(graph.rows)
    np.savez(Path(folder) / "graph.npz", indices=graph.indices, similarities=graph.similarities)
    return {
        "build_seconds": building,
        "gain_seconds": gains,
        "round_seconds": drawing,
        "peak_bytes": peak,
        "method": graph.method,
        "parameters": graph.parameters,
        "recall": {"measured": graph.recall, "checked": _recall(unit, asked, graph.similarities[asked])},
        "labels": gate.labelled_rows,
        "max_gain_difference": _difference(graph, data, after, drawn) if compare else None,
    }


def _gains(gate: Any) -> npt.NDArray[np.float32]:
    gain: npt.NDArray[np.float32] = gate.state()[1]["gain"]
    return gain


def _difference(
    graph: Any, data: Data, after: list[npt.NDArray[np.float32]], drawn: list[npt.NDArray[np.int64]]
) -> float:
    """The largest difference of any gain, at first and after each round, from the loop's over the same graph."""

    def neighbours(row: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        there = graph.indices[row] >= 0
        return graph.indices[row][there], graph.similarities[row][there]

    loop = LoopGate(neighbours, data.probabilities)
    loop.all_gains()
    differences = [np.abs(loop.gain - after[0]).max()]
    for rows, gains in zip(drawn, after[1:], strict=True):
        loop.answer(rows, data.labels[rows])
        differences.append(np.abs(loop.gain - gains).max())
    return float(max(differences))


def measure_offers(folder: str, rows: int, batches: dict[int, int]) -> dict[str, Any]:
    """Times looking up and appending batches that arrive at a graph of the other rows.

    Args:
        folder: of the data and of the graph that `measure_ours` left.
        rows: the first rows, which are there at first; those after them arrive. Where the graph names one of
            those, another row stands in at the same similarity: a row that lacks neighbours would learn of all.
        batches: rows of a batch -> how many batches.

    Returns:
        `method`, `start_seconds`, and for each batch size `p50` and `p99` of `search`, `append` and `both`, in ms.
    """
    from coevo_ray.core.graph.growing import GrowingIndex
    from coevo_ray.core.graph.types import NeighbourGraph

    arriving = sum(size * count for size, count in batches.items())
    unit, saved = _unit(read(folder).features[: rows + arriving]), np.load(Path(folder) / "graph.npz")
    named, values = saved["indices"][:rows], saved["similarities"][:rows]
    indices = np.where(named < rows, named, (np.arange(rows)[:, None] + 1) % rows).astype(np.int32)
    graph = NeighbourGraph(indices, values, "exact", None)
    index, starting = timed(lambda: GrowingIndex(unit[:rows], graph, threads=cores()))
    latency = {}
    for size, count in batches.items():
        times = []
        for _ in range(count):
            batch = unit[index.rows : index.rows + size]
            found, search = timed(functools.partial(index.search, batch))
            _, append = timed(functools.partial(index.append, batch, *found))
            times.append((search, append, search + append))
        parts = zip(("search", "append", "both"), np.array(times).T, strict=True)
        latency[str(size)] = {
            name: {f"p{p}": round(1e3 * float(np.percentile(part, p)), 3) for p in (50, 99)} for name, part in parts
        }
    return {"rows": rows, "method": index.method, "start_seconds": round(starting, 3), "latency_ms": latency}


def _unit(features: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    unit = features.astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return unit


def _asked(rows: int) -> npt.NDArray[np.int64]:
    return np.sort(np.random.default_rng(12345).permutation(rows)[:_RECALL_ROWS])


def _recall(unit: npt.NDArray[np.float32], asked: npt.NDArray[np.int64], found: npt.NDArray[np.floating[Any]]) -> float:
    """Share of the true neighbours of some rows that were found, by comparing with all rows."""
    best: npt.NDArray[np.float32] = np.full((len(asked), K), -np.inf, dtype=np.float32)
    for start in range(0, len(unit), _CHUNK):
        products = unit[asked] @ unit[start : start + _CHUNK].T
        inside = np.flatnonzero((asked >= start) & (asked < start + products.shape[1]))
        products[inside, asked[inside] - start] = -np.inf
        best = np.partition(np.concatenate([best, products], axis=1), -K, axis=1)[:, -K:]
    return round(float((found >= best.min(axis=1, keepdims=True) - 1e-6).mean()), 5)


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for the data."""
    return tempfile.TemporaryDirectory(prefix="coevo-gate-")
