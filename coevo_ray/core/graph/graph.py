"""Neighbour graph of a pool: each row's nearest rows by cosine similarity (Info-Coevolution, arXiv 2506.08070).

Features do not change within a gate round, so the graph is built once and every later step is array work on it. No
similarity threshold is applied here; readers of the graph apply their own. See docs/design.md#graph.
"""

from __future__ import annotations

import numpy as np
import torch

from coevo_ray.core.arrays import FloatArray
from coevo_ray.core.graph.plan import Method, device_of, make_plan
from coevo_ray.core.graph.search import blocks
from coevo_ray.core.graph.types import NeighbourGraph
from coevo_ray.core.graph.unit_rows import UnitRows
from coevo_ray.errors import UsageError


def build_graph(
    features: FloatArray,
    k: int = 16,
    method: Method = "auto",
    *,
    seed: int = 0,
    recall_sample: int = 1000,
    threads: int | None = None,
    centre: bool = False,
    device: str | None = None,
) -> NeighbourGraph:
    """Builds the neighbour graph by cosine similarity.

    `exact` compares all pairs. `ivf` groups the rows into cells and compares each row with those of its nearest cells,
    as many cells as a sample needs for a recall of 0.98; `parameters["goal_reached"]` tells if that was reached. Both
    give the same graph for any number of threads, bit for bit. `auto` takes `exact` up to about 34 000 rows of 256
    dimensions (two million on a GPU; the limit is on rows^2 x dimensions) and `ivf` beyond.

    Memory: float16 features are used in place, with one sorted copy for `ivf`; others are copied as float32, with a
    second copy while `ivf` sorts them. Add the graph and some 100 MiB per thread.

    Args:
        features: float[N, d], of any length (rows are normalised here); not changed.
        k: neighbours per row.
        method: `auto`, `exact` or `ivf`.
        seed: seed of the cells and of the recall sample.
        recall_sample: rows of the recall sample, half to choose the number of cells, half to measure recall; 0 skips
            the measurement.
        threads: CPU threads; None takes torch's number.
        centre: subtract the mean of all features first.
        device: `cpu` or `cuda`; None takes a GPU if there is one.

    Returns:
        The graph: indices int32[N, k] and similarities float32[N, k].

    Raises:
        InputError: there are fewer than two rows, or rows are zero or not finite.
        UsageError: the method is unknown, or k or threads is below 1.

    Examples:
        >>> corners = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> build_graph(corners, k=1).indices.ravel().tolist()
        [1, 0, 1]
    """
    if method not in ("auto", "exact", "ivf"):
        raise UsageError(f"graph method {method!r}", "use auto, exact or ivf")
    if k < 1 or recall_sample < 0 or (threads is not None and threads < 1):
        raise UsageError(
            f"k = {k}, recall_sample = {recall_sample}, threads = {threads}", "k and threads are 1 or more"
        )
    threads = threads or torch.get_num_threads()
    rows = UnitRows.of(features, centre=centre)
    where = device_of(device)
    plan = make_plan(rows, k, method, seed=seed, recall_sample=recall_sample, threads=threads, device=where)
    rows = plan.sort(rows)
    indices = np.empty((len(rows), k), dtype=np.int32)
    similarities = np.empty((len(rows), k), dtype=np.float32)
    for own, index, similarity in plan.search(rows, blocks(len(rows)), threads, where):
        indices[own], similarities[own] = index, similarity
    return NeighbourGraph(indices, similarities, plan.method, plan.recall, plan.parameters)
