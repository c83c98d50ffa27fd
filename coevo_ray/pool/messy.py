"""Faults of real pools, made in clean samples: skewed classes and wrong labels; held-out rows are clean and even.

The demo runs on such samples: on clean and even ones there is little to decide.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coevo_ray.core.arrays import Float32Array, Int64Array

SKEW = 10  # times fewer rows in the smallest class than in the largest
WRONG = 5  # one in so many training labels
HELD_OUT = 5  # one in so many rows of the smallest class, and as many of each other class
_BUCKETS = 4096
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, eq=False)
class Messy:
    """The rows of a messy sample.

    Attributes:
        train: int64[n], training rows as positions in the clean sample, in a random order.
        given: int64[n], their labels, some of them wrong.
        test: int64[t], held-out rows, the same number of each class; their labels are as they were.
    """

    train: Int64Array
    given: Int64Array
    test: Int64Array


def make_messy(features: Float32Array, labels: Int64Array, seed: int = 0) -> Messy:
    """Draws a messy sample from a clean one.

    Each class after the largest keeps fewer rows than the one before it, in a random order of classes, down to a tenth.
    A fifth of the training labels become that of the class that is most easily mistaken for the true one: the class
    whose mean features are the most similar, by the cosine after centring.

    Args:
        features: float32[n, d], for the similarity of classes.
        labels: int64[n], positions of classes, each with five or more rows.
        seed: of all chance.
    """
    random = np.random.default_rng(seed)
    members = [random.permutation(np.flatnonzero(labels == label)) for label in range(int(labels.max()) + 1)]
    held = min(map(len, members)) // HELD_OUT
    rest = [rows[held:] for rows in members]
    largest = max(map(len, rest))
    shares = SKEW ** -np.linspace(0, 1, len(rest))
    kept = [rest[label][: round(largest * share)] for label, share in zip(_permuted(rest, random), shares, strict=True)]
    train = random.permutation(np.concatenate(kept))
    given = labels[train].copy()
    wrong = random.permutation(len(train))[: len(train) // WRONG]
    given[wrong] = _most_similar(features, labels)[given[wrong]]
    return Messy(train, given, np.sort(np.concatenate([rows[:held] for rows in members])))


def _permuted(classes: Sequence[Int64Array], random: np.random.Generator) -> list[int]:
    """Classes in a random order; the largest is the first, so that the skew is what `SKEW` says."""
    order = [int(label) for label in random.permutation(len(classes))]
    return sorted(order, key=lambda label: len(classes[label]) < max(map(len, classes)))


def _most_similar(features: Float32Array, labels: Int64Array) -> Int64Array:
    """int64[C], for each class the other one of the most similar mean."""
    means = np.stack([features[labels == label].mean(axis=0) for label in range(int(labels.max()) + 1)])
    means -= means.mean(axis=0)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    similarity = means @ means.T
    np.fill_diagonal(similarity, -np.inf)
    nearest: Int64Array = similarity.argmax(axis=1)
    return nearest


def words_of(texts: Sequence[str]) -> Float32Array:
    """float32[n, 4096], of unit length: the words of each text, counted in buckets by a hash."""
    counts = np.zeros((len(texts), _BUCKETS), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in _WORD.findall(text.lower()):
            counts[row, zlib.crc32(word.encode()) % _BUCKETS] += 1
    lengths = np.linalg.norm(counts, axis=1, keepdims=True)
    counts /= np.maximum(lengths, 1.0)
    return counts
