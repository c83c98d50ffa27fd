"""Manifests: an artifact's content, inputs and files (docs/design.md#artifacts)."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from coevo_ray._version import __version__
from coevo_ray.errors import InputError
from coevo_ray.store.digests import digest
from coevo_ray.store.inside import why_outside
from coevo_ray.store.json_text import object_of
from coevo_ray.store.location import Location

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
STARTED = "_started.json"
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
