"""Frozen features of the battery's pools, made once by each prior and kept in a cache folder by hash."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.battery import copies as copies_module
from benchmarks.battery.copies import Copies, make_copies
from benchmarks.battery.pools import Modality, Pool
from benchmarks.battery.priors import Prior, priors_for
from benchmarks.common import note, timed
from coevo_ray.errors import UsageError

Half = npt.NDArray[np.float16]
Vectors = npt.NDArray[np.float32]

VERSION = 1  # of the files in the cache
TRAIN, TEST, COPIES = "train", "test", "copies"


@dataclass(frozen=True, eq=False)
class Features:
    """One prior's features of one pool.

    Attributes:
        prior: its name.
        train, test: float16[n, d], float16[t, d].
        copies: float16[m, d], of the near-copies; None where none were asked for.
    """

    prior: str
    train: Half
    test: Half
    copies: Half | None = None

    @cached_property
    def rows(self) -> Vectors:
        """float32[n + m, d]: of the training rows, and of the near-copies behind them."""
        parts = [self.train] if self.copies is None else [self.train, self.copies]
        return np.concatenate(parts).astype(np.float32)


def default_cache() -> Path:
    """The folder for encoded pools when none is named."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "coevo-ray" / "battery"


def available_priors(modality: Modality) -> tuple[list[Prior], dict[str, str]]:
    """Lists the priors for a modality.

    Returns:
        Those that can be used here, in the order of the tables, the first one the pool's standard prior; and of the
        others name -> cause.

    Raises:
        UsageError: there is none.
    """
    there, left_out = [], {}
    for prior in priors_for(modality):
        cause = prior.missing()
        if cause:
            left_out[prior.name] = cause
        else:
            there.append(prior)
    if not there:
        raise UsageError(f"no prior for {modality} pools: {left_out}", "pip install 'coevo-ray[demo]'")
    return there, left_out


def encode_pool(
    pool: Pool, cache: Path, priors: Sequence[Prior] | None = None, with_copies: bool = False
) -> list[Features]:
    """Encodes a pool by several priors, or takes their features from the cache.

    Args:
        pool: the pool.
        cache: folder; made where it is not there.
        priors: None for all that are available.
        with_copies: also encode the near-copies.

    Returns:
        The features of each prior, in the order of the priors.
    """
    copies = make_copies(pool) if with_copies else None
    return [_encoded(pool, prior, copies, cache) for prior in priors or available_priors(pool.modality)[0]]


def _encoded(pool: Pool, prior: Prior, copies: Copies | None, cache: Path) -> Features:
    key = {
        "version": VERSION,
        "train": pool.train.digest,
        "test": pool.test.digest,
        **prior.settings(),
    }
    if prior.fits:  # its features depend on the training rows, so all parts are made at once
        fit_key = {**key, COPIES: copies_module.VERSION}
        arrays = _kept(cache, pool, prior, fit_key, lambda: _parts(pool, prior, copies or make_copies(pool)))
    else:
        arrays = _kept(cache, pool, prior, key, lambda: _parts(pool, prior, None))
        if copies is not None:
            samples, copy_key = copies.samples, {**key, COPIES: copies_module.VERSION}
            arrays |= _kept(cache, pool, prior, copy_key, lambda: {COPIES: prior.encode([samples])[0]})
    return Features(prior.name, arrays[TRAIN], arrays[TEST], arrays[COPIES] if copies is not None else None)


def _parts(pool: Pool, prior: Prior, copies: Copies | None) -> dict[str, Vectors]:
    parts = {TRAIN: pool.train.samples, TEST: pool.test.samples}
    if copies is not None:
        parts[COPIES] = copies.samples
    return dict(zip(parts, prior.encode(list(parts.values())), strict=True))


def _kept(
    cache: Path, pool: Pool, prior: Prior, key: dict[str, object], make: Callable[[], dict[str, Vectors]]
) -> dict[str, Half]:
    """Arrays from the cache, or made and put there; the file is renamed into its place when it is whole."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    file = cache / f"{digest}.npz"
    if not file.is_file():
        parts = "near-copies" if COPIES in key and not prior.fits else "rows"
        note(f"{pool.name}: encoding {parts} by {prior.name} ...")
        made, seconds = timed(make)
        arrays = {name: _half(part, made.get(TRAIN, part)) for name, part in made.items()}
        cache.mkdir(parents=True, exist_ok=True)
        temporary = cache / f".tmp-{digest}-{uuid.uuid4().hex}.npz"
        try:
            np.savez(temporary, **arrays)  # type: ignore[arg-type]  # its stub takes allow_pickle for one of them
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
        count = sum(len(part) for part in arrays.values())
        note(f"{pool.name}: {count:,} {parts} by {prior.name} in {seconds:.0f} s")
    with np.load(file) as stored:
        return {name: stored[name] for name in stored.files}


def _half(part: Vectors, train: Vectors) -> Half:
    """Rows of unit length, float16; a row without any feature, such as an empty text, is the training rows' mean."""
    lengths = np.linalg.norm(part, axis=1, keepdims=True)
    unit = part / np.maximum(lengths, 1e-12)
    mean = (train / np.maximum(np.linalg.norm(train, axis=1, keepdims=True), 1e-12)).mean(axis=0)
    empty = lengths[:, 0] < 1e-6
    unit[empty] = mean / max(float(np.linalg.norm(mean)), 1e-12)
    half: Half = unit.astype(np.float16)
    return half
