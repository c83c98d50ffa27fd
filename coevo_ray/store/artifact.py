"""Artifacts: folders of data files with a manifest written last (docs/design.md#artifacts).

An artifact without a manifest does not exist for readers. While one is being made, `_started.json` holds its
configuration, so that a second attempt continues the first or is refused when the configuration has changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from coevo_ray.store.changes import refuse_change
from coevo_ray.store.json_text import json_bytes, object_of
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import MANIFEST, STARTED, FileEntry, Manifest, load_manifest
from coevo_ray.store.shown import shown
from coevo_ray.store.writing import claim, commit, committing

SCRATCH = "_samples/"  # what is written beside an artifact and is not part of it


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

    def _repr_html_(self) -> str:
        return shown(self.manifest.kind, str(self.location), self.summary)

    def __getitem__(self, name: str) -> Any:
        return self.summary[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.summary)

    def __len__(self) -> int:
        return len(self.summary)


def is_begun(location: Location) -> bool:
    """Tests whether an artifact was started or finished here."""
    return location.child(MANIFEST).is_file() or location.child(STARTED).is_file()


def begun_config(location: Location) -> dict[str, Any] | None:
    """The settings of the artifact started or finished here; None if there is none."""
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
        The manifest if the same artifact is already finished (nothing is left to do), else None: continue and skip
        existing files.

    Raises:
        UsageError: the existing artifact has another configuration, kind or input, another process writes there, or
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
    """Gives an artifact other settings: its content stays, and it counts as unfinished.

    Args:
        location: its folder.
        kind, config, inputs: as in `Manifest`.

    Raises:
        StoppedError: the store refused, or another process has taken over the folder; call it again.
    """
    with committing(location):
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
    manifest = Manifest(
        kind=kind,
        config=json.loads(json.dumps(config)),
        inputs=inputs,
        rows=sum(f.rows for f in files),
        files=tuple(sorted(files, key=lambda f: f.path)),
        summary=summary,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    commit(location, MANIFEST, json_bytes(manifest.to_json()))
    location.child(STARTED).delete_file()
    return manifest


def _has_data(location: Location) -> bool:
    names = [name for name in location.files(recursive=True) if name != STARTED]
    return any(not name.startswith(SCRATCH) for name in names)
