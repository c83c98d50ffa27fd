"""Parts of an artifact that is being made: a later attempt goes on with those that are its own and undamaged.

Each part carries a hash of all that determines its content, and a checksum of its bytes (`seals`; files of arrays are
in the format of a journal's). Files of others, of former settings or with a flipped bit are no parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from coevo_ray.core.arrays import ArrayMapping, Arrays
from coevo_ray.errors import InputError
from coevo_ray.store import record_format
from coevo_ray.store.data_files import described, write_blob, write_table
from coevo_ray.store.digests import digest
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import FileEntry
from coevo_ray.store.seals import is_sealed

_READERS = 16
_EVENT, _MADE_OF = "part", "made_of"


@dataclass(frozen=True)
class Parts:
    """Parts in a folder that are made of the same things.

    Attributes:
        folder: of the artifact.
        made_of: hash of all that determines their content, see `of`; the name tells them apart.
    """

    folder: Location
    made_of: str

    @classmethod
    def of(cls, folder: Location, *made_of: object) -> Parts:
        """Parts that are made of JSON-able values: settings, identities of inputs, hashes of arrays."""
        return cls(folder, digest(list(made_of)))

    def write_table(self, name: str, table: pa.Table, group_rows: int = 65_536) -> FileEntry:
        """Writes a part that is a table.

        Raises:
            InputError, StoppedError: as `data_files.write_table`.
        """
        return write_table(self.folder, name, table, group_rows, self._mark(name))

    def write_arrays(self, name: str, arrays: ArrayMapping) -> FileEntry:
        """Writes a part that is a safetensors file.

        Raises:
            StoppedError: the store refused.
        """
        encoded = record_format.encode(_EVENT, {_MADE_OF: self._mark(name)}, arrays, "")
        return write_blob(self.folder, name, b"".join(encoded.parts))

    def table(self, name: str) -> tuple[pa.Table, FileEntry] | None:
        """Reads and describes a part that is a table; None where there is none that is ours and undamaged."""
        data = self._read(name)
        if data is None:
            return None
        try:
            file = pq.ParquetFile(pa.BufferReader(data))
            if not is_sealed(data, file.metadata.metadata, self._mark(name)):
                return None
            return file.read(), described(name, data)
        except (OSError, pa.ArrowException):
            return None

    def arrays(self, name: str) -> tuple[Arrays, FileEntry] | None:
        """As `table`, of a part that is a safetensors file."""
        data = self._read(name)
        if data is None:
            return None
        try:
            found = record_format.decode(data)
        except record_format.DAMAGED:
            return None
        ours = found.sha256 and (found.event, found.fields.get(_MADE_OF)) == (_EVENT, self._mark(name))
        return (found.arrays, described(name, data)) if ours else None

    def entries(self, names: Iterable[str]) -> dict[str, FileEntry]:
        """The parts among some names, several read at a time, which hides the latency of a remote store."""
        there = set(self.folder.files())
        wanted = [name for name in names if name in there]
        with ThreadPoolExecutor(_READERS) as threads:
            found = zip(wanted, threads.map(self._entry, wanted), strict=True)
            return {name: entry for name, entry in found if entry is not None}

    def _entry(self, name: str) -> FileEntry | None:
        found = self.table(name) if name.endswith(".parquet") else self.arrays(name)
        return None if found is None else found[1]

    def _mark(self, name: str) -> str:
        return f"{self.made_of}:{name}"

    def _read(self, name: str) -> bytes | None:
        try:
            return self.folder.child(name).read_bytes()
        except InputError:
            return None
