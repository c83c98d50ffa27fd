"""The published meeting place: one reference prior, to which each other prior is aligned (CoOpt, arXiv 2505.14117)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from coevo_ray.config import MergeConfig
from coevo_ray.core.alignment.alignment import Alignment, fit_alignment, identity_alignment
from coevo_ray.core.alignment.uniformity import uniformity
from coevo_ray.core.arrays import Arrays, Float32Array, Int64Array
from coevo_ray.errors import InputError
from coevo_ray.pipelines.encode.contribution import Contribution
from coevo_ray.pipelines.merge.check import find_reference, prior_label
from coevo_ray.store.content_name import content_name
from coevo_ray.store.digests import digest
from coevo_ray.store.location import Location

# The pairwise mean of the uniformity converges within a few thousand rows; its cost grows with their square.
_UNIFORMITY_ROWS = 4096
PREFIX = "alignment-"
_FIRST_FILE = "alignment.safetensors"  # its name in targets of version 0.1.0


@dataclass(frozen=True)
class Participant:
    """One contribution, ready for alignment.

    Attributes:
        name: of its prior, with the input size where one was chosen.
        table: the contribution.
        shared_ids: int64[s], encoded rows of the shared set.
        shared: float32[s, n].
        uniformity: V_k on these rows (CoOpt, arXiv 2505.14117).
    """

    name: str
    table: Contribution
    shared_ids: Int64Array
    shared: Float32Array
    uniformity: float


@dataclass(frozen=True)
class Aligned:
    """All participants in the space of one.

    Attributes:
        participants: the contributions, measured.
        alignments: their maps.
        reference: position of the reference prior.
        blob: the maps as safetensors.
    """

    participants: list[Participant]
    alignments: list[Alignment]
    reference: int
    blob: bytes

    @property
    def file_name(self) -> str:
        """Name of the file of this content: that of former targets stays until a new manifest is there."""
        return content_name(PREFIX, self.blob)


def align_to_reference(tables: Sequence[Contribution], config: MergeConfig, location: Location) -> Aligned:
    """Aligns contributions to the named reference prior, or to the one of the best uniformity.

    Args:
        tables: contributions of one dimension and shared set.
        config: reference and alignment.
        location: folder of the targets, whose earlier fits are reused.

    Raises:
        InputError: a contribution is damaged.
        UsageError: the reference is unknown.
    """
    participants = [_participant(table) for table in tables]
    named = find_reference(tables, config.reference)
    reference = int(np.argmin([p.uniformity for p in participants])) if named is None else named
    alignments = _align_all(participants, reference, config, location)
    blob = save_safetensors(_to_arrays(alignments, participants, reference, config))
    return Aligned(participants, alignments, reference, blob)


def _participant(table: Contribution) -> Participant:
    ids, shared = table.shared_features()
    if not np.isfinite(shared).all():
        raise InputError(f"{table.location} has shared rows that are not finite", "the contribution is damaged")
    # The order by row_id says nothing about content, so that the first rows are a fair sample.
    v = uniformity(shared[:_UNIFORMITY_ROWS])
    return Participant(prior_label(table), table, ids, shared, v)


def _align_all(
    participants: list[Participant], reference: int, config: MergeConfig, location: Location
) -> list[Alignment]:
    """One alignment for each participant; earlier fits to the same vectors are reused."""
    known = _known(location)
    target = participants[reference]
    alignments = []
    for index, participant in enumerate(participants):
        if index == reference:
            alignments.append(identity_alignment(participant.shared.shape[1]))
            continue
        key = _key(participant, target, config)
        alignments.append(known[key] if key in known else _align(participant, target, config))
    return alignments


def _align(participant: Participant, reference: Participant, config: MergeConfig) -> Alignment:
    common, mine, theirs = np.intersect1d(
        participant.shared_ids, reference.shared_ids, assume_unique=True, return_indices=True
    )
    return fit_alignment(
        participant.shared[mine], reference.shared[theirs], method=config.alignment, seed=config.seed, row_ids=common
    )


def _key(participant: Participant, reference: Participant, config: MergeConfig) -> str:
    parts = [p.table.manifest.identity for p in (participant, reference)]
    return digest([*parts, config.alignment, config.seed])


def _to_arrays(
    alignments: list[Alignment], participants: list[Participant], reference: int, config: MergeConfig
) -> Arrays:
    arrays: Arrays = {}
    for index, (alignment, participant) in enumerate(zip(alignments, participants, strict=True)):
        arrays[f"alignment.{index}"] = alignment.matrix
        if index != reference:
            key = _key(participant, participants[reference], config)
            arrays[f"fit.{key}.{alignment.method}"] = np.array([index, alignment.ridge, alignment.r2, alignment.rows])
    return arrays


def _known(location: Location) -> dict[str, Alignment]:
    """Earlier alignments of the targets, by a hash of their inputs."""
    known: dict[str, Alignment] = {}
    for name in location.files():
        if name.startswith(PREFIX) or name == _FIRST_FILE:
            known |= _from_bytes(location.child(name).read_bytes())
    return known


def _from_bytes(content: bytes) -> dict[str, Alignment]:
    try:
        arrays = load_safetensors(content)
        known = {}
        for name, (index, ridge, r2, rows) in ((n, a) for n, a in arrays.items() if n.startswith("fit.")):
            _, key, method = name.split(".")
            matrix = arrays[f"alignment.{int(index)}"]
            known[key] = Alignment(matrix, float(ridge), float(r2), int(rows), method)
        return known
    except (SafetensorError, KeyError, ValueError):  # damaged: fitted again
        return {}
