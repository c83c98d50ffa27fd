"""Seals: a Parquet file carries what it was made of, and a checksum of all its bytes, in its own metadata.

By its seal a file is known before a manifest names it. The checksum is that of the file with zeros in its place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pyarrow as pa

_MADE_OF, _SUM = b"coevo_ray.made_of", b"coevo_ray.sha256"
_NO_SUM = b"0" * 64


def unsealed(table: pa.Table, made_of: str) -> pa.Table:
    """The table with the metadata of a seal, whose checksum `seal` fills in once the file is encoded."""
    metadata = {**(table.schema.metadata or {}), _MADE_OF: made_of.encode(), _SUM: _NO_SUM}
    return table.replace_schema_metadata(metadata)


def seal(data: pa.Buffer) -> pa.Buffer:
    """Fills in the checksum of an encoded file."""
    sealed = bytearray(data)
    place = sealed.rindex(_NO_SUM)  # the metadata are behind the rows
    sealed[place : place + len(_NO_SUM)] = hashlib.sha256(sealed).hexdigest().encode()
    return pa.py_buffer(sealed)


def is_sealed(data: bytes, metadata: Mapping[bytes, bytes] | None, made_of: str) -> bool:
    """Tests whether a file was made of what it should be, and is as it was written.

    Args:
        data: all its bytes.
        metadata: of the file.
        made_of: as in `unsealed`.
    """
    said = (metadata or {}).get(_SUM, b"")
    if (metadata or {}).get(_MADE_OF) != made_of.encode() or len(said) != len(_NO_SUM):
        return False
    place = data.rindex(said)
    found = hashlib.sha256(memoryview(data)[:place])
    found.update(_NO_SUM)
    found.update(memoryview(data)[place + len(said) :])
    return found.hexdigest().encode() == said
