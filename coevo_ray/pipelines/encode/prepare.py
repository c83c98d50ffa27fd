"""First stage of encode, in CPU tasks: reads a shard once and prepares the inputs of every prior."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from coevo_ray.core.arrays import AnyArray, Int64Array, UInt8Array, UInt64Array
from coevo_ray.pipelines.encode.contribution import Plan
from coevo_ray.pipelines.encode.parts import Part, to_block
from coevo_ray.pool.images import ImageError, decode_image, resized
from coevo_ray.pool.pool import Pool
from coevo_ray.priors.inputs import ImageInput, PriorInput, TokenInput
from coevo_ray.runtime.at_work import at_work
from coevo_ray.runtime.shards import Row
from coevo_ray.store.row_table import vectors

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer


@dataclass(frozen=True, eq=False)
class _Prepared:
    """Inputs of one participant's rows: see `Part.data`, `reasons` and `counts`."""

    data: AnyArray
    reasons: list[str]
    counts: dict[str, int] = field(default_factory=dict)


class Prepare:
    """Ray Data stage: shard -> one part for each participant that still needs it.

    Args:
        plan: the rows.
        inputs: position of a participant -> input of its prior.
    """

    def __init__(self, plan: Plan, inputs: Mapping[int, PriorInput]) -> None:
        self.plan, self.inputs = plan, dict(inputs)
        self._pools: dict[str, Pool] = {}

    def __call__(self, batch: Row) -> pa.Table:
        """Reads and prepares one shard for the participants in `wanted`."""
        shard, wanted = int(batch["shard"][0]), [int(k) for k in batch["wanted"][0]]
        with at_work(f"read and prepare shard {shard}"):
            return to_block(self._parts(shard, wanted))

    def _parts(self, shard: int, wanted: list[int]) -> list[Part]:
        started = time.monotonic()
        rows = self.plan.row_ids(shard)
        masks = {k: rows.wanted(k) for k in wanted}
        ids = rows.ids[np.logical_or.reduce(list(masks.values()))]
        pool = self._pools.setdefault(str(rows.pool), Pool(rows.pool))
        before = pool.bytes_read
        columns = sorted({self.inputs[k].column for k in wanted})
        table = pool.read(ids, ["key", *columns])
        read = time.monotonic()
        samples = {column: _hashes(table.column(column)) for column in columns}
        keys = table.column("key").to_pylist()
        seats = {k: np.searchsorted(ids, rows.ids[masks[k]]) for k in wanted}
        prepared = _prepare(table, {k: self.inputs[k] for k in wanted}, seats)
        parts = [
            Part(
                shard=shard,
                participant=k,
                row_ids=rows.ids[masks[k]],
                own=rows.own(k)[masks[k]],
                samples=samples[self.inputs[k].column][seats[k]],
                keys=[keys[i] for i in seats[k]],
                reasons=prepared[k].reasons,
                data=prepared[k].data,
                counts=prepared[k].counts,
            )
            for k in wanted
        ]
        # Work for all of them is counted with the first.
        parts[0].bytes_read = pool.bytes_read - before
        parts[0].times = {"read": read - started, "prepare": time.monotonic() - read}
        return parts

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_pools": {}}


def _hashes(column: pa.ChunkedArray) -> UInt64Array:
    """uint64[n]: BLAKE2b of each cell's bytes."""
    if pa.types.is_fixed_size_list(column.type):
        cells: Iterable[Buffer] = (row.data for row in vectors(column))
    else:
        cells = (cell.as_buffer() for chunk in column.chunks for cell in chunk)
    digests = [hashlib.blake2b(cell, digest_size=8).digest() for cell in cells]
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def _prepare(table: pa.Table, inputs: dict[int, PriorInput], seats: dict[int, Int64Array]) -> dict[int, _Prepared]:
    images = {k: spec for k, spec in inputs.items() if isinstance(spec, ImageInput)}
    prepared = _images(table.column("image"), images, seats) if images else {}
    for k, spec in inputs.items():
        if isinstance(spec, ImageInput):
            continue
        cells = table.column(spec.column).take(pa.array(seats[k]))
        if isinstance(spec, TokenInput):
            texts = spec.prepare(cells)
            prepared[k] = _Prepared(texts.data, texts.reasons, texts.counts)
        else:
            prepared[k] = _Prepared(spec.prepare(cells), [""] * len(cells))
    return prepared


def _images(
    column: pa.ChunkedArray, inputs: dict[int, ImageInput], seats: dict[int, Int64Array]
) -> dict[int, _Prepared]:
    """Decodes each image once, and resizes it once for each kind of input, for all participants."""
    arrays = {k: np.empty((len(seats[k]), *spec.shape), dtype=np.uint8) for k, spec in inputs.items()}
    reasons = {k: [""] * len(seats[k]) for k in inputs}
    takers: list[list[tuple[int, int]]] = [[] for _ in range(len(column))]
    for k in inputs:
        for seat, row in enumerate(seats[k]):
            takers[row].append((k, seat))
    for data, who in zip(column, takers, strict=True):
        made: dict[ImageInput, UInt8Array] = {}
        try:
            image = decode_image(data.as_py())
        except ImageError as error:
            for k, seat in who:
                arrays[k][seat], reasons[k][seat] = 0, error.reason
            continue
        for k, seat in who:
            spec = inputs[k]
            if spec not in made:
                made[spec] = resized(image, spec.size, spec.crop)
            arrays[k][seat] = made[spec]
    return {k: _Prepared(arrays[k], reasons[k]) for k in inputs}
