"""Heads on frozen features, tuned alike for every method: the penalty by cross-validation on the labelled rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from coevo_ray.core.probes.probe import LinearProbe, knn_accuracy

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

# scikit-learn's C, strongest penalty first.
PENALTIES = (0.001, 0.004, 0.016, 0.06, 0.25, 1.0, 4.0)
FOLDS = 3
K = 20
# L-BFGS iterations at most, and the change of the mean loss that ends them: for each penalty, from the solution of the
# one before; and of the head itself.
_TUNING = (20, 1e-4)
_FINAL = (60, 1e-6)
# Penalties are compared on so many rows at most: C weighs the summed loss against the weights' size, so that the best
# one hardly depends on the number of rows.
_TUNED_ROWS = 5_000
_WORSE = 2  # penalties in a row without a smaller loss end the search


@dataclass(frozen=True, eq=False)
class TunedLinear:
    """Logistic regression with its chosen penalty.

    Attributes:
        probe: the classifier; of its features all are divided by one scale.
        penalty: C, of `PENALTIES`.
        losses: penalty -> cross-entropy in nats of the labelled rows, each predicted without its fold; penalties
            weaker than where the search ended are missing.
    """

    probe: LinearProbe
    penalty: float
    losses: dict[float, float]

    def predict_proba(self, x: npt.NDArray[np.floating]) -> Vectors:
        """Class probabilities float32[n, C] of rows float[n, d]."""
        return self.probe.predict_proba(x)

    def predict(self, x: npt.NDArray[np.floating]) -> Ids:
        """Likeliest classes int64[n] of rows float[n, d]."""
        likeliest: Ids = self.predict_proba(x).argmax(axis=1).astype(np.int64)
        return likeliest


def fit_tuned(x: npt.NDArray[np.floating], y: Ids, classes: int, seed: int) -> TunedLinear:
    """Fits the head on labelled rows; test rows are not seen.

    Features are centred and divided by one number, their root mean square, so that directions keep their relative
    size. Minimised is C x summed cross-entropy + (||weight||^2 + ||bias||^2) / 2. C has the least cross-entropy in
    3-fold cross-validation on the labelled rows, 5 000 of them at most (both stratified by label), searched from the
    strongest penalty to the weakest until two in a row are no better.

    Args:
        x: float[n, d].
        y: int64[n] in 0..classes-1.
        classes: C; a class without a row gets a small probability.
        seed: of the folds.
    """
    mean = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = x.astype(np.float32) - mean
    scale = float(np.sqrt((centred**2).mean())) or 1.0
    rows = torch.from_numpy(centred / scale)
    rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
    truth = torch.from_numpy(y)
    part = torch.from_numpy(np.flatnonzero(stratified_folds(y, -(-len(y) // _TUNED_ROWS), seed) == 0))
    best, start, losses = _tuned(rows[part], truth[part], classes, seed)
    final = _minimised(rows, truth, torch.ones(len(truth), 1), start, best, *_FINAL)[:, 0].T.numpy()
    scales = np.full(x.shape[1], scale, dtype=np.float32)
    return TunedLinear(LinearProbe(final[:, :-1].copy(), final[:, -1].copy(), mean, scales), best, losses)


def _tuned(
    rows: torch.Tensor, truth: torch.Tensor, classes: int, seed: int
) -> tuple[float, torch.Tensor, dict[float, float]]:
    """The best penalty, the mean of its folds' solutions float[d, 1, C], and the losses; each starts at the last."""
    fold = torch.from_numpy(stratified_folds(truth.numpy(), FOLDS, seed))
    inside = torch.stack([(fold != f).float() for f in range(FOLDS)], dim=1)
    weights = torch.zeros(rows.shape[1], FOLDS, classes)
    losses: dict[float, float] = {}
    found: list[torch.Tensor] = []
    best = 0
    for penalty in PENALTIES:
        weights = _minimised(rows, truth, inside, weights, penalty, *_TUNING)
        with torch.inference_mode():
            losses[penalty] = float((_losses(rows, truth, weights) * (1 - inside)).sum() / len(truth))
        found.append(weights.mean(dim=1, keepdim=True))
        best = min(range(len(found)), key=lambda i: losses[PENALTIES[i]])
        if best < len(found) - _WORSE:
            break
    return PENALTIES[best], found[best], losses


def tuned_linear(
    x: npt.NDArray[np.floating], y: Ids, x_test: npt.NDArray[np.floating], y_test: Ids, seed: int
) -> float:
    """Accuracy on test rows of the head that `fit_tuned` fits on the labelled rows.

    Args:
        x, y: float[n, d] and int64[n], labelled rows.
        x_test, y_test: float[t, d] and int64[t].
        seed: of the folds.
    """
    classes = int(max(y.max(), y_test.max())) + 1
    return float((fit_tuned(x, y, max(2, classes), seed).predict(x_test) == y_test).mean())


def knn(x: npt.NDArray[np.floating], y: Ids, x_test: npt.NDArray[np.floating], y_test: Ids, k: int = K) -> float:
    """Accuracy of the k most similar labelled rows (cosine), weighted by exp(similarity / 0.07)."""
    return knn_accuracy(x, y, x_test, y_test, k)


def class_mean(right: npt.NDArray[np.bool_], y: Ids) -> float:
    """Mean over the classes of the share of rows that are right."""
    return float(np.mean([right[y == label].mean() for label in np.unique(y)]))


def stratified_folds(y: Ids, folds: int, seed: int) -> Ids:
    """Fold of each row, int64[n]: each class is dealt out evenly, beginning with another fold for each class."""
    random = np.random.default_rng([seed, 7])
    fold: Ids = np.empty(len(y), dtype=np.int64)
    begin = 0
    for label in np.unique(y):
        members = random.permutation(np.flatnonzero(y == label))
        fold[members] = (begin + np.arange(len(members))) % folds
        begin += len(members)
    return fold


def _losses(rows: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Cross-entropies float[n, heads] of heads float[d, heads, C]."""
    heads, classes = weights.shape[1:]
    logits = (rows @ weights.reshape(len(weights), -1)).view(-1, classes)
    each = torch.nn.functional.cross_entropy(logits, truth.repeat_interleave(heads), reduction="none")
    return each.view(len(truth), heads)


def _minimised(
    rows: torch.Tensor,
    truth: torch.Tensor,
    inside: torch.Tensor,
    start: torch.Tensor,
    penalty: float,
    steps: int,
    change: float,
) -> torch.Tensor:
    """Heads float[d, heads, C], each fitted on the rows where its column of `inside` float[n, heads] is 1."""
    weights = start.detach().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=steps,
        history_size=10,
        tolerance_grad=1e-5,
        tolerance_change=change,
        line_search_fn="strong_wolfe",
    )
    counts = inside.sum()

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        entropy = (_losses(rows, truth, weights) * inside).sum()
        value = (entropy + 0.5 / penalty * weights.square().sum()) / counts
        value.backward()  # type: ignore[no-untyped-call]  # torch leaves this method untyped
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]  # and this one
    return weights.detach()
