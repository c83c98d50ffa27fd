"""Second stage of encode, in an actor pool for each prior: forward pass and projection (CoOpt, arXiv 2505.14117)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import torch

from coevo_ray.config import ActorPool, Compute, PriorConfig
from coevo_ray.core.alignment.components import Components, to_components
from coevo_ray.core.alignment.projection import finite_rows, project, projection_matrix, unit_features
from coevo_ray.core.arrays import BoolArray, Float32Array, FloatArray
from coevo_ray.errors import InputError, StoppedError, UsageError
from coevo_ray.pipelines.encode.parts import Part, from_block, to_block
from coevo_ray.priors.base import PriorInfo
from coevo_ray.priors.encoder import Encoder, Precision
from coevo_ray.priors.inputs import PriorInput, Samples
from coevo_ray.priors.registry import load_prior
from coevo_ray.runtime.at_work import at_work
from coevo_ray.store.consensus_files import components_to_arrays
from coevo_ray.store.digests import digest_array
from coevo_ray.store.location import Location
from coevo_ray.store.parts import Parts

Keep = Literal["features", "components", "projection"]


@dataclass(frozen=True)
class Participant:
    """One prior and the destination of its contribution.

    Attributes:
        place: its position in the assignment of rows.
        prior: the prior's settings.
        info: its card, as loaded before the start.
        input: its input, read from a row.
        samples: the pool's samples.
        keep: what a contribution keeps of features: all of them (of the shared set, until components are known),
            their leading components, or a random projection.
        dim: columns of the random projection, n.
        seed: seed of the random projection.
        components: the map to components, once it is known.
        state: file of the state of a prior that was fitted to the shared set.
        precision: of the forward pass, settled.
        compile: whether to compile the model.
        compute: its resources.
        location: the contribution's folder.
        made_of: hash of the contribution's settings and inputs.
    """

    place: int
    prior: PriorConfig
    info: PriorInfo
    input: PriorInput
    samples: Samples
    keep: Keep
    dim: int
    seed: int
    precision: Precision
    compile: bool
    compute: ActorPool
    location: Location
    made_of: str
    components: Components | None = None
    state: Location | None = None

    @property
    def parts(self) -> Parts:
        """Its files: they are of one settings, one prior's weights, and one map to components."""
        arrays = {} if self.components is None else components_to_arrays(self.components)
        hashes = {name: digest_array(array) for name, array in arrays.items()}
        return Parts.of(self.location, self.made_of, self.info.weights, self.precision, self.keep, hashes)


def device_of(compute: Compute) -> torch.device:
    """The device of a participant's actors.

    Raises:
        UsageError: a GPU was requested and there is none; the CPU is no silent fallback.
    """
    if compute.gpus > 0 and not torch.cuda.is_available():
        raise UsageError("a GPU was requested, but PyTorch sees none", "install a CUDA build, or set compute.gpus: 0")
    return torch.device("cuda" if compute.gpus > 0 else "cpu")


