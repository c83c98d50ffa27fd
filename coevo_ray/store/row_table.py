"""Row tables: Parquet artifacts sorted by row_id, read by row_id and never by position (docs/design.md#artifacts).

The pool, targets, codes and scores are all row tables. A row group without a wanted row is not read.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coevo_ray.core.arrays import Float32Array, FloatArray, Int64Array
from coevo_ray.errors import InputError
from coevo_ray.store.checked import REMEDY, SMALL_BYTES, check_content, check_size
from coevo_ray.store.failures import is_of_a_store, reading_failed
from coevo_ray.store.location import ArtifactLike, Location
from coevo_ray.store.manifest import FileEntry, Manifest, load_manifest
from coevo_ray.store.parquet_chunks import OpenParquet
from coevo_ray.store.shown import shown

_OPEN_FILES = 128
# Files of a far store that are read at a time: each request waits long for its first byte.
_FAR_READERS = 16


@dataclass(frozen=True)
class _Open:
    """An open file with the smallest and largest row_id of each of its row groups."""

    location: Location
    table: OpenParquet
    lows: Int64Array
    highs: Int64Array

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Names the file where a page of it is not as it was written."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            # Arrow raises OSError for a page whose checksum or header is wrong; a store raises it for anything, a disk
            # with a number.
            if is_of_a_store(error):
                raise reading_failed(self.location, error) from error
            far = not self.location.is_local and "page" not in str(error)
            if isinstance(error, OSError) and (far or error.errno is not None):
                raise
            raise InputError(f"{self.location} is damaged: {error}", REMEDY) from error


class RowTable:
    """A finished artifact whose files hold disjoint, increasing ranges of row_ids.

    Args:
        location: the artifact's folder: a path, a URI, a `Location`, or an object that has one.
        kind: kind that it must have; None accepts any.
        prefix: common start of its files' names, if the artifact holds more than one table.

    Attributes:
        bytes_read: compressed bytes of the row groups that `read` and `read_range` have read so far.
        groups_read: number of those row groups.

    Raises:
        InputError: there is no such artifact, or its files overlap.
    """

    def __init__(self, location: ArtifactLike, kind: str | None = None, prefix: str = "") -> None:
        self.location, self.prefix = Location.parse(location), prefix
        self.manifest: Manifest = load_manifest(self.location, kind)
        tables = [f for f in self.manifest.files if f.rows and f.first_row_id >= 0 and f.path.startswith(prefix)]
        self.files: list[FileEntry] = sorted(tables, key=lambda f: f.first_row_id)
        self._first: Int64Array = np.array([f.first_row_id for f in self.files], dtype=np.int64)
        self._last: Int64Array = np.array([f.last_row_id for f in self.files], dtype=np.int64)
        if (self._first[1:] <= self._last[:-1]).any():
            raise InputError(f"files of {self.location} overlap in row_id", "the artifact is damaged; make it again")
        self._open: OrderedDict[int, _Open] = OrderedDict()
        self._compared: set[str] = set()
        self._lock = threading.Lock()
        self.bytes_read = self.groups_read = 0

    @property
    def summary(self) -> dict[str, Any]:
        """Figures about the making and the content, as the manifest has them."""
        return self.manifest.summary

    def __len__(self) -> int:
        return sum(f.rows for f in self.files)

    def __repr__(self) -> str:
        return f"<{self.manifest.kind} of {len(self):,} rows at {self.location}>"

    def _repr_html_(self) -> str:
        columns = {field.name: str(field.type) for field in self.schema()}
        about = f"of {len(self):,} rows at {self.location}"
        return shown(self.manifest.kind, about, {"columns": columns, **self.summary})

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopen, (type(self), self.location, self.prefix))  # open files do not travel

    def read(self, row_ids: Int64Array, columns: list[str]) -> pa.Table:
        """Reads rows by row_id.

        Args:
            row_ids: int64[n], strictly increasing.
            columns: names; `row_id` is added in front when it is missing.

        Returns:
            A table of n rows in the order of `row_ids`.

        Raises:
            InputError: a row or a column is not there.
        """
        inside = row_ids[row_ids <= self._last[-1]] if self.files else row_ids[:0]
        indices = np.unique(np.searchsorted(self._last, inside)).tolist()
        if self.location.is_local or len(indices) < 2:
            parts = [part for index in indices for part in self._read_file(index, inside, columns)]
        else:
            with ThreadPoolExecutor(min(_FAR_READERS, len(indices))) as threads:
                far = threads.map(lambda index: self._read_file(index, inside, columns), indices)
                parts = [part for file_parts in far for part in file_parts]
        found = sum(part.num_rows for part in parts)
        if found != len(row_ids):
            raise InputError(
                f"{self.location} has {found} of {len(row_ids)} wanted rows",
                "the artifact belongs to another pool, or rows were rejected: see its rejects table",
            )
        return pa.concat_tables(parts).combine_chunks() if parts else self._empty(_with_row_id(columns))

    def column(self, name: str) -> pa.ChunkedArray:
        """Reads a small column of all rows in row_id order; not for images or vectors of large pools.

        Raises:
            InputError: the column is not there.
        """
        return self.scan([name]).column(name)

    def row_ids(self) -> Int64Array:
        """Reads all row_ids, int64[N], increasing."""
        result: Int64Array = self.scan(["row_id"]).column("row_id").to_numpy()
        return result

    def scan(self, columns: list[str]) -> pa.Table:
        """Reads some columns of all rows in row_id order.

        Raises:
            InputError: a column is not there, or a page is damaged.
        """
        tables = []
        for index in range(len(self.files)):
            names, opened = self._checked(index, columns), self._file(index)
            with opened.reading():
                tables.append(opened.table.file.read(columns=names))
        return pa.concat_tables(tables) if tables else self._empty(columns)

    def schema(self) -> pa.Schema:
        """Returns names and types of the columns of the first file; empty without rows."""
        return self._file(0).table.file.schema_arrow if self.files else pa.schema([])

    def read_range(self, start: int, stop: int | None, columns: list[str]) -> pa.Table:
        """Reads the rows with start <= row_id < stop (None for the end), in row_id order.

        Raises:
            InputError: a column is not there.
        """
        names = _with_row_id(columns)
        parts = list(self.iter_range(start, stop, columns))
        return (pa.concat_tables(parts) if parts else self._empty(names)).select(columns)

    def iter_range(self, start: int, stop: int | None, columns: list[str]) -> Iterator[pa.Table]:
        """As `read_range`, with `row_id`, a row group at a time."""
        last = np.iinfo(np.int64).max if stop is None else stop - 1
        names = _with_row_id(columns)
        for index in np.flatnonzero((self._last >= start) & (self._first <= last)):
            for table in self._groups_between(int(index), start, last, names):
                ids = table.column("row_id").to_numpy()
                low, high = np.searchsorted(ids, start), np.searchsorted(ids, last, side="right")
                yield table.slice(low, high - low)

    def iter_file(self, index: int, columns: list[str]) -> Iterator[pa.Table]:
        """Yields the row groups of one file, one table each."""
        names = self._checked(index, _with_row_id(columns))
        opened = self._file(index)
        for group in range(len(opened.lows)):
            with opened.reading():
                table = opened.table.file.read_row_group(group, columns=names)
            yield table

    def block_starts(self) -> Int64Array:
        """Returns the first row_id of every row group, int64[groups]; approximate for files with gaps."""
        starts = []
        for f in self.files:
            span = f.last_row_id + 1 - f.first_row_id
            starts.append(np.arange(f.first_row_id, f.last_row_id + 1, max(1, f.group_rows * span // f.rows)))
        return np.concatenate(starts).astype(np.int64) if starts else np.zeros(0, dtype=np.int64)

    def _read_file(self, index: int, row_ids: Int64Array, columns: list[str]) -> list[pa.Table]:
        """Those of some rows that are in one file, a table for each row group that has any."""
        low, high = np.searchsorted(row_ids, [self._first[index], self._last[index] + 1])
        wanted = row_ids[low:high]
        names = self._checked(index, _with_row_id(columns))
        opened, parts = self._file(index), []
        starts = np.searchsorted(wanted, opened.lows)
        stops = np.searchsorted(wanted, opened.highs, side="right")
        for group in np.flatnonzero(starts < stops).tolist():
            table = self._group(opened, group, names)
            have = table.column("row_id").to_numpy()
            mine = wanted[starts[group] : stops[group]]
            if len(mine) < len(have):
                places = np.minimum(np.searchsorted(have, mine), len(have) - 1)
                table = table.take(places[have[places] == mine])
            parts.append(table)
        return parts

    def _groups_between(self, index: int, first: int, last: int, names: list[str]) -> Iterator[pa.Table]:
        opened = self._file(index)
        self._checked(index, names)
        for group in np.flatnonzero((opened.highs >= first) & (opened.lows <= last)).tolist():
            yield self._group(opened, group, names)

    def _group(self, opened: _Open, group: int, names: list[str]) -> pa.Table:
        with opened.reading():
            compressed = sum(chunk.total_compressed_size for chunk in opened.table.chunks(group, names))
        with self._lock:
            self.bytes_read += compressed
            self.groups_read += 1
        # A row group is small: on a local disk, threads and read-ahead cost more than they save.
        with opened.reading():
            return opened.table.file.read_row_group(group, columns=names, use_threads=False)

    def _file(self, index: int) -> _Open:
        with self._lock:
            if index in self._open:
                self._open.move_to_end(index)
                return self._open[index]
        opened = self._opened(self.location.child(self.files[index].path), self.files[index])
        with self._lock:
            self._open[index] = opened
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)  # another thread may still read it: it closes with its last reader
        return opened

    def _opened(self, location: Location, entry: FileEntry) -> _Open:
        """Opens a file that has the size, the rows and, if it is small and near, the content of its entry."""
        try:
            source = location.file_system.open_input_file(location.path)
            check_size(location, entry, source.size())
            if self.location.is_local and entry.bytes <= SMALL_BYTES and entry.path not in self._compared:
                check_content(location, entry, source.read())
                source.seek(0)
                self._compared.add(entry.path)
            table = OpenParquet(source, pre_buffer=not self.location.is_local, verify=True)
            ranges = _group_ranges(table)
        except (OSError, pa.ArrowException, ValueError, TypeError, AttributeError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            raise reading_failed(location, error, "the artifact is damaged; make it again") from error
        if table.file.metadata.num_rows != entry.rows:
            raise InputError(
                f"{location} has {table.file.metadata.num_rows} rows, its manifest says {entry.rows}",
                "the artifact is damaged; make it again",
            )
        return _Open(location, table, *ranges)

    def _checked(self, index: int, columns: list[str]) -> list[str]:
        have = self._file(index).table.file.schema_arrow.names
        missing = [c for c in columns if c not in have]
        if missing:
            raise InputError(f"{self.location} has no column {missing}", f"its columns are {have}")
        return columns

    def _empty(self, columns: list[str]) -> pa.Table:
        if not self.files:
            return pa.table({name: pa.array([], pa.int64()) for name in columns})
        return self._file(0).table.file.schema_arrow.empty_table().select(self._checked(0, columns))


def _group_ranges(table: OpenParquet) -> tuple[Int64Array, Int64Array]:
    chunks = [list(table.chunks(group, ["row_id"])) for group in range(table.file.metadata.num_row_groups)]
    groups = (row_id.statistics for (row_id,) in chunks)
    ranges = np.array([(s.min, s.max) for s in groups], dtype=np.int64).reshape(-1, 2)
    return ranges[:, 0], ranges[:, 1]


def _reopen(kind: type[RowTable], location: Location, prefix: str) -> RowTable:
    return kind(location) if kind is not RowTable else RowTable(location, prefix=prefix)


def _with_row_id(columns: list[str]) -> list[str]:
    return columns if "row_id" in columns else ["row_id", *columns]


def vectors(column: pa.ChunkedArray | pa.Array, dtype: npt.DTypeLike = np.float32) -> Float32Array:
    """Converts a fixed-size-list column to a matrix float[rows, n]."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    flat = array.flatten().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(flat.reshape(len(array), array.type.list_size), dtype=dtype)


def vector_column(matrix: FloatArray, dtype: npt.DTypeLike = np.float16) -> pa.FixedSizeListArray:
    """Converts a matrix float[rows, n] to a fixed-size-list column, of float16 unless another type is given."""
    flat = pa.array(np.ascontiguousarray(matrix, dtype=dtype).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1])


def vector_column_of(features: RowTable, name: str | None) -> str:
    """Finds the column with a table's vectors.

    Args:
        features: the table.
        name: name of the column; None for the only one with vectors.

    Raises:
        InputError: there is no such column, it holds no vectors of one length, or there are several.
    """
    found = vector_columns(features)
    if name is not None and name in found:
        return name
    if name is None and len(found) == 1:
        return next(iter(found))
    wanted = "one column of vectors is needed" if name is None else f"column {name!r} is asked for"
    raise InputError(
        f"{features.location} has vectors (fixed_size_list) in {sorted(found)}; {wanted}",
        "name one of them with column (--column), or encode the pool first",
    )


def vector_columns(features: RowTable) -> dict[str, int]:
    """Returns name -> dimension of a table's columns of fixed-length vectors."""
    return {field.name: field.type.list_size for field in features.schema() if pa.types.is_fixed_size_list(field.type)}
