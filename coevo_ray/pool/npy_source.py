"""NumPy matrices as sources of vectors alone: `NAME.npy` is N x d, with keys and labels in files beside it.

Keys and labels of `NAME.npy` are `NAME.keys.npy` or `NAME.keys.txt` (one a line), and `NAME.labels.npy` or
`NAME.labels.txt`; a dash or an underscore may stand for the dot. Where a folder holds one matrix alone, `keys` and
`labels` suffice. Only the rows of a shard are read, by their place in the file, on any store.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from coevo_ray.config import Source
from coevo_ray.config.pool import NPY as SUFFIX
from coevo_ray.config.pool import VECTOR
from coevo_ray.core.arrays import AnyArray, BoolArray, Float32Array
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.entries import (
    Entry,
    Format,
    FoundFiles,
    Reading,
    SourceShard,
    pack_names,
    pack_values,
    unpack_values,
)
from coevo_ray.pool.folder_layout import read_layout
from coevo_ray.pool.modality import vector_sample
from coevo_ray.pool.npy_files import LineFile, NpyFile
from coevo_ray.store.location import Location

KEYS, LABELS = "keys", "labels"
_BESIDE = re.compile(rf"(?:(.*)[._-])?({KEYS}|{LABELS})[.](?:npy|txt)", re.IGNORECASE)
_BATCH_ROWS = 256
_LAST_CHARACTER = 0x10FFFF  # of Unicode
_SURROGATES = 0xD800, 0xDFFF  # halves of a pair, no characters by themselves
_NO_COLUMNS = ("vector_column", "text_column", "key_column", "feature_columns")


def is_beside(name: str) -> bool:
    """Tests whether a file name is one of a matrix's keys or labels."""
    return _BESIDE.fullmatch(name.rpartition("/")[2]) is not None


def is_matrix(name: str) -> bool:
    """Tests whether a file name ends in `.npy`, and is none of keys or labels."""
    return name.lower().endswith(SUFFIX) and not is_beside(name)


@dataclass(frozen=True)
class _Column:
    """Keys or labels of one matrix: a `.npy` array of N values, or N lines.

    Attributes:
        name: of the file, relative to the source's folder.
        array: its header, or None for lines.
        starts: where the lines of each shard begin; empty for an array.
    """

    name: str
    array: NpyFile | None
    starts: tuple[int, ...] = ()

    @classmethod
    def open(cls, folder: Location, name: str, matrix: NpyFile, shard_rows: int) -> _Column:
        """Inspects a file.

        Raises:
            InputError: it has not one value for each row of the matrix.
        """
        place = folder.child(*name.split("/"))
        array = NpyFile.open(place) if name.lower().endswith(SUFFIX) else None
        starts: list[int] = []
        if array is None:
            have, starts = LineFile(place).starts(shard_rows)
        else:
            have = array.shape[0] if array.shape else 0
            if array.shape not in ((have,), (have, 1)):
                raise InputError(f"{place} has the shape {array.shape}, need ({matrix.shape[0]},)", "flatten it")
        if have != matrix.shape[0]:
            raise InputError(
                f"{place} has {have} entries, {matrix.place} {matrix.shape[0]} rows",
                "they belong together by their order: one entry a row",
            )
        return cls(name, array, tuple(starts))


