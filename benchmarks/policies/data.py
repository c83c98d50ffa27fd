"""The pools of the policies benchmark: frozen features of real images, clean, noisy, skewed and full of copies."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.common import note
from benchmarks.targets.tables import digits_images, parquet_images
from coevo_ray.config import EvidenceConfig
from coevo_ray.core.factors.sae import SAEConfig, TopKSAE
from coevo_ray.core.factors.scores import (
    count_factors,
    diversity,
    factor_frequencies,
    rank_normalise,
    representativeness,
    strongest_factor,
)
from coevo_ray.core.graph.copies import copy_groups
from coevo_ray.core.graph.graph import build_graph
from coevo_ray.core.graph.near_duplicates import copies_of
from coevo_ray.core.probes.irreducible import irreducible_loss
from coevo_ray.core.probes.label_agreement import chances_to_agree, groups_of_copies
from coevo_ray.core.probes.label_doubt import find_mistakes, fold_of, predict_folds

Vectors = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Codes = tuple[npt.NDArray[np.int32], Vectors]

SETTINGS = ("clean", "noise", "long_tail", "copies")
PRIOR, PIXELS = "efficientnet_lite:0", 64
DIM = 256
NOISE = 0.2
IMBALANCE = 50
LATENTS, ACTIVE, SAE_STEPS = 1024, 16, 1500
FOLDS = 2  # of the probes that judge labels


@dataclass(frozen=True)
class Setting:
    """One pool to select from.

    Attributes:
        rows: int64[n], which of the encoded images each row is, near-copies behind the others.
        features, test_features: float32[n, d], float32[t, d]: what heads are trained and judged on.
        labels: int64[n], as a trainer sees them.
        test_labels: int64[t], the true ones.
        factor: int64[n], strongest factor; representativeness and diversity: float32[n].
        doubt: float32[n]; copies, copy: int[n], see `SelectionContext`.
        irreducible: float32[n], loss of each label under a probe that was not fitted on its row.
        seconds: what making `factors`, `copies` and `doubt` (with irreducible losses) took.
    """

    rows: Labels
    features: Vectors
    labels: Labels
    test_features: Vectors
    test_labels: Labels
    factor: Labels
    representativeness: Vectors
    diversity: Vectors
    doubt: Vectors
    copies: Labels
    copy: Labels
    irreducible: Vectors
    seconds: dict[str, float]


def encode_images(data: str | None, folder: Path, rows: int) -> Path:
    """Encodes the images of a data set, and near-copies of some of them; a file that is there is kept.

    Args:
        data: see `parquet_images`; None takes scikit-learn's digits.
        folder: gets the arrays.
        rows: most training images.
    """
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "features.npz"
    if done.is_file():
        return done
    splits = digits_images() if data is None else parquet_images(data)
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for split, table in splits.items():
        table = table.slice(0, rows) if split == "train" else table
        images = [Image.open(io.BytesIO(b)).convert("RGB") for b in table.column("image").to_pylist()]
        arrays[f"{split}_images"] = np.stack([np.asarray(image) for image in images])
        arrays[f"{split}_labels"] = table.column("label").to_numpy()
        note(f"encoding {len(images):,} images of {split} ...")
        arrays[f"{split}_features"] = encode_rows(images)
        if split == "train":
            of = _copied_rows(len(images))
            random = np.random.default_rng(0)
            copies = [_near_copy(images[row], random) for row in of]
            arrays["copy_of"] = of
            note(f"encoding {len(copies):,} near-copies ...")
            arrays["copy_features"] = encode_rows(copies)
    np.savez(done, **arrays)  # type: ignore[arg-type]  # its stub takes allow_pickle for one of them
    return done


def _copied_rows(rows: int) -> Labels:
    """Which image each near-copy is of: a tenth of the images has 8 copies each."""
    return np.repeat(np.arange(rows // 10), 8)


def _near_copy(image: Any, random: np.random.Generator) -> Any:
    """The image moved by up to 2 pixels and saved as JPEG of quality 70 to 95: another file, the same content."""
    from PIL import Image

    x, y = (int(v) for v in random.integers(-2, 3, 2))
    padded = np.pad(np.asarray(image), ((2, 2), (2, 2), (0, 0)), mode="edge")
    moved = Image.fromarray(padded[2 + y : 2 + y + image.height, 2 + x : 2 + x + image.width])
    data = io.BytesIO()
    moved.save(data, "JPEG", quality=int(random.integers(70, 96)))
    return Image.open(data).convert("RGB")


def encode_rows(images: list[Any]) -> Vectors:
    """Features of images of the prior that all pools are encoded by, float32[n, d]."""
    from coevo_ray.pool.images import resized
    from coevo_ray.priors.encoder import Encoder
    from coevo_ray.priors.inputs import Samples
    from coevo_ray.priors.registry import load_prior

    prior = load_prior(PRIOR, PIXELS, Samples())
    encoder = Encoder(prior, "cpu", batch_rows=64)
    parts = []
    for first in range(0, len(images), 2048):
        batch = [np.asarray(resized(image, PIXELS, "center")) for image in images[first : first + 2048]]
        parts.append(encoder.encode(np.stack(batch)))
    return np.concatenate(parts)


def make_setting(file: Path, name: str, seed: int) -> Setting:
    """A pool of one of `SETTINGS`.

    Args:
        file: of `encode_images`.
        name: `clean`; `noise`, a fifth of the labels moved to another class; `long_tail`, the smallest class 50 times
            rarer than the largest; `copies`, a tenth of the images with 8 near-copies each, as many rows in all as in
            the clean pool.
        seed: of the noise and of which rows are left out.
    """
    with np.load(file) as arrays:
        features, labels = arrays["train_features"], arrays["train_labels"].astype(np.int64)
        extra, of = arrays["copy_features"], arrays["copy_of"]
        test, test_labels = arrays["test_features"], arrays["test_labels"].astype(np.int64)
    random = np.random.default_rng(seed)
    kept: Labels = np.arange(len(labels))
    if name == "long_tail":
        kept = _long_tailed(labels, random)
    elif name == "copies":
        lone = np.setdiff1d(kept, of)
        alone = random.permutation(lone)[: len(lone) - len(of)]
        kept = np.concatenate([np.unique(of), alone, len(labels) + np.arange(len(of))])
    elif name == "noise":
        labels = _noisy(labels, random)
    features, labels = np.concatenate([features, extra]), np.concatenate([labels, labels[of]])
    kept = random.permutation(kept)
    return _judged(kept, features[kept], labels[kept], test, test_labels)


def _noisy(labels: Labels, random: np.random.Generator) -> Labels:
    wrong = random.permutation(len(labels))[: round(NOISE * len(labels))]
    classes = int(labels.max()) + 1
    noisy = labels.copy()
    noisy[wrong] = (labels[wrong] + random.integers(1, classes, len(wrong))) % classes
    return noisy


def _long_tailed(labels: Labels, random: np.random.Generator) -> Labels:
    classes = int(labels.max()) + 1
    kept = []
    for label in range(classes):
        members = random.permutation(np.flatnonzero(labels == label))
        kept.append(members[: max(1, round(len(members) * IMBALANCE ** (-label / (classes - 1))))])
    return np.concatenate(kept)


def _judged(rows: Labels, features: Vectors, labels: Labels, test: Vectors, test_labels: Labels) -> Setting:
    """Principal components of the features, factors, scores and neighbours: what policies and heads look at."""
    features, test = components(features, test)
    begun = time.perf_counter()
    codes = factors(features)
    return with_evidence(rows, features, labels, test, test_labels, codes, time.perf_counter() - begun)


def components(features: Vectors, test: Vectors) -> tuple[Vectors, Vectors]:
    """The leading principal components of features, of unit mean square, and test rows in the same directions."""
    mean = features.mean(axis=0)
    torch.manual_seed(0)  # it approximates by random projections
    _, _, directions = torch.pca_lowrank(torch.from_numpy(features - mean), q=min(DIM, *features.shape), center=False)
    basis = directions.numpy()
    features, test = (features - mean) @ basis, (test - mean) @ basis
    scale = float(np.sqrt((features**2).mean()))
    return features / scale, test / scale


def with_evidence(
    rows: Labels,
    features: Vectors,
    labels: Labels,
    test: Vectors,
    test_labels: Labels,
    codes: Codes,
    factor_seconds: float,
) -> Setting:
    """A setting with factors, scores, doubt and copies.

    Args:
        rows: int64[n], for `Setting.rows`.
        features, labels: float32[n, d] and int64[n], as a trainer sees them.
        test, test_labels: float32[t, d] and int64[t].
        codes: of the rows, see `factors`.
        factor_seconds: what making them took.
    """
    begun, rows_here = time.perf_counter(), np.arange(len(labels), dtype=np.int64)
    graph, evidence = build_graph(features, 16, "exact"), EvidenceConfig()
    near = copy_groups(graph, evidence.similarity, evidence.margin, evidence.same).astype(np.int64)
    seconds = {"factors": factor_seconds, "copies": time.perf_counter() - begun}
    begun, fold = time.perf_counter(), fold_of(rows_here, FOLDS)
    found = find_mistakes(features, labels, fold, folds=FOLDS, classes=int(labels.max()) + 1)
    chances = chances_to_agree(found.noise, found.prior)
    copies, copy = copies_of(groups_of_copies(near, rows_here, labels, chances)[0])
    probabilities = predict_folds(found.probes, features, fold)
    doubt, irreducible = found.doubt(probabilities, labels), irreducible_loss(probabilities, labels)
    seconds["doubt"] = time.perf_counter() - begun
    indices, values = codes
    p = factor_frequencies(count_factors(indices, values, LATENTS), len(features))
    return Setting(
        rows=rows,
        features=features,
        labels=labels,
        test_features=test,
        test_labels=test_labels,
        factor=strongest_factor(indices, values).astype(np.int64),
        representativeness=rank_normalise(representativeness(indices, values, p)).astype(np.float32),
        diversity=rank_normalise(diversity(indices, values, p, 0.5)).astype(np.float32),
        doubt=doubt,
        copies=copies.astype(np.int64),
        copy=copy.astype(np.int64),
        irreducible=irreducible,
        seconds=seconds,
    )


def factors(features: Vectors, steps: int | None = None) -> Codes:
    """Active factors int32[n, ACTIVE] and their values of every row, of an SAE that is fitted here.

    Args:
        features: float32[n, d].
        steps: of the fit; None for `SAE_STEPS`.
    """
    torch.manual_seed(0)
    x = torch.from_numpy(features)
    sae = TopKSAE(SAEConfig(x.shape[1], LATENTS, ACTIVE, dead_after_samples=4 * len(x)))
    sae.set_input_statistics(x.mean(dim=0), float((x - x.mean(dim=0)).square().mean()))
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-3, fused=True)
    for _ in range(steps or SAE_STEPS):
        batch = x[torch.randint(len(x), (512,))]
        loss = sae.loss(batch)
        optimizer.zero_grad()
        loss.total.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        sae.remove_parallel_gradient_()
        optimizer.step()
        sae.normalise_decoder_()
        sae.note_active_(sae.active_counts(loss.codes), len(batch))
    with torch.inference_mode():
        parts = [sae.encode(part) for part in torch.split(x, 4096)]
    indices, values = (np.concatenate([p.numpy() for p in column]) for column in zip(*parts, strict=True))
    return indices.astype(np.int32), values
