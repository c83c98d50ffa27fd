"""Cells of Arrow tables as plain values: extension types, tensors and vectors, and images that are only named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from coevo_ray.core.arrays import Float32Array
from coevo_ray.errors import InputError
from coevo_ray.store.location import Location


def storage_type(kind: pa.DataType) -> pa.DataType:
    """The plain type below extension types (Ray's tensors, Arrow's `fixed_shape_tensor`)."""
    while isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return kind


def storage(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The plain column below extension types."""
    while isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    return column


def holds_numbers(kind: pa.DataType) -> bool:
    """Tests whether cells of a type are lists of numbers; a column of nulls, as of an empty file, may be one."""
    kind = storage_type(kind)
    if pa.types.is_null(kind):
        return True
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(test(kind) for test in lists):
        return False
    inner = kind.value_type
    return any(
        test(inner) for test in (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal, pa.types.is_null)
    )


def declared_dimension(kind: pa.DataType) -> int | None:
    """The length of all vectors of a column where its type states it, else None.

    Raises:
        InputError: the type is of matrices.
    """
    shape = getattr(kind, "shape", None)
    if shape is not None and len(shape) != 1:
        raise InputError(f"a column holds tensors of shape {tuple(shape)}", "flatten them: a vector is needed")
    if shape is not None:
        return int(shape[0])
    return int(kind.list_size) if pa.types.is_fixed_size_list(kind) else None


def vectors(column: pa.ChunkedArray, name: str, dimension: int) -> list[Any]:
    """For each row of a column float32[dimension], or an error text."""
    result: list[Any] = []
    for value in storage(column):
        vector = _vector(value)
        if vector is None:
            result.append(f"no vector in column {name}")
        elif len(vector) != dimension:
            result.append(f"wrong length in column {name}: {len(vector)} values, need {dimension}")
        elif not np.isfinite(vector).all():
            result.append(f"values that are not finite in float32 in column {name}")
        else:
            result.append(vector)
    return result


def _vector(value: pa.Scalar) -> Float32Array | None:
    if value is None or not value.is_valid:
        return None
    numbers = value.values.to_numpy(zero_copy_only=False)
    if numbers.dtype == object:  # decimals; or numbers and nulls in a type that has no NaN
        numbers = np.array([np.nan if n is None else float(n) for n in numbers])
    with np.errstate(over="ignore"):  # becomes infinite, and is rejected for that
        result: Float32Array = numbers.astype(np.float32)
    return result


def with_bytes(cell: object, file: Location) -> object:
    """A cell of an image column; where it only names a file below the table's folder, the bytes of that.

    Args:
        cell: bytes, or as Hugging Face has it `{"bytes", "path"}`; or a list of one of these, or a path.
        file: the table.

    Returns:
        The cell, or bytes.
    """
    if isinstance(cell, list) and len(cell) == 1:
        cell = cell[0]
    path = cell
    if isinstance(cell, dict) and cell.get("bytes") is None:
        path = cell.get("path")
    if not isinstance(path, str) or not _is_below(path):
        return cell
    try:
        return file.parent.child(*path.split("/")).read_bytes()
    except InputError:
        return cell


def _is_below(path: str) -> bool:
    parts = path.split("/")
    return "" not in parts and ".." not in parts and "\0" not in path and "://" not in path
