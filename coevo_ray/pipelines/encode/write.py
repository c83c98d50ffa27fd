"""Last stage of encode, in CPU tasks: writes encoded parts. Without PyTorch, so that their workers stay small."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa

from coevo_ray.pipelines.encode.contribution import Plan, write_shard_rejects
from coevo_ray.pipelines.encode.parts import Part, from_block
from coevo_ray.pool.rejects import Reject
from coevo_ray.runtime.shards import Row
from coevo_ray.store.parts import Parts
from coevo_ray.store.row_table import vector_column


class WriteParts:
    """Ray Data stage: writes each encoded part as a file of its contribution; returns a small row of figures.

    Args:
        plan: names the files.
        parts: position of a participant -> files of its contribution.
    """

    def __init__(self, plan: Plan, parts: dict[int, Parts]) -> None:
        self.plan, self.parts = plan, parts

    def __call__(self, block: pa.Table) -> Row:
        """Writes the parts of one block."""
        rows = [self._write(part) for part in from_block(block)]
        return {name: [row[name] for row in rows] for name in rows[0]} if rows else {"rows": []}

    def _write(self, part: Part) -> Row:
        started = time.monotonic()
        good = np.array([reason == "" for reason in part.reasons], dtype=bool)
        rejects = [Reject(k, "encode", r) for k, r in zip(part.keys, part.reasons, strict=True) if r]
        parts, name = self.parts[part.participant], self.plan.name(part.shard)
        columns = {
            "row_id": part.row_ids[good],
            "own": part.own[good],
            "feature": vector_column(part.data[good], part.data.dtype),
            "sample": part.samples[good],
        }
        write_shard_rejects(parts.folder, name, rejects)
        entry = parts.write_table(f"{name}.parquet", pa.table(columns), group_rows=4096)
        return {
            "participant": part.participant,
            "rows": len(good),
            "rejected": len(rejects),
            "result": entry,
            "rejects": rejects,
            "times": {**part.times, "write": time.monotonic() - started},
            "counts": part.counts,
            "bytes_read": part.bytes_read,
            "bytes_moved": part.bytes_moved,
            "ready": part.ready,
        }
