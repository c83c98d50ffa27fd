"""Artifacts: folders of data files with a manifest that is written last (docs/design.md#artifacts).

An artifact without a manifest does not exist for readers. While one is being made, `_started.json` holds its
configuration, so that a second attempt continues the first or is refused when the configuration has changed.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from coevo_ray._version import __version__
from coevo_ray.core.arrays import AnyArray
from coevo_ray.errors import InputError, StoppedError
from coevo_ray.store.changes import refuse_change
from coevo_ray.store.inside import why_outside
from coevo_ray.store.json_text import object_of
from coevo_ray.store.location import Location
from coevo_ray.store.writing import claim, confirm

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
_READERS = 16
STARTED = "_started.json"
SCRATCH = "_samples/"  # what is written beside an artifact and is not part of it
# The command that makes each kind.
_MAKERS = {
    "pool": "coevo-ray ingest",
    "contribution": "coevo-ray encode with one --prior",
    "targets": "coevo-ray encode or merge",
    "sae": "coevo-ray sae: model/ in its output; or coevo-ray sae import",
    "codes": "coevo-ray sae",
    "factors": "coevo-ray sae: table/ in its output",
    "scores": "coevo-ray sae: scores/ in its output",
    "graph": "coevo-ray gate open",
    "labels": "coevo-ray gate, or gate export",
    "pseudo_labels": "coevo-ray gate export --pseudo-labels",
    "evidence": "coevo-ray train --objective supervised with --targets: evidence/ in its output",
    "model": "coevo-ray train",
    "retrieved": "coevo-ray retrieve",
    "duplicates": "coevo-ray dedup",
    "run": "coevo-ray run",
}
_DAMAGED = "restore the file, or make the artifact again in another folder"
_MOST = 2**63 - 1
_MOST_NAMED, _MOST_SHOWN = 3, 80


def _stays_inside(path: str) -> str:
    cause = why_outside(path)
    if cause is not None:
        raise ValueError(f"a path that {cause}; need one below the folder of the manifest")
    return path


# Types of what is read from a manifest; strict, for otherwise "3" and true were numbers.
_Path = Annotated[str, AfterValidator(_stays_inside)]
_Count = Annotated[int, Field(strict=True, ge=0, le=_MOST)]
_RowId = Annotated[int, Field(strict=True, ge=-1, le=_MOST)]


@dataclass(frozen=True)
class FileEntry:
    """One data file of an artifact.

    Attributes:
        path: relative to the artifact's folder.
        rows: rows in the file (0 for files that are not tables).
        bytes: size.
        sha256: checksum of the content, hex.
        first_row_id, last_row_id: the smallest and largest row_id inside; -1 without rows.
        group_rows: rows of each Parquet row group but the last; 0 where there are none.
    """

    path: _Path
    rows: _Count
    bytes: _Count
    sha256: str
    first_row_id: _RowId = -1
    last_row_id: _RowId = -1
    group_rows: _Count = 0


@dataclass(frozen=True)
class Manifest:
    """Contents and origin of an artifact.

    Attributes:
        kind: what it is ("pool", "targets", ...).
        config: settings that determine its content; compute settings (actors, batch sizes) are left out.
        inputs: name -> identity of each input artifact.
        rows: number of data rows.
        summary: figures about the making and the content, as shown in `summary.json`.
    """

    kind: str
    config: dict[str, Any]
    inputs: dict[str, str]
    rows: _Count
    files: tuple[FileEntry, ...]
    summary: dict[str, Any] = field(default_factory=dict)
    schema_version: _Count = SCHEMA_VERSION
    package_version: str = __version__
    created: str = ""

    @property
    def config_hash(self) -> str:
        """Hash of the configuration."""
        return digest(self.config)

    @property
    def identity(self) -> str:
        """Hash of configuration, inputs and file contents, by which later artifacts refer to this one."""
        return digest([self.kind, self.config, self.inputs, [[f.path, f.sha256] for f in self.files]])

    def to_json(self) -> dict[str, Any]:
        """Returns the manifest as stored."""
        content = asdict(self)
        return {**content, "files": [asdict(f) for f in self.files], "config_hash": self.config_hash}

    @classmethod
    def from_json(cls, content: object, origin: object = "a manifest") -> Manifest:
        """Makes a manifest from the JSON of `to_json`; keys that are not known are left aside.

        Args:
            content: as it was read.
            origin: the file, for errors.

        Raises:
            InputError: a field is missing, of another type or out of its bounds, or a file lies outside the folder.
        """
        try:
            return _adapter().validate_python(content)
        except ValidationError as error:
            wrong = "; ".join(_plain(each) for each in error.errors()[:_MOST_NAMED])
            raise InputError(f"{origin} is no manifest of ours: {wrong}", _DAMAGED) from None


@functools.cache
def _adapter() -> TypeAdapter[Manifest]:
    return TypeAdapter(Manifest)


def _plain(error: Any) -> str:
    place = _shown(".".join(str(part) for part in error["loc"]))
    return f"{place}: {error['msg'].removeprefix('Value error, ')}"


def _shown(text: object) -> str:
    """A text of a file that anybody may have written, fit to be printed."""
    shown = str(text)
    return shown if shown.isprintable() and len(shown) <= _MOST_SHOWN else ascii(shown)[:_MOST_SHOWN]


@dataclass(frozen=True, eq=False, repr=False)
class Artifact(Mapping[str, Any]):
    """A finished artifact as a function returns it; its figures are also its items.

    Tables and pools (`RowTable`, `Pool`) have the same three attributes.

    Attributes:
        location: its folder, which other functions take.
        manifest: settings, inputs and files.
        summary: figures about the making and the content, JSON-able.
    """

    location: Location
    manifest: Manifest
    summary: dict[str, Any]

    @classmethod
    def open(cls, location: Location, kind: str) -> Artifact:
        """Opens a finished artifact.

        Raises:
            InputError: there is none here, or it is of another kind.
        """
        manifest = load_manifest(location, kind)
        return cls(location, manifest, manifest.summary)

    def __repr__(self) -> str:
        return f"<{self.manifest.kind} at {self.location}>"

    def __getitem__(self, name: str) -> Any:
        return self.summary[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.summary)

    def __len__(self) -> int:
        return len(self.summary)


def digest(value: Any) -> str:
    """Returns the SHA-256 (hex, 16 bytes) of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def digest_array(array: AnyArray) -> str:
    """Returns the SHA-256 (hex, 16 bytes) of an array's dtype, shape and values."""
    content = np.ascontiguousarray(array)
    head = f"{content.dtype.newbyteorder('<').str}{content.shape}".encode()
    return hashlib.sha256(head + content.astype(content.dtype.newbyteorder("<"), copy=False).tobytes()).hexdigest()[:32]