class EncodeParts:
    """Ray Data actor: encodes and projects its participant's parts, and passes the others on.

    Args:
        participant: the participant.

    Raises:
        UsageError: a GPU was requested and there is none.
        InputError: the weights on this node differ from those on the node where the job began.
    """

    def __init__(self, participant: Participant) -> None:
        compute = participant.compute
        # Actors with a thread for every core would slow one another down.
        torch.set_num_threads(max(1, round(compute.cpus)) if compute.gpus == 0 else 1)
        device = device_of(compute)
        with at_work(f"load {participant.prior.label}"):
            prior = load_prior(
                participant.prior.name, participant.prior.input_size, participant.samples, participant.state
            )
        if prior.info.weights != participant.info.weights:
            raise InputError(
                f"{prior.info.name} has weights {prior.info.weights[:12]} on this node, "
                f"{participant.info.weights[:12]} where the job began",
                "put the same weights file on every node",
            )
        self.participant = participant
        self.encoder = Encoder(
            prior,
            device,
            batch_rows=compute.batch_rows,
            precision=participant.precision,
            compile_module=participant.compile,
        )
        self._keep = _keeper(participant, prior.info.dim)
        self._ended: float | None = None
        self._ready = time.time()

    def __call__(self, block: pa.Table) -> pa.Table:
        """Encodes its participant's parts of one block."""
        began = time.monotonic()
        mine = block.column("participant").to_numpy() == self.participant.place
        parts = [self._encode(part) for part in from_block(block.filter(pa.array(mine)))]
        if parts:
            # The actor's time since its last part, less its work on features.
            now = time.monotonic()
            worked = sum(part.times["encode"] + part.times["project"] for part in parts)
            parts[0].times["waiting"] = now - (self._ended or began) - worked
            self._ended = now
        if not parts:
            return block
        others = block.filter(pa.array(~mine))
        return pa.concat_tables([to_block(parts), others]) if others.num_rows else to_block(parts)

    def _encode(self, part: Part) -> Part:
        with at_work(f"encode shard {part.shard} by {self.participant.prior.label}"):
            return self._encoded(part)

    def _encoded(self, part: Part) -> Part:
        busy = self.encoder.busy_seconds
        usable = np.array([reason == "" for reason in part.reasons], dtype=bool)
        features = self._features(part, usable)
        encoded = time.monotonic()
        bad = usable & ~finite_rows(features)
        reason = f"feature is zero or not finite: {self.participant.info.name}"
        part.reasons = [reason if is_bad else r for r, is_bad in zip(part.reasons, bad, strict=True)]
        good = usable & ~bad
        kept = self._keep(features[good])
        # An outlier may be finite in float32 and not in float16.
        fits = np.isfinite(kept).all(axis=1)
        far = np.flatnonzero(good)[~fits]
        reasons = np.array(part.reasons, dtype=object)
        reasons[far] = f"feature is beyond float16: {self.participant.info.name}"
        part.reasons = reasons.tolist()
        part.data = np.zeros((len(good), kept.shape[1]), dtype=kept.dtype)
        part.data[np.flatnonzero(good)[fits]] = kept[fits]
        part.ready = self._ready
        part.times |= {"encode": self.encoder.busy_seconds - busy, "project": time.monotonic() - encoded}
        return part

    def _features(self, part: Part, usable: BoolArray) -> Float32Array:
        try:
            if usable.all():
                return self.encoder.encode(part.data)
            features = np.zeros((len(usable), self.participant.info.dim), dtype=np.float32)
            features[usable] = self.encoder.encode(part.data[usable])
            return features
        except (InputError, StoppedError) as error:
            first, last = (part.keys[0], part.keys[-1]) if part.keys else ("none", "none")
            raise type(error)(f"{error.cause} (rows with keys {first} to {last})", error.remedy) from error


def empty_part(participant: Participant, shard: int) -> Part:
    """The encoded part of a shard of which a participant encodes no row."""
    kept = _keeper(participant, participant.info.dim)(np.empty((0, participant.info.dim), dtype=np.float32))
    return Part(
        shard=shard,
        participant=participant.place,
        row_ids=np.empty(0, dtype=np.int64),
        own=np.empty(0, dtype=np.bool_),
        samples=np.empty(0, dtype=np.uint64),
        keys=[],
        reasons=[],
        data=kept,
    )


def _keeper(participant: Participant, dim: int) -> Callable[[Float32Array], FloatArray]:
    """Features float32[b, d] -> what is kept of them: float32[b, d], or float16[b, c] that may have overflown."""
    if participant.keep == "features":
        return unit_features
    if participant.components is not None:
        components = participant.components
        return lambda features: _halved(to_components(unit_features(features), components))
    matrix = projection_matrix(dim, participant.dim, participant.seed)
    return lambda features: _halved(project(features, matrix))


def _halved(values: Float32Array) -> FloatArray:
    with np.errstate(over="ignore"):
        return values.astype(np.float16)
