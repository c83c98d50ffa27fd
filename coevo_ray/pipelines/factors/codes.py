"""Codes: the first pass of scoring. Features -> each row's active factors (arXiv 2603.04981), counted on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from coevo_ray.config import SaeConfig
from coevo_ray.core.arrays import AnyArray, Float32Array, Int32Array, Int64Array
from coevo_ray.core.factors.sae import TopKSAE
from coevo_ray.core.factors.table import FactorTable
from coevo_ray.errors import InputError
from coevo_ray.runtime.at_work import at_work
from coevo_ray.runtime.resources import Need
from coevo_ray.runtime.shards import run_each, run_shards
from coevo_ray.store.artifact import begin, finish
from coevo_ray.store.data_files import read_table
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import FileEntry
from coevo_ray.store.parts import Parts
from coevo_ray.store.row_table import RowTable, vector_columns, vectors
from coevo_ray.store.sae_files import load_sae, load_sae_config

_BATCH_ROWS = 2048  # the encoder's output has all latents: 8 192 of them take 64 MiB


def encode_codes(
    config: SaeConfig, features: RowTable, column: str, sae: Location, location: Location, top_rows: int
) -> tuple[RowTable, int, FactorTable | None]:
    """Writes the codes of all rows, shard by shard, or continues.

    Args:
        config: its `compute` states the resources.
        features, column: the table with the vectors, and their column.
        sae: folder of the model.
        location: folder of the codes: `row_id`, `factor` int32[k], `value` float16[k], as fixed-size lists.
        top_rows: rows to keep for each factor.

    Returns:
        The codes, the model's number of latents, and the factor table, or None where the codes were finished before.

    Raises:
        InputError: the model is missing or of another dimension, or features are not finite.
        UsageError: the existing codes are of other features or another model.
        StoppedError: the store or the cluster failed.
    """
    inputs = {"features": features.manifest.identity, "sae": RowTable(sae, "sae").manifest.identity}
    shape, have = load_sae_config(sae), vector_columns(features)[column]
    if shape.dim != have:
        raise InputError(
            f"vectors of dimension {have} for an SAE of dimension {shape.dim}",
            "give the features that it was fitted on",
        )
    content = {"column": column}
    if begin(location, "codes", content, inputs) is not None:
        return RowTable(location, "codes"), shape.latents, None
    started = time.monotonic()
    names = [f.path for f in features.files]
    parts = Parts.of(location, "codes", content, inputs)
    there = parts.entries(names)
    todo = [i for i, name in enumerate(names) if name not in there]

    compute = config.compute
    actors = Need("actor", compute.cpus, compute.gpus, compute.actors)

    def stages(dataset: ray.data.Dataset) -> ray.data.Dataset:
        return dataset.map_batches(
            EncodeCodes,
            fn_constructor_args=(sae, features, column, parts, top_rows, compute.cpus, compute.gpus),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=actors.count),
            **actors.options,
        )

    # Shards of an interrupted attempt are counted from its files.
    table = _count(location, list(there), shape.latents, top_rows)
    files = list(there.values())
    total = sum(features.files[i].rows for i in todo)
    for row in run_shards("SAE codes", todo, stages, total=total, needs=[actors]):
        files.append(row["result"])
        table = table + row["table"]
    finish(location, "codes", content, inputs, files, {"seconds": round(time.monotonic() - started, 3)})
    return RowTable(location, "codes"), shape.latents, table


class EncodeCodes:
    """Ray Data actor: a file of features -> a file of codes and its factor table.

    Args:
        sae: folder of the model.
        features, column: the table with the vectors, and their column.
        codes: the output table's files.
        top_rows: rows to keep for each factor.
        cpus: cores that the actor reserves.
        gpus: GPUs that it reserves; above 0 the model runs on one.
    """

    def __init__(
        self, sae: Location, features: RowTable, column: str, codes: Parts, top_rows: int, cpus: float, gpus: float
    ) -> None:
        torch.set_num_threads(max(1, int(cpus)))
        self.device = torch.device("cuda" if gpus > 0 else "cpu")
        self.sae: TopKSAE = load_sae(sae).to(self.device)
        self.features, self.column, self.codes, self.top_rows = features, column, codes, top_rows

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Encodes the shard's row groups one by one, so that memory stays bounded."""
        made = [self._encode(int(shard)) for shard in batch["shard"]]
        return {"rows": [e.rows for e, _ in made], "result": [e for e, _ in made], "table": [t for _, t in made]}

    def _encode(self, shard: int) -> tuple[FileEntry, FactorTable]:
        with at_work(f"SAE codes, shard {shard}"):
            return self._encoded(shard)

    def _encoded(self, shard: int) -> tuple[FileEntry, FactorTable]:
        row_ids, indices, values = [], [], []
        for part in self.features.iter_file(shard, [self.column]):
            row_ids.append(part.column("row_id").to_numpy())
            for x in _batches(vectors(part.column(self.column))):
                with torch.inference_mode():
                    codes = self.sae.encode(x.to(self.device))
                indices.append(codes.indices.cpu().numpy().astype(np.int32))
                values.append(codes.values.cpu().numpy().astype(np.float16))
        ids, factors, weights = (np.concatenate(parts) for parts in (row_ids, indices, values))
        # Before writing: an existing file counts as finished.
        table = FactorTable.measure(ids, factors, weights, self.sae.config.latents, self.top_rows)
        columns = {"row_id": ids, "factor": _lists(factors), "value": _lists(weights)}
        return self.codes.write_table(self.features.files[shard].path, pa.table(columns)), table


def _batches(x: Float32Array) -> Iterator[torch.Tensor]:
    return (torch.from_numpy(x[first : first + _BATCH_ROWS]) for first in range(0, len(x), _BATCH_ROWS))


def _lists(matrix: AnyArray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])


def count_codes(codes: RowTable, latents: int, top_rows: int) -> FactorTable:
    """The factor table of existing codes.

    Raises:
        InputError: a file cannot be read.
        StoppedError: the cluster failed.
    """
    return _count(codes.location, [f.path for f in codes.files], latents, top_rows)


def _count(location: Location, names: list[str], latents: int, top_rows: int) -> FactorTable:
    def count(row: dict[str, Any]) -> dict[str, Any]:
        return {"result": FactorTable.measure(*read_codes(location, names[row["shard"]]), latents, top_rows)}

    table = FactorTable.empty(latents, top_rows)
    for row in run_each("count factors", range(len(names)), count, total=len(names), unit="files"):
        table = table + row["result"]
    return table


def read_codes(location: Location, name: str) -> tuple[Int64Array, Int32Array, Float32Array]:
    """Reads a file of codes: row_ids int64[n], factors int32[n, k], values float32[n, k].

    Raises:
        InputError: the file is missing or damaged.
    """
    table = read_table(location, name)
    factors: Any = vectors(table.column("factor"), np.int32)
    return table.column("row_id").to_numpy(), factors, vectors(table.column("value"))
