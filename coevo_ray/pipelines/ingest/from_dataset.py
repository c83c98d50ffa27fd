"""A Ray Dataset as a source: it runs once, and its rows are kept as Parquet beside the pool until that is finished.

A second run would double its cost and might yield other rows. Samples never come to the driver.
"""

from __future__ import annotations

import uuid
from dataclasses import replace

import numpy as np
import pyarrow as pa
import ray

from coevo_ray.config import PoolConfig, Source
from coevo_ray.config.pool import VECTOR
from coevo_ray.errors import InputError
from coevo_ray.pipelines.ingest.append import unlisted_files
from coevo_ray.pool.cells import storage
from coevo_ray.pool.entries import FoundFiles, SourceShard
from coevo_ray.pool.parquet_source import list_parquet
from coevo_ray.pool.sources import DATASET
from coevo_ray.progress import Ticker
from coevo_ray.runtime.resources import Need, require
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import ray_errors
from coevo_ray.store.artifact import SCRATCH
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location

_COMPLETE = "complete.json"
_TITLE = "run the dataset"
_BLOB = {"position", "size"}  # of a blob in a file of Lance


def list_dataset(
    config: PoolConfig, source: Source, dataset: ray.data.Dataset, location: Location
) -> list[SourceShard]:
    """Runs a dataset and cuts its rows into shards.

    Rows that an earlier attempt kept are used if it had begun to write the pool; before that point the dataset itself
    may have been the fault that was fixed.

    Args:
        config: the pool's settings.
        source: names the columns; its URI is `dataset:NAME`.
        dataset: yields the rows.
        location: the pool.

    Raises:
        InputError: a column is missing, or holds no encoded images; there are no rows.
        StoppedError: the store or the cluster failed.
    """
    folder = _spool(location)
    complete = folder.child(_COMPLETE)
    columns = source.model_dump(mode="json")
    kept = complete.read_json() if complete.is_file() and unlisted_files(location) else None
    if kept is None or kept["source"] != columns:
        discard_spool(location)
        with ray_session(writes=[location]):
            kept = {"source": columns, "files": _run(config, source, dataset, folder)}
        complete.write_json(kept)
    files: dict[str, int] = {name: rows for name, rows in kept["files"] if rows}
    if not files:
        raise InputError("the dataset holds no rows", "give a dataset with at least one row")
    plain = Source(**{**source.model_dump(exclude_unset=True), "uri": folder.uri, "format": "parquet"})
    found = FoundFiles(folder.uri, folder, config.shard_rows)
    for name in files:
        found.add(name)
    found.close()
    shards = list_parquet(plain, found, config.shard_rows)
    starts = dict(zip(files, np.cumsum([0, *files.values()]).tolist(), strict=False))
    name = source.uri.removeprefix(DATASET) or "dataset"
    prefix = source.key_prefix or ("" if source.key_column else f"{name}:")
    reading = replace(shards[0].reading, prefix=prefix)
    return [replace(shard, reading=reading, first=starts[shard.files[0]]) for shard in shards]


def discard_spool(location: Location) -> None:
    """Deletes the files of `list_dataset`.

    Raises:
        StoppedError: the store refused.
    """
    folder = _spool(location)
    if folder.exists():
        for name in sorted(folder.files(), reverse=True):
            folder.child(name).delete_file()


def _spool(location: Location) -> Location:
    return location.child(SCRATCH.rstrip("/"), "dataset")


def _run(config: PoolConfig, source: Source, dataset: ray.data.Dataset, folder: Location) -> list[tuple[str, int]]:
    """Writes each block to a file; returns names and rows in the dataset's order."""

    def write(block: pa.Table) -> pa.Table:
        # A task that runs again after a fault writes under another name; only returned names count.
        name = f"part-{uuid.uuid4().hex}.parquet"
        write_table(folder, name, _columns(source, block), group_rows=1024)
        return pa.table({"file": [name], "rows": [block.num_rows]})

    require(_TITLE, Need("reading task", config.compute.reader_cpus))
    context = dataset.context
    options = context.execution_options
    before = options.preserve_order, context.raise_original_map_exception
    options.preserve_order = True
    context.raise_original_map_exception = True  # otherwise the text of an error is lost when it is pickled
    try:
        blocks = dataset.map_batches(
            write, batch_size=None, batch_format="pyarrow", num_cpus=config.compute.reader_cpus
        )
        result: list[tuple[str, int]] = []
        with Ticker(_TITLE, None) as ticker, ray_errors(_TITLE):
            for row in blocks.iter_rows():
                ticker.advance(row["rows"])
                result.append((row["file"], row["rows"]))
    finally:
        options.preserve_order, context.raise_original_map_exception = before
    return result


def _columns(source: Source, block: pa.Table) -> pa.Table:
    """The columns of a pool, as plain Parquet types."""
    data = source.data_column
    wanted = [data, source.label_column, source.key_column, *source.feature_columns]
    columns = {}
    for name in dict.fromkeys(wanted):
        if name is None or (name == source.label_column and name not in block.column_names):
            continue
        if name not in block.column_names:
            raise InputError(
                f"the dataset has no column {name!r}; its columns are {block.column_names}",
                "name its columns in the source: image_column, text_column, vector_column, label_column, key_column",
            )
        columns[name] = _plain(block.column(name), name, is_vector=name != data or source.modality == VECTOR)
    return pa.table(columns)


def _plain(column: pa.ChunkedArray, name: str, is_vector: bool) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_struct(kind) and {kind.field(i).name for i in range(kind.num_fields)} >= _BLOB:
        raise InputError(
            f"column {name!r} of the dataset holds places of Lance's blobs, and not their bytes",
            'read_lance(..., scanner_options={"blob_handling": "all_binary"}) reads the bytes',
        )
    if isinstance(kind, pa.BaseExtensionType) and not (is_vector and len(getattr(kind, "shape", (0,))) == 1):
        remedy = "read images with ray.data.read_binary_files (column bytes) or from Parquet: encoded bytes are needed"
        if is_vector:
            remedy = "flatten them: a vector is needed in each row"
        raise InputError(f"column {name!r} of the dataset holds {kind}", remedy)
    return storage(column)