def load_manifest(location: Location, kind: str | None = None) -> Manifest:
    """Reads the manifest of a finished artifact.

    Args:
        location: the artifact's folder.
        kind: kind that it must have; None accepts any.

    Raises:
        InputError: there is no finished artifact here, or it is of another kind or a newer schema.
    """
    file = location.child(MANIFEST)
    if not file.is_file():
        half = location.child(STARTED).is_file()
        raise InputError(
            f"no finished {kind or 'artifact'} at {location}"
            + (" (one was started and not completed)" if half else ""),
            "run the command that makes it again: it continues"
            if half
            else f"check the path, or make it{_made_by(kind)}",
        )
    content = object_of(file.read_json(), file, {"kind": str})
    version, have = content.get("schema_version", SCHEMA_VERSION), content["kind"]
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise InputError(
            f"{location} has schema version {version}, this package reads up to {SCHEMA_VERSION}",
            f"upgrade coevo-ray (it was written by {_shown(content.get('package_version'))}, this is {__version__})",
        )
    if kind is not None and have != kind:
        raise InputError(
            f"{location} holds a {_shown(have)}, a {kind} is needed", f"give the path of a {kind}{_made_by(kind)}"
        )
    return Manifest.from_json(content, file)


def _made_by(kind: str | None) -> str:
    return f" ({_MAKERS[kind]})" if kind in _MAKERS else ""


def is_begun(location: Location) -> bool:
    """Whether an artifact was started or finished here."""
    return location.child(MANIFEST).is_file() or location.child(STARTED).is_file()


