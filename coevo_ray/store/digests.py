"""Hashes of values and arrays, by which artifacts and their inputs are compared."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from coevo_ray.core.arrays import AnyArray


def digest(value: Any) -> str:
    """Returns the SHA-256 (hex, 16 bytes) of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def digest_array(array: AnyArray) -> str:
    """Returns the SHA-256 (hex, 16 bytes) of an array's dtype, shape and values."""
    content = np.ascontiguousarray(array)
    head = f"{content.dtype.newbyteorder('<').str}{content.shape}".encode()
    return hashlib.sha256(head + content.astype(content.dtype.newbyteorder("<"), copy=False).tobytes()).hexdigest()[:32]
