"""Every artifact below a folder, with each of its files read and compared with what its manifest says."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from coevo_ray.errors import CoevoError, InputError
from coevo_ray.progress import Ticker
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import MANIFEST, STARTED, FileEntry, Manifest, load_manifest

_CHUNK_BYTES = 8 << 20


@dataclass
class Verified:
    """Findings of a verification.

    Attributes:
        artifacts, files, bytes: that were read.
        unfinished: folders of artifacts that were begun and have no manifest; their files are not compared.
        damaged: a line for each file that is missing, damaged or replaced, and for each manifest that cannot be read.
    """

    artifacts: int = 0
    files: int = 0
    bytes: int = 0
    unfinished: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def verify_below(folder: Location) -> Verified:
    """Reads all files of all artifacts below a folder, a few megabytes at a time, with progress on stderr.

    Args:
        folder: of an artifact, a run, or anything above.

    Raises:
        InputError: the folder is not there, or holds no artifact.
    """
    if not folder.is_folder():
        raise InputError(f"there is no folder {folder}", "check the path")
    names = folder.files(recursive=True)
    of = {file: {_above(name) for name in names if _last(name) == file} for file in (MANIFEST, STARTED)}
    if not of[MANIFEST] and not of[STARTED]:
        raise InputError(f"there is no artifact at or below {folder}", "give the folder of a run, or one above")
    found = Verified(unfinished=[str(_below(folder, name)) for name in sorted(of[STARTED] - of[MANIFEST])])
    places = [_below(folder, name) for name in sorted(of[MANIFEST])]
    entries = [_entries(place) for place in places]
    total = sum(len(files) for files in entries if not isinstance(files, str))
    with Ticker("verify", total, "files") as ticker:
        for place, files in zip(places, entries, strict=True):
            found.artifacts += 1
            if isinstance(files, str):
                found.damaged.append(files)
            else:
                _verify_artifact(place, files, found, ticker)
    return found


def verify(location: Location, manifest: Manifest) -> list[str]:
    """Compares every file of an artifact with its manifest; returns the paths that differ or are missing."""
    return [entry.path for entry in manifest.files if _problem(location.child(entry.path), entry) is not None]


def _entries(place: Location) -> Sequence[FileEntry] | str:
    """The files of an artifact, or what is wrong with its manifest."""
    try:
        return load_manifest(place).files
    except InputError as error:
        return error.cause


def _verify_artifact(place: Location, entries: Sequence[FileEntry], found: Verified, ticker: Ticker) -> None:
    for entry in entries:
        problem = _problem(place.child(entry.path), entry)
        if problem is not None:
            found.damaged.append(f"{place.child(entry.path)} {problem}")
        found.files += 1
        found.bytes += entry.bytes
        ticker.advance(1, str(place))


def _problem(file: Location, entry: FileEntry) -> str | None:
    """Describes what is wrong with a file; None where it is as its manifest says."""
    try:
        if not file.is_file():
            return "is missing"
        if (size := file.size()) != entry.bytes:
            return f"has {size} bytes, need {entry.bytes}"
        found = hashlib.sha256()
        with file.file_system.open_input_stream(file.path, compression=None) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                found.update(chunk)
    except (OSError, CoevoError) as error:
        return f"cannot be read: {error}"
    return None if found.hexdigest() == entry.sha256 else "differs from its checksum"


def _above(name: str) -> str:
    return name.rpartition("/")[0]


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _below(folder: Location, name: str) -> Location:
    return folder.child(name) if name else folder