def begun_config(location: Location) -> dict[str, Any] | None:
    """The settings of what was started or finished here; None where nothing was."""
    for name in (MANIFEST, STARTED):
        file = location.child(name)
        if file.is_file():
            config: dict[str, Any] = object_of(file.read_json(), file, {"config": dict})["config"]
            return config
    return None


def begin(location: Location, kind: str, config: dict[str, Any], inputs: dict[str, str]) -> Manifest | None:
    """Starts or continues an artifact, within a block that is `writing` its folder.

    Args:
        location: its folder.
        kind, config, inputs: as in `Manifest`.

    Returns:
        The manifest when the same artifact is already finished (nothing is left to do), else None: go on and
        skip the files that are there.

    Raises:
        UsageError: another configuration, kind or input was used for what is there, another process writes there, or
            nothing can be written.
        StoppedError: the store failed.
    """
    config = json.loads(json.dumps(config))  # as it will be read back: tuples become lists
    wanted = {"kind": kind, "config": config, "inputs": inputs}
    manifest = _finished(location, wanted)
    if manifest is None:
        claim(location)
        manifest = _finished(location, wanted)  # whoever held the lease until now may have finished it
    if manifest is not None:
        return manifest
    location.check_writable()
    started = location.child(STARTED)
    if started.is_file() and _has_data(location):
        refuse_change(location, wanted, object_of(started.read_json(), started, {"kind": str, "config": dict}))
    else:  # an attempt that failed before its first file binds nobody
        started.write_json(wanted)
    return None


def _finished(location: Location, wanted: dict[str, Any]) -> Manifest | None:
    """The manifest of a finished artifact, which must be the wanted one; None without any."""
    if not location.child(MANIFEST).is_file():
        return None
    manifest = load_manifest(location)
    refuse_change(location, wanted, {"kind": manifest.kind, "config": manifest.config, "inputs": manifest.inputs})
    return manifest


def begin_with(location: Location, kind: str, config: dict[str, Any], inputs: dict[str, str]) -> None:
    """Gives an artifact other settings: what it holds stays, and it is unfinished from now on.

    Args:
        location: its folder.
        kind, config, inputs: as in `Manifest`.

    Raises:
        StoppedError: the store refused, or another process has taken over the folder; call it again.
    """
    confirm(location)
    # The manifest goes last: until then whoever comes finds the former settings and refuses, or these.
    location.child(STARTED).write_json({"kind": kind, "config": json.loads(json.dumps(config)), "inputs": inputs})
    if location.child(MANIFEST).is_file():
        location.child(MANIFEST).delete_file()


def begin_more(location: Location, kind: str, config: dict[str, Any], inputs: dict[str, str]) -> bool:
    """Tests whether a finished artifact is here that only lacks some inputs, and so may be extended in place.

    The extension writes files under new names and the manifest last: the former artifact stays valid until then.

    Args:
        location: its folder.
        kind, config, inputs: as in `Manifest`, of the extended artifact.
    """
    if not location.child(MANIFEST).is_file():
        return False
    there = load_manifest(location)
    same = there.kind == kind and there.config == json.loads(json.dumps(config))
    return same and there.inputs.items() < inputs.items()


