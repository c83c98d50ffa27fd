"""Parts: one participant's rows of one shard, as they travel between the stages of encode.

A block of Ray Data holds one row per part. Arrays are binary cells, so that a stage passes parts of other participants
on without decoding them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from coevo_ray.core.arrays import AnyArray, BoolArray, Int64Array, UInt64Array

# Column -> dtype of the arrays in its cells.
_ARRAYS = {"row_ids": np.int64, "own": np.bool_, "samples": np.uint64}
_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("participant", pa.uint8()),
        *((name, pa.binary()) for name in _ARRAYS),
        ("keys", pa.list_(pa.string())),
        ("reasons", pa.list_(pa.string())),
        ("data", pa.large_binary()),
        ("data_type", pa.string()),
        ("data_shape", pa.list_(pa.int32())),
        ("times", pa.map_(pa.string(), pa.float64())),
        ("counts", pa.map_(pa.string(), pa.int64())),
        ("bytes_read", pa.int64()),
        ("bytes_moved", pa.int64()),
        ("ready", pa.float64()),
    ]
)


@dataclass
class Part:
    """One participant's rows of one shard.

    Attributes:
        shard: number of the shard.
        participant: position of the participant.
        row_ids: int64[n], increasing.
        own: bool[n], rows that belong to the participant.
        samples: uint64[n], hash of each row's content.
        keys: the user's own ids.
        reasons: cause of a row's rejection; "" for usable rows.
        data: [n, ...], prepared inputs, later projected features.
        times: stage -> seconds of work.
        counts: figures of the input, such as tokens of texts (`priors.inputs.TOKENS`).
        bytes_read: bytes read from the pool.
        bytes_moved: bytes passed from stage to stage.
        ready: Unix time when its actor had loaded the model.
    """

    shard: int
    participant: int
    row_ids: Int64Array
    own: BoolArray
    samples: UInt64Array
    keys: list[str]
    reasons: list[str]
    data: AnyArray
    times: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    bytes_read: int = 0
    bytes_moved: int = 0
    ready: float = 0.0


def to_block(parts: list[Part]) -> pa.Table:
    """Converts parts to a block."""
    columns: dict[str, Sequence[object]] = {
        "shard": [p.shard for p in parts],
        "participant": [p.participant for p in parts],
        **{name: [np.ascontiguousarray(getattr(p, name)).tobytes() for p in parts] for name in _ARRAYS},
        "keys": [p.keys for p in parts],
        "reasons": [p.reasons for p in parts],
        "data_type": [p.data.dtype.str for p in parts],
        "data_shape": [p.data.shape for p in parts],
        "times": [list(p.times.items()) for p in parts],
        "counts": [list(p.counts.items()) for p in parts],
        "bytes_read": [p.bytes_read for p in parts],
        "bytes_moved": [p.bytes_moved + p.data.nbytes for p in parts],
        "ready": [p.ready for p in parts],
    }
    arrays = [pa.array(columns[f.name], f.type) for f in _SCHEMA if f.name != "data"]
    arrays.insert(_SCHEMA.get_field_index("data"), _binary([pa.py_buffer(np.ascontiguousarray(p.data)) for p in parts]))
    return pa.Table.from_arrays(arrays, schema=_SCHEMA)


def _binary(buffers: list[pa.Buffer]) -> pa.Array:
    """A large_binary array: one part is wrapped, several are copied once, without a detour over Python bytes."""
    offsets = np.concatenate([[0], np.cumsum([b.size for b in buffers])]).astype(np.int64)
    joined = (
        buffers[0] if len(buffers) == 1 else pa.py_buffer(np.concatenate([np.frombuffer(b, "u1") for b in buffers]))
    )
    return pa.Array.from_buffers(pa.large_binary(), len(buffers), [None, pa.py_buffer(offsets), joined])


def from_block(block: pa.Table) -> Iterator[Part]:
    """The parts of a block; their `data` are read-only views of it."""
    for i in range(block.num_rows):
        row = {name: block.column(name)[i] for name in block.column_names}
        shape = row["data_shape"].as_py()
        data = np.frombuffer(row["data"].as_buffer(), dtype=row["data_type"].as_py()).reshape(shape)
        yield Part(
            shard=row["shard"].as_py(),
            participant=row["participant"].as_py(),
            **{name: np.frombuffer(row[name].as_py(), dtype=kind) for name, kind in _ARRAYS.items()},
            keys=row["keys"].as_py(),
            reasons=row["reasons"].as_py(),
            data=data,
            times=dict(row["times"].as_py()),
            counts=dict(row["counts"].as_py()),
            bytes_read=row["bytes_read"].as_py(),
            bytes_moved=row["bytes_moved"].as_py(),
            ready=row["ready"].as_py(),
        )
