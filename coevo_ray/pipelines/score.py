"""Score: SAE codes and the two scores of every row, in two passes of Ray Data (DESIGN section 5.2).

Pass one encodes each shard of the targets and counts active factors; the counts add up over shards. Pass two turns the
codes and the factors' frequencies into representativeness and diversity. Ranks need all rows: they are taken last, from
two numbers a row.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import torch

from coevo_ray.config import SaeConfig
from coevo_ray.core.factors import (
    count_factors,
    diversity,
    factor_frequencies,
    rank_normalise,
    representativeness,
    strongest_factor,
)
from coevo_ray.core.sae import TopKSAE
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import run_shards
from coevo_ray.store.artifact import FileEntry, begin, describe, finish, write_table
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vectors
from coevo_ray.training.sae_fit import load_sae


def score(config: SaeConfig, targets: RowTable, sae: Location, out: str | Location) -> RowTable:
    """Writes codes and scores of all rows of a target table.

    Args:
        config: its `rare_quantile` says which factors are rare.
        targets: the row table that the SAE was fitted on (or another one of the same space).
        sae: folder of the fitted model.
        out: folder that will hold `codes/` and `scores/`.

    Returns:
        The score table: `row_id`, `representativeness`, `diversity` (rank-normalised to [0, 1]), `factor` (strongest).

    Raises:
        InputError: the model is missing or of another dimension.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    location = Location.parse(out)
    with ray_session():
        codes = _codes(config, targets, sae, location.child("codes"))
        return _scores(config, codes, location.child("scores"))


def _codes(config: SaeConfig, targets: RowTable, sae: Location, location: Location) -> RowTable:
    inputs = {"targets": targets.manifest.identity, "sae": RowTable(sae, "sae").manifest.identity}
    if begin(location, "codes", {}, inputs) is not None:
        return RowTable(location, "codes")
    started = time.monotonic()
    there = set(location.files())
    names = [f.path for f in targets.files]
    files = [describe(location, name) for name in names if name in there]
    todo = [i for i, name in enumerate(names) if name not in there]

    def stages(dataset: ray.data.Dataset) -> ray.data.Dataset:
        return dataset.map_batches(
            EncodeCodes,
            fn_constructor_args=(sae, targets.location, location, config.compute.cpus),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=config.compute.actors),
            num_cpus=config.compute.cpus,
            num_gpus=config.compute.gpus,
        )

    rows = sum(targets.files[i].rows for i in todo)
    files += [row["result"] for row in run_shards("SAE codes", todo, stages, total=rows)]
    summary = {"seconds": round(time.monotonic() - started, 3)}
    finish(location, "codes", {}, inputs, files, summary)
    return RowTable(location, "codes")


class EncodeCodes:
    """Ray Data actor: a file of targets -> a file of codes.

    Args:
        sae: folder of the model.
        targets, codes: folders of the input and the output table.
        cpus: cores that are reserved for this actor.
    """

    def __init__(self, sae: Location, targets: Location, codes: Location, cpus: float) -> None:
        torch.set_num_threads(max(1, int(cpus)))
        self.sae: TopKSAE = load_sae(sae)
        self.targets, self.codes = RowTable(targets), codes

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Encodes the shard's row groups one by one, so that memory stays bounded."""
        entries = [self._encode(int(shard)) for shard in batch["shard"]]
        return {"rows": [e.rows for e in entries], "result": entries}

    def _encode(self, shard: int) -> FileEntry:
        row_ids, indices, values = [], [], []
        for part in self.targets.iter_file(shard, ["target"]):
            with torch.inference_mode():
                codes = self.sae.encode(torch.from_numpy(vectors(part.column("target"))))
            row_ids.append(part.column("row_id").to_numpy())
            indices.append(codes.indices.numpy().astype(np.int32))
            values.append(codes.values.numpy().astype(np.float16))
        columns = {
            "row_id": np.concatenate(row_ids),
            "factor": _lists(np.concatenate(indices)),
            "value": _lists(np.concatenate(values)),
        }
        return write_table(self.codes, self.targets.files[shard].path, pa.table(columns))


def _lists(matrix: npt.NDArray[Any]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])


def read_codes(codes: RowTable, index: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any], npt.NDArray[np.float32]]:
    """One file of codes: row_ids int64[n], factors int32[n, k], values float32[n, k]."""
    table = pa.concat_tables(codes.iter_file(index, ["factor", "value"]))
    factors = vectors(table.column("factor"), np.int32)
    return table.column("row_id").to_numpy(), factors, vectors(table.column("value"))


def _scores(config: SaeConfig, codes: RowTable, location: Location) -> RowTable:
    content = {"rare_quantile": config.rare_quantile}
    inputs = {"codes": codes.manifest.identity}
    if begin(location, "scores", content, inputs) is not None:
        return RowTable(location, "scores")
    started = time.monotonic()
    files = range(len(codes.files))
    at, latents, quantile = codes.location, config.latents, config.rare_quantile

    def count(row: dict[str, Any]) -> dict[str, Any]:
        _, factors, values = read_codes(RowTable(at), row["shard"])
        return {"rows": len(factors), "result": count_factors(factors, values, latents)}

    counts = sum(
        (row["result"] for row in run_shards("count factors", files, lambda d: d.map(count, num_cpus=0.5))),
        start=np.zeros(latents, dtype=np.int64),
    )
    p = factor_frequencies(counts, len(codes))

    def rate(row: dict[str, Any]) -> dict[str, Any]:
        row_ids, factors, values = read_codes(RowTable(at), row["shard"])
        r, d = representativeness(factors, values, p), diversity(factors, values, p, quantile)
        return {"rows": len(r), "result": (row_ids, r, d, strongest_factor(factors, values))}

    parts = [row["result"] for row in run_shards("score", files, lambda d: d.map(rate, num_cpus=0.5))]
    row_ids, r, d, strongest = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(row_ids)
    table = pa.table(
        {
            "row_id": row_ids[order],
            "representativeness": rank_normalise(r)[order],
            "diversity": rank_normalise(d)[order],
            "factor": strongest[order].astype(np.int32),
        }
    )
    summary = {"frequencies": [round(float(x), 8) for x in p], "seconds": round(time.monotonic() - started, 3)}
    finish(location, "scores", content, inputs, [write_table(location, "scores.parquet", table)], summary)
    return RowTable(location, "scores")