def finish(
    location: Location,
    kind: str,
    config: dict[str, Any],
    inputs: dict[str, str],
    files: list[FileEntry],
    summary: dict[str, Any],
) -> Manifest:
    """Writes the manifest, which makes the artifact exist.

    Raises:
        StoppedError: the store refused, or another process has taken over the folder.
    """
    confirm(location)
    manifest = Manifest(
        kind=kind,
        config=json.loads(json.dumps(config)),
        inputs=inputs,
        rows=sum(f.rows for f in files),
        files=tuple(sorted(files, key=lambda f: f.path)),
        summary=summary,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    location.child(MANIFEST).write_json(manifest.to_json())
    location.child(STARTED).delete_file()
    return manifest


def _has_data(location: Location) -> bool:
    names = [name for name in location.files(recursive=True) if name != STARTED]
    return any(not name.startswith(SCRATCH) for name in names)


def write_table(folder: Location, name: str, table: pa.Table, group_rows: int = 65_536) -> FileEntry:
    """Writes a Parquet file atomically, and reads its footer back first.

    Args:
        folder: the artifact's folder.
        name: file name inside it.
        table: the rows; with a `row_id` column it must be sorted by it.
        group_rows: rows of a row group.

    Raises:
        InputError: row_ids are not strictly increasing.
        StoppedError: the store refused.
    """
    first = last = -1
    if "row_id" in table.column_names and table.num_rows:
        row_ids = table.column("row_id").to_numpy()
        if (row_ids[1:] <= row_ids[:-1]).any():
            raise InputError(
                f"row_ids for {folder.child(name)} do not increase", "sort the rows and drop doubles first"
            )
        first, last = int(row_ids[0]), int(row_ids[-1])
    sink = pa.BufferOutputStream()
    # Dictionaries are for repeated strings; tried on vectors and images they only take time.
    repeated = [field.name for field in table.schema if pa.types.is_string(field.type)]
    # Nobody looks for the smallest value of a vector or an image; to find it takes half the time of writing it.
    plain = [
        field.name for field in table.schema if not (pa.types.is_nested(field.type) or pa.types.is_binary(field.type))
    ]
    pq.write_table(
        table,
        sink,
        row_group_size=max(1, group_rows),
        compression="zstd",
        use_dictionary=repeated or False,
        write_statistics=plain or False,
    )
    buffer = sink.getvalue()
    written = pq.ParquetFile(pa.BufferReader(buffer)).metadata.num_rows
    if written != table.num_rows:
        raise InputError(f"{name}: {written} of {table.num_rows} rows were encoded", "report this: Parquet lost rows")
    _write(folder.child(name), buffer, buffer.size)
    checksum = hashlib.sha256(buffer).hexdigest()
    return FileEntry(name, table.num_rows, buffer.size, checksum, first, last, min(group_rows, table.num_rows))


def read_table(folder: Location, name: str) -> pa.Table:
    """Reads a Parquet file of an artifact, finished or not.

    Raises:
        InputError: the file is missing or damaged.
    """
    data = folder.child(name).read_bytes()
    try:
        return pq.read_table(pa.BufferReader(data))
    except pa.ArrowException as error:
        raise InputError(
            f"cannot read {folder.child(name)}: {error}", "the artifact is damaged; make it again"
        ) from error


def _write(file: Location, data: bytes | pa.Buffer, size: int) -> None:
    """Writes a file, and asks the store for its size before a manifest may name it."""
    file.write_bytes(data)
    have = file.size()
    if have != size:
        raise StoppedError(
            f"the store has {have} of the {size} bytes that were written to {file}",
            "repair the store, then run the same command again: finished parts are kept",
        )


def write_blob(folder: Location, name: str, data: bytes) -> FileEntry:
    """Writes a file that is not a table (safetensors, JSON, HTML) and describes it.

    Raises:
        StoppedError: the store refused.
    """
    _write(folder.child(name), data, len(data))
    return FileEntry(name, 0, len(data), hashlib.sha256(data).hexdigest())


def describe(folder: Location, name: str) -> FileEntry:
    """Returns the entry of a file that an earlier, interrupted attempt has written.

    Raises:
        InputError: the file cannot be read.
    """
    data = folder.child(name).read_bytes()
    checksum = hashlib.sha256(data).hexdigest()
    if not name.endswith(".parquet"):
        return FileEntry(name, 0, len(data), checksum)
    file = pq.ParquetFile(pa.BufferReader(data))
    first = last = -1
    if file.metadata.num_rows and "row_id" in file.schema_arrow.names:
        row_ids = file.read(columns=["row_id"]).column(0).to_numpy()
        first, last = int(row_ids[0]), int(row_ids[-1])
    group = file.metadata.row_group(0).num_rows if file.metadata.num_row_groups else 0
    return FileEntry(name, file.metadata.num_rows, len(data), checksum, first, last, group)


def describe_all(folder: Location, names: Sequence[str]) -> dict[str, FileEntry]:
    """Runs `describe` on many files, several at a time, which hides the latency of a remote store.

    Raises:
        InputError: a file cannot be read.
    """
    with ThreadPoolExecutor(_READERS) as threads:
        return dict(zip(names, threads.map(functools.partial(describe, folder), names), strict=True))
