"""Aliases of array types, named by dtype, and a view of one. Shapes stand in the docstrings that use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
UInt8Array = npt.NDArray[np.uint8]
UInt16Array = npt.NDArray[np.uint16]
UInt32Array = npt.NDArray[np.uint32]
UInt64Array = npt.NDArray[np.uint64]
Int8Array = npt.NDArray[np.int8]
Int16Array = npt.NDArray[np.int16]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float16Array = npt.NDArray[np.float16]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
# Of any width, where a function reads what it is given.
IntArray = npt.NDArray[np.integer[Any]]
FloatArray = npt.NDArray[np.floating[Any]]
AnyArray = npt.NDArray[Any]
# Arrays by name, as they are journalled and saved.
Arrays = dict[str, AnyArray]
ArrayMapping = Mapping[str, AnyArray]


def compact_labels(labels: Int64Array) -> IntArray:
    """Labels int64[N], -1 for none, in the smallest type of int16, int32 and int64 that holds all of them."""
    return labels.astype(np.promote_types(np.int16, np.min_scalar_type(-int(labels.max(initial=0)) - 1)))


def read_only(array: AnyArray) -> AnyArray:
    """A view of the same memory that cannot be written through."""
    view = array.view()
    view.flags.writeable = False
    return view
