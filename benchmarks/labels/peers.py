"""Queries of scikit-activeml, on the same head's predictions."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from skactiveml import pool as queries
from skactiveml.base import SkactivemlClassifier

from benchmarks.labels.data import Ids, LabelPool, Vectors
from benchmarks.labels.method import RANKING, Labelled, Method
from coevo_ray.core.graph.unit_rows import unit_rows
from coevo_ray.core.probes.probe import LinearProbe

_DIM = 64  # leading principal components that greedy ones see: Badge's work grows with classes x dimensions
_KMEANS = {"n_init": 1, "max_iter": 20}


class _Head(SkactivemlClassifier):  # type: ignore[misc]  # it has no types
    """A fitted head in the form that queries ask for.

    Args:
        probe: the head.
        predicted: float32[m, C], what it says of the candidates; None where rows are given whole.
    """

    def __init__(
        self,
        probe: LinearProbe | None = None,
        predicted: Vectors | None = None,
        classes: Any = None,
        missing_label: float = np.nan,
        cost_matrix: Any = None,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            classes=classes, missing_label=missing_label, cost_matrix=cost_matrix, random_state=random_state
        )
        self.probe, self.predicted = probe, predicted

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> _Head:
        return self

    def predict(self, X: Any) -> npt.NDArray[np.int64]:
        """Classes of rows that a query changed, as dropout does: the probe's own."""
        assert self.probe is not None
        likeliest: npt.NDArray[np.int64] = self.probe.predict_proba(np.asarray(X, dtype=np.float32)).argmax(axis=1)
        return likeliest

    def predict_proba(self, X: Any) -> npt.NDArray[Any]:
        assert self.predicted is not None and len(self.predicted) == len(X)
        return self.predicted.astype(np.float64)


class Peer(Method):
    """A query of scikit-activeml.

    Args:
        pool, seed: see `Method`.
        query: the query.
        features: float32[N, d], what it looks at.
        model: the name under which it takes the model, None where it looks at none.
        ranks: see `RANKING`.
    """

    def __init__(
        self, pool: LabelPool, seed: int, query: Any, features: Vectors, model: str | None, ranks: bool = False
    ) -> None:
        super().__init__(pool, seed)
        self._query, self._features, self._model, self._ranks = query, features, model, ranks

    def choose(self, now: Labelled, count: int) -> Ids:
        """See `Method`."""
        known = np.full(len(self._features), np.nan)
        known[now.rows] = now.labels
        free = self.unlabelled(now)
        model = {}
        if self._model is not None:
            head = _Head(now.probe, now.probabilities[free])
            model = {self._model: head, f"fit_{self._model}": False}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # k-means' on fewer distinct rows than clusters, a purity not reached
            if self._ranks:
                # Its batch is the top of these utilities, for which it would keep them once for each chosen row.
                utilities = self._query.query(
                    self._features, known, **model, candidates=free, batch_size=1, return_utilities=True
                )[1][0][free]
                return free[np.argsort(-utilities, kind="stable")[:count]]
            chosen = self._query.query(self._features, known, **model, candidates=free, batch_size=count)
        return np.asarray(chosen, dtype=np.int64)


def make_peer(name: str, pool: LabelPool, seed: int) -> Peer:
    """A query by its name in the table."""
    few = pool.features[:, :_DIM]
    unit = unit_rows(few)
    if name in RANKING:
        method = {"activeml_margin": "margin_sampling", "activeml_entropy": "entropy"}[name]
        query = queries.UncertaintySampling(method=method, random_state=seed)
        return Peer(pool, seed, query, pool.features[:, :1], "clf", ranks=True)
    made: dict[str, tuple[Any, Vectors, str | None]] = {
        "activeml_badge": (queries.Badge(random_state=seed), few, "clf"),
        "activeml_typiclust": (queries.TypiClust(random_state=seed, cluster_algo_dict=_KMEANS), unit, None),
        "activeml_coreset": (queries.CoreSet(random_state=seed), few, None),
        "activeml_probcover": (queries.ProbCover(n_classes=pool.classes, random_state=seed), unit, None),
        "activeml_falcun": (queries.Falcun(random_state=seed), few, "clf"),
        "activeml_drop_query": (queries.DropQuery(random_state=seed, cluster_algo_dict=_KMEANS), pool.features, "clf"),
        "activeml_clue": (queries.Clue(random_state=seed, cluster_algo_dict=_KMEANS), few, "estimator"),
    }
    return Peer(pool, seed, *made[name])
