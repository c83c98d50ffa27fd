"""Copies samples of a pool to Parquet files, which `ingest` reads like any others."""

from __future__ import annotations

import re
from dataclasses import dataclass

from coevo_ray.core.arrays import Int64Array
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.pool import Pool
from coevo_ray.runtime.resources import Need
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import Row, ray_errors, run_each
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.store.writing import committing, writing

# Names the files that a copy has written or begins to write: only they may be replaced or deleted.
_MARK = "_samples.json"
_OURS = re.compile(r"samples-\d{6,}\.parquet")
_FILE_ROWS = 2048
_GROUP_ROWS = 256


def copy_samples(pool: Pool, row_ids: Int64Array, folder: Location, cpus: float) -> None:
    """Writes some rows of a pool as `samples-*.parquet`: `key`, `image` or `text`, and `label` where the pool has any.

    Args:
        pool: holds the rows.
        row_ids: int64[n], increasing.
        folder: an empty folder, or one with an earlier copy and nothing else, which is replaced.
        cpus: CPUs of each task.

    Raises:
        UsageError: the folder holds other files, or cannot be written.
        StoppedError: the store or the cluster failed; copy them again.
    """
    with writing(folder, at_once=True):
        _copy(pool, row_ids, folder, cpus)


def _copy(pool: Pool, row_ids: Int64Array, folder: Location, cpus: float) -> None:
    check_folder(folder)
    starts = range(0, len(row_ids), _FILE_ROWS)
    names = [f"samples-{i:06d}.parquet" for i in range(len(starts))]
    earlier = _written(folder)
    _mark(folder, {*names, *earlier})
    for stale in sorted(earlier - set(names)):
        folder.child(stale).delete_file()
    columns = ["key", pool.modality, *(["label"] if pool.classes else [])]
    work = _Copy(pool, folder, columns)
    parts = [row_ids[start : start + _FILE_ROWS] for start in starts]
    todo = [{"name": name, "rows_of": part} for name, part in zip(names, parts, strict=True)]
    with ray_session(reads=[pool.location]), ray_errors("copy samples"):
        for _ in run_each("copy samples", todo, work.make, need=Need("task", cpus), total=len(row_ids)):
            pass
    with committing(folder):
        _mark(folder, set(names))


def check_folder(folder: Location) -> None:
    """Refuses a folder that samples cannot be copied to.

    Raises:
        UsageError: it holds files that no copy wrote, which ingest would read too, or cannot be written.
    """
    ours = {_MARK, *_written(folder)}
    others = [name for name in folder.files(recursive=True) if name not in ours] if folder.exists() else []
    if others:
        raise UsageError(
            f"{folder} holds files that no copy of samples wrote: {', '.join(others[:3])}",
            "choose another folder to copy samples to",
        )
    folder.check_writable()


def _written(folder: Location) -> set[str]:
    """Files that an earlier copy wrote.

    Raises:
        UsageError: the mark is not one of ours.
    """
    mark = folder.child(_MARK)
    if not mark.is_file():
        return set()
    try:
        files = mark.read_json()["files"]
        if not all(_OURS.fullmatch(name) for name in files):
            raise TypeError(f"files are {files!r}")
    except (InputError, KeyError, TypeError) as error:
        raise UsageError(
            f"{mark} was not written by coevo-ray: {error}", "choose another folder to copy samples to"
        ) from error
    return set(files)


def _mark(folder: Location, files: set[str]) -> None:
    folder.child(_MARK).write_json({"files": sorted(files)})


@dataclass(frozen=True)
class _Copy:
    """Ray Data stage: some rows -> a file of samples."""

    pool: Pool
    folder: Location
    columns: list[str]

    def make(self, row: Row) -> Row:
        """Writes one file."""
        table = self.pool.read(row["rows_of"], self.columns).select(self.columns)
        write_table(self.folder, row["name"], table, _GROUP_ROWS)
        return {"rows": table.num_rows}