def list_npy(source: Source, found: FoundFiles, shard_rows: int) -> list[SourceShard]:
    """Cuts matrices into shards; reads their headers, and goes through lines of keys and labels once.

    Raises:
        InputError: there are no matrices, one is none of N x d numbers, dimensions differ, or keys or labels do not
            fit.
        UsageError: a setting needs columns, or the names of folders allow two readings.
    """
    _refuse_columns(source)
    if not found.runs:
        raise InputError(
            f"no .npy matrices in {source.uri}", "write them with numpy.save(path, array) of N x d numbers"
        )
    is_file = found.location.is_file()
    folder = found.location.parent if is_file else found.location
    around = [name for name in folder.files() if is_matrix(name) or is_beside(name)] if is_file else None
    matrices = {name: _matrix(folder, name) for name in found.names}
    beside = _files_beside(around or [*found.names, *found.metadata])
    if not is_file:
        _say_left(found, beside)
    keys = _columns(folder, matrices, beside, KEYS, shard_rows)
    if 0 < len(keys) < len(matrices):
        lacking = next(name for name in matrices if name not in keys)
        raise InputError(f"{next(iter(keys))} has keys and {lacking} has none", "give all matrices keys, or none")
    labels = {} if source.label_column is None else _columns(folder, matrices, beside, LABELS, shard_rows)
    if 0 < len(labels) < len(matrices):
        found.said.append(f"no labels beside {len(matrices) - len(labels)} of {len(matrices)} matrices")
    layout = read_layout(found.folders, source.uri, "none" if is_file else source.folders, label=None)
    found.said += layout.said
    reading = Reading(
        source.uri,
        "npy",
        modality=VECTOR,
        key_column=KEYS if keys else None,
        features=((VECTOR, _dimension(source, matrices)),),
        prefix=source.key_prefix or "",
    )
    return [
        SourceShard(
            reading,
            pack_names([name]),
            start,
            min(shard_rows, matrix.shape[0] - start),
            split=source.split or layout.split(name),
            parts=pack_values([_part(columns.get(name), start // shard_rows) for columns in (keys, labels)]),
        )
        for name, matrix in matrices.items()
        for start in range(0, matrix.shape[0], shard_rows)
    ]


def _refuse_columns(source: Source) -> None:
    named = [name for name in _NO_COLUMNS if getattr(source, name)]
    if "label_column" in source.model_fields_set and source.label_column is not None:
        named.append("label_column")
    if named:
        raise UsageError(
            f"{named[0]} is set and {source.uri} holds matrices, which have no columns",
            f"leave {named[0]} out; keys and labels belong beside NAME.npy as NAME.keys.txt, NAME.labels.npy",
        )


_RESHAPE = "reshape it to one vector a row; name files of keys NAME.keys.npy and of labels NAME.labels.npy"
_REMEDIES = {
    "b": "save numbers: numpy.save(path, array.astype('float32'))",
    "c": "save real numbers: numpy.save(path, numpy.concatenate([array.real, array.imag], axis=1))",
}


def _matrix(folder: Location, name: str) -> NpyFile:
    matrix = NpyFile.open(folder.child(*name.split("/")))
    if len(matrix.shape) != 2 or matrix.dtype.kind not in "fiu" or matrix.shape[1] == 0:
        raise InputError(
            f"{matrix.place} holds {matrix.dtype} of shape {matrix.shape}, need numbers of shape (N, d)",
            _REMEDIES.get(matrix.dtype.kind, _RESHAPE),
        )
    return matrix


def _dimension(source: Source, matrices: dict[str, NpyFile]) -> int:
    have = {matrix.shape[1]: name for name, matrix in matrices.items()}
    if len(have) > 1:
        words = ", ".join(f"{d} in {name}" for d, name in sorted(have.items()))
        raise InputError(f"{source.uri}: vectors have different dimensions: {words}", "a pool needs one dimension")
    return next(iter(have))


def _files_beside(names: list[str]) -> dict[str, dict[str, list[str]]]:
    """Matrix -> role -> files of its keys or labels; under "" those that belong to none."""
    matrices, others = [n for n in names if is_matrix(n)], [n for n in names if not is_matrix(n)]
    alone = Counter(name.rpartition("/")[0] for name in matrices)
    owner = {name[: -len(SUFFIX)]: name for name in matrices}
    only = {name.rpartition("/")[0]: name for name in matrices if alone[name.rpartition("/")[0]] == 1}
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in others:
        folder, slash, base = name.rpartition("/")
        match = _BESIDE.fullmatch(base)
        assert match is not None
        stem, role = match[1], match[2].lower()
        matrix = only.get(folder, "") if not stem else owner.get(f"{folder}{slash}{stem}", "")
        found[matrix][role].append(name)
    return found


def _say_left(found: FoundFiles, beside: dict[str, dict[str, list[str]]]) -> None:
    left = [name for names in beside.get("", {}).values() for name in names]
    if left:
        found.said.append(
            f"{len(left)} files of keys or labels belong to no matrix (first: {left[0]}): "
            "those of NAME.npy are NAME.keys.txt, NAME.labels.npy and the like"
        )


def _columns(
    folder: Location,
    matrices: dict[str, NpyFile],
    beside: dict[str, dict[str, list[str]]],
    role: str,
    shard_rows: int,
) -> dict[str, _Column]:
    """Matrix -> its keys or labels, of the matrices that have some."""
    result = {}
    for name, matrix in matrices.items():
        files = beside.get(name, {}).get(role, [])
        if len(files) > 1:
            raise InputError(f"{name} has two files of {role}: {', '.join(sorted(files)[:2])}", "delete one of them")
        if files:
            result[name] = _Column.open(folder, files[0], matrix, shard_rows)
    return result


def _part(column: _Column | None, shard: int) -> list[object]:
    """File of a shard's keys or labels, and the position of their first line; empty without any."""
    return [] if column is None else [column.name, column.starts[shard] if column.array is None else 0]


def read_npy(shard: SourceShard) -> Iterator[Entry]:
    """Yields the entries of a shard, in order; of the matrix only their rows are read.

    Raises:
        InputError: a file cannot be read.
    """
    (name,), labels = shard.files, shard.reading.labels()
    ((_, dimension),) = shard.reading.features
    file = _matrix(_folder(shard), name)
    if file.shape[0] < shard.start + shard.rows or file.shape[1] != dimension:
        raise InputError(
            f"{file.place} changed while it was ingested: {file.shape}", "run it again when it no longer changes"
        )
    keys, values = list(_keys(shard)), _values(shard, 1) or [None] * shard.rows
    at = 0
    for batch in file.batches(shard.start, shard.start + shard.rows, _BATCH_ROWS):
        with np.errstate(over="ignore"):  # becomes infinite, and is rejected for that
            matrix: Float32Array = batch.astype(np.float32)
        finite: BoolArray = np.logical_and.reduce(np.isfinite(matrix), axis=1)
        for i, vector in enumerate(matrix):
            (key, problem), label = keys[at + i], labels.read(values[at + i])
            usable = vector if finite[i] else f"values that are not finite in float32 in {name}"
            sample, error = vector_sample(usable, name)
            error = problem or error or label.error
            features = () if error else (vector,)
            yield Entry(key, None if problem else sample, label.number, error, features, label.text)
        at += len(matrix)


def _folder(shard: SourceShard) -> Location:
    location = Location.parse(shard.reading.uri)
    return location.parent if location.is_file() else location


def _keys(shard: SourceShard) -> Iterator[tuple[str, str]]:
    """The key of each row, with what is wrong with it or ""."""
    prefix, (name,) = shard.reading.prefix, shard.files
    rows = [f"{prefix}{name}:{row}" for row in range(shard.start, shard.start + shard.rows)]
    values = _values(shard, 0)
    if values is None:
        yield from ((row, "") for row in rows)
        return
    for row, value in zip(rows, values, strict=True):
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError:
                yield row, f"key of {row} is not UTF-8"
                continue
        yield (row, f"no key for {row}") if value == "" else (f"{prefix}{value}", "")


def _values(shard: SourceShard, place: int) -> list[object] | None:
    """A shard's keys (0) or labels (1), as they are written; None where there are none."""
    part = unpack_values(shard.parts)[place]
    if not part:
        return None
    file = _folder(shard).child(*part[0].split("/"))
    if not part[0].lower().endswith(SUFFIX):
        return list(LineFile(file).read(part[1], shard.rows))
    array = NpyFile.open(file)
    values: list[object] = []
    for batch in array.batches(shard.start, shard.start + shard.rows, shard.rows):
        values += _plain(batch.reshape(-1), file)
    return values


def _plain(values: AnyArray, file: Location) -> list[object]:
    """Values as Python's; NumPy ends with a SystemError at texts that hold no characters."""
    if values.dtype.kind == "U" and values.size:
        points = np.ascontiguousarray(values).view(np.dtype(np.uint32).newbyteorder(values.dtype.byteorder))
        if (points > _LAST_CHARACTER).any() or ((points >= _SURROGATES[0]) & (points <= _SURROGATES[1])).any():
            raise InputError(f"{file} is damaged: its texts hold no characters", "write it again with numpy.save")
    plain: list[object] = values.tolist()
    return plain


def _read_keys(shard: SourceShard) -> Iterator[str]:
    return (key for key, _ in _keys(shard))


def _takes(source: Source) -> bool:
    return source.modality == VECTOR


NPY = Format("npy", is_matrix, list_npy, read_npy, _read_keys, takes=_takes, describes=is_beside)
