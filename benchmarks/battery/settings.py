"""Settings of a pool: wrong labels, rare classes, near-copies, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.battery.pools import Ids

SETTINGS = ("clean", "noise", "pair_noise", "long_tail", "copies")
CLEAN, COPIES = "clean", "copies"
NOISE = 0.2
IMBALANCE = 50
_LEAST = 2  # rows of the rarest class


@dataclass(frozen=True, eq=False)
class Setting:
    """The training rows of one setting and seed.

    Attributes:
        name: one of `SETTINGS`.
        seed: of its noise and of the rows that it leaves out.
        rows: int64[n], positions in `Features.rows`: of training rows, and of near-copies behind them; shuffled.
        labels: int64[n], as a trainer or an annotator gives them.
        true: int64[n], the true ones.
        groups: int64[n], the training row of which each row is a copy, or the row itself: copies share theirs.
    """

    name: str
    seed: int
    rows: Ids
    labels: Ids
    true: Ids
    groups: Ids


def make_setting(
    name: str,
    labels: Ids,
    classes: int,
    seed: int,
    features: npt.NDArray[np.floating] | None = None,
    copies: Ids | None = None,
) -> Setting:
    """Makes the training rows of a setting; test rows stay as they are.

    Args:
        name: `clean`; `noise`, a fifth of the labels moved to another class, any with equal chance; `pair_noise`, a
            fifth of the labels moved to the class that is most similar to the true one (`nearest_classes`);
            `long_tail`, class after class in a random order has fewer rows, the last 50 times fewer; `copies`, half
            of the rows are near-copies of others.
        labels: int64[n], of the pool's training rows.
        classes: C.
        seed: of all chance.
        features: float[n, d] of the training rows by the first prior; needed for `pair_noise`.
        copies: int64[m], the training row of each near-copy; needed for `copies`.

    Raises:
        ValueError: the name is unknown, or what it needs is missing.
    """
    random = np.random.default_rng([seed, SETTINGS.index(name)])
    rows: Ids = np.arange(len(labels), dtype=np.int64)
    groups, true = rows, labels
    if name == "long_tail":
        rows = long_tailed(labels, random)
    elif name == COPIES:
        if copies is None:
            raise ValueError("the setting copies without the rows that the near-copies are of")
        rows = _half_copies(len(labels), copies, random)
        groups, true = np.concatenate([groups, copies]), np.concatenate([labels, labels[copies]])
    rows = random.permutation(rows)
    given = true[rows].copy()
    if name in ("noise", "pair_noise"):
        wrong = random.permutation(len(rows))[: round(NOISE * len(rows))]
        if name == "noise":
            given[wrong] = (given[wrong] + random.integers(1, classes, len(wrong))) % classes
        elif features is None:
            raise ValueError("the setting pair_noise without features")
        else:
            given[wrong] = nearest_classes(features, labels, classes)[given[wrong]]
    return Setting(name, seed, rows, given, true[rows], groups[rows])


def nearest_classes(features: npt.NDArray[np.floating], labels: Ids, classes: int) -> Ids:
    """Finds the most similar other class of each class, by the cosine of class means after centring.

    Args:
        features: float[n, d].
        labels: int64[n]; a class without a row is nobody's nearest, and its own is the first class.
        classes: C, two or more.

    Returns:
        int64[C].
    """
    there = np.bincount(labels, minlength=classes) > 0
    means = np.stack(
        [
            features[labels == label].mean(axis=0, dtype=np.float64) if there[label] else np.zeros(features.shape[1])
            for label in range(classes)
        ]
    )
    means[there] -= features.mean(axis=0, dtype=np.float64)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    similarity = means @ means.T
    similarity[:, ~there] = -2.0
    np.fill_diagonal(similarity, -3.0)
    nearest: Ids = similarity.argmax(axis=1).astype(np.int64)
    return nearest


def long_tailed(labels: Ids, random: np.random.Generator) -> Ids:
    """Thins classes out exponentially, in a random order: the first keeps all its rows, the last one in 50."""
    there = random.permutation(np.unique(labels))
    kept = []
    for rank, label in enumerate(there):
        members = random.permutation(np.flatnonzero(labels == label))
        share = IMBALANCE ** (-rank / max(1, len(there) - 1))
        kept.append(members[: max(_LEAST, round(share * len(members)))])
    return np.concatenate(kept)


def _half_copies(rows: int, of: Ids, random: np.random.Generator) -> Ids:
    """All near-copies, what they are copies of, and random other rows: as many training rows as copies."""
    originals = np.unique(of)
    lone = random.permutation(np.setdiff1d(np.arange(rows), originals))[: len(of) - len(originals)]
    kept: Ids = np.concatenate([originals, lone, rows + np.arange(len(of))]).astype(np.int64)
    return kept


def usable(names: Sequence[str]) -> tuple[str, ...]:
    """Those settings in the order of `SETTINGS`; all for none."""
    return tuple(name for name in SETTINGS if not names or name in names)
