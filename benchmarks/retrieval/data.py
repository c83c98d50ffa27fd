"""The cases of the retrieval benchmark: an own pool, an open pool, and where the open rows come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import note
from benchmarks.labels.data import Ids, LabelPool, Vectors, principal_components
from benchmarks.policies.data import encode_rows
from coevo_ray.core.graph.graph import build_graph

SETTINGS = ("same", "skewed", "noisy")
FOREIGN = -1  # label and origin of a row that shows none of the classes
FEW = 0.05  # of the rows of two classes are left in the skewed own pool, and none of a third
_NEIGHBOURS = 16


@dataclass(frozen=True, eq=False)
class Case:
    """Rows to label further.

    Attributes:
        own: the pool that a gate is open on; its `rows` are the images that its rows are.
        features: float32[M, d] of the open pool, in the own pool's principal components.
        labels: int64[M], the true ones, or `FOREIGN`.
        origin: int64[M], which image a row is, or is a near-copy of; `FOREIGN` for rows of other data.
        rare: classes that the own pool has few or none of.
    """

    own: LabelPool
    features: Vectors
    labels: Ids
    origin: Ids
    rare: tuple[int, ...]


def image_size(file: Path) -> tuple[int, int]:
    """Training images that `benchmarks.policies.data.encode_images` wrote, and their height in pixels."""
    with np.load(file) as arrays:
        images = arrays["train_images"]
    return len(images), int(images.shape[1])


def encode_foreign(folder: Path, count: int, size: int, digits: bool) -> Path:
    """Features of images that show none of the classes; a file that is there is kept.

    In equal parts: uniform noise; crops of scikit-learn's two photographs (a temple, a flower); its digits, where those
    are not the data.

    Args:
        folder: gets the arrays.
        count: images.
        size: of crops and noise, in pixels.
        digits: whether digits are among them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"foreign-{count}-{size}{'-digits' if digits else ''}.npz"
    if file.is_file():
        return file
    random = np.random.default_rng(0)
    parts = [_noise, _crops, _digits] if digits else [_noise, _crops]
    sizes = [len(part) for part in np.array_split(np.arange(count), len(parts))]
    images = [image for make, rows in zip(parts, sizes, strict=True) for image in make(rows, size, random)]
    note(f"encoding {len(images):,} images of other data ...")
    np.savez(file, features=encode_rows(images))
    return file


def _noise(count: int, size: int, random: np.random.Generator) -> list[Any]:
    from PIL import Image

    return [Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(count)]


def _crops(count: int, size: int, random: np.random.Generator) -> list[Any]:
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    crops = []
    for i in range(count):
        image, edge = photographs[i % len(photographs)], int(random.integers(32, 200))
        x, y = int(random.integers(0, image.width - edge)), int(random.integers(0, image.height - edge))
        crops.append(image.crop((x, y, x + edge, y + edge)).resize((size, size)))
    return crops


def _digits(count: int, size: int, random: np.random.Generator) -> list[Any]:
    from PIL import Image
    from sklearn.datasets import load_digits

    pixels = (load_digits().images * 255 / 16).round().astype(np.uint8)
    rows = random.permutation(len(pixels))
    return [Image.fromarray(pixels[rows[i % len(rows)]]).convert("RGB").resize((size, size)) for i in range(count)]


def make_case(file: Path, foreign: Path, setting: str, seed: int) -> Case:
    """Own and open pool of a setting, with a fifth and two fifths as many rows as there are training images.

    Args:
        file: of `benchmarks.policies.data.encode_images`.
        foreign: of `encode_foreign`, at least a tenth as many.
        setting: `same`, both pools drawn at random; `skewed`, of three random classes the own pool lacks one and has a
            twentieth of the usual rows of the others; `noisy`, half of the open pool are rows like the own ones, a
            quarter near-copies (half of them of own rows, half of each other) and a quarter rows of other data.
        seed: of what is drawn.
    """
    random = np.random.default_rng([seed, 5])
    with np.load(file) as arrays, np.load(foreign) as others:
        labels, of = arrays["train_labels"].astype(np.int64), arrays["copy_of"]
        test, test_labels = arrays["test_features"], arrays["test_labels"].astype(np.int64)
        parts = [arrays["train_features"]]
        if setting == "noisy":
            parts += [arrays["copy_features"], others["features"]]
        features = np.concatenate(parts)
    origin = np.concatenate([np.arange(len(labels)), of, np.full(len(features), FOREIGN)])[: len(features)]
    classes, count = int(labels.max()) + 1, 2 * len(labels) // 5
    rare: tuple[int, ...] = ()
    if setting == "noisy":
        own, there = _with_noise(origin, of, len(labels), count, random)
    else:
        order = random.permutation(len(labels))
        own, there = order[count:], order[:count]
        if setting == "skewed":
            rare = tuple(int(label) for label in random.permutation(classes)[:3])
            few = max(2, round(FEW * len(labels) / 5 / classes))
            kept = [own[labels[own] == label][:few] for label in rare[1:]]
            own = np.concatenate([*kept, own[~np.isin(labels[own], rare)]])
    own, there = np.sort(own[: len(labels) // 5]), random.permutation(there)
    x, rest = principal_components(features[own], np.concatenate([test, features[there]]))
    graph = build_graph(x, _NEIGHBOURS, "exact")
    pool = LabelPool(x, labels[own], rest[: len(test)], test_labels, graph, classes, own)
    true = np.where(origin[there] == FOREIGN, FOREIGN, labels[origin[there]])
    return Case(pool, rest[len(test) :], true, origin[there], rare)


def _with_noise(origin: Ids, of: Ids, rows: int, count: int, random: np.random.Generator) -> tuple[Ids, Ids]:
    """Own rows, and places of open rows among images, near-copies and rows of other data."""
    order, copied = random.permutation(rows), random.permutation(np.unique(of))
    of_own, of_each_other = np.array_split(copied, 2)
    alone = order[~np.isin(order, copied)]
    quarter = count // 4
    copies = random.permutation(rows + np.flatnonzero(np.isin(of, of_own)))[: quarter // 2]
    grouped = rows + np.flatnonzero(np.isin(of, of_each_other[: -(-quarter // 16)]))
    foreign = random.permutation(np.flatnonzero(origin == FOREIGN))[:quarter]
    parts = [copies, grouped[: quarter - len(copies)], foreign]
    useful = count - sum(len(part) for part in parts)
    return np.concatenate([of_own, alone[useful:]]), np.concatenate([*parts, alone[:useful]])
