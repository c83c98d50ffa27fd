"""Neighbour graph of a pool: each row's nearest rows by cosine (Info-Coevolution, arXiv 2506.08070; DESIGN 5.4).

Features do not change inside a gate round, so the graph is built once and every later step is array work on it.
No similarity threshold is applied here: whoever reads the graph applies its own.
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
    as many as a sample needs for a recall of 0.98; `parameters["goal_reached"]` says whether that was reached. Both
    give the same graph for any number of threads, bit for bit. `hnsw` (faiss) searches a navigable small-world index
    with as much effort; it gives the same graph each time with one thread only, and rows with many copies hide others
    from it. `auto` compares all pairs up to about
    34 000 rows of 256 dimensions (two million on a GPU; the limit falls with rows^2 x dimensions), and takes `ivf`
    beyond.

    Memory: features of float16 are used as they are, with one sorted copy for `ivf`; of others there is a copy as
    float32, and a second one while `ivf` sorts them. Beside those, the graph and some 100 MiB for each thread.

    Args:
        features: float[N, d], of any length (rows are normalised here); not changed.
        k: neighbours of a row.
        method: see above.
        seed: seed of the cells and the recall sample.
        recall_sample: rows of the recall sample, half of them to choose the effort and half to measure; 0 measures
            nothing.
        threads: CPU threads; None takes as many as torch does.
        centre: compare features less their mean.
        device: `cpu` or `cuda`; None takes a GPU where there is one. Not for `hnsw`.

    Raises:
        InputError: fewer than two rows, rows that are zero or not finite.
        UsageError: an unknown method, or k or threads below 1.
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
