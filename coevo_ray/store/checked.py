"""Files of finished artifacts, checked against what the manifest says of them before they are used.

The size is compared whenever a file is opened. The content is compared where a file is read whole anyway or is small;
`verify` reads all of it.
"""

from __future__ import annotations

import hashlib

from coevo_ray.errors import InputError
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import FileEntry, Manifest

SMALL_BYTES = 1 << 20
REMEDY = "restore it from a copy, or make the artifact again; coevo-ray doctor --verify FOLDER names every such file"


def entry_of(folder: Location, manifest: Manifest, name: str) -> FileEntry:
    """Finds a file's entry in a manifest.

    Raises:
        InputError: it does not name the file.
    """
    for entry in manifest.files:
        if entry.path == name:
            return entry
    raise InputError(f"the manifest of {folder} names no file {name}", REMEDY)


def read_checked(folder: Location, manifest: Manifest, name: str) -> bytes:
    """Reads a whole file of a finished artifact.

    Args:
        folder: of the artifact.
        manifest: its manifest.
        name: of the file.

    Raises:
        InputError: the file is not in the manifest or not there, or its size or checksum is another one.
    """
    entry, file = entry_of(folder, manifest, name), folder.child(name)
    check_size(file, entry, file.size())
    data = file.read_bytes()
    check_content(file, entry, data)
    return data


def read_sized(folder: Location, entry: FileEntry) -> bytes:
    """Reads a whole file that may be large: its size is compared, and its content where it is small.

    Args:
        folder: of the artifact.
        entry: what the manifest says of the file.

    Raises:
        InputError: the file is not there, or its size or checksum is another one.
    """
    file = folder.child(entry.path)
    check_size(file, entry, file.size())
    data = file.read_bytes()
    if entry.bytes <= SMALL_BYTES:
        check_content(file, entry, data)
    return data


def check_size(file: Location, entry: FileEntry, size: int) -> None:
    """Compares a file's size in bytes with its entry.

    Raises:
        InputError: it is another one.
    """
    if size != entry.bytes:
        raise InputError(f"{file} is damaged or replaced: it has {size} bytes, its manifest says {entry.bytes}", REMEDY)


def check_content(file: Location, entry: FileEntry, data: bytes) -> None:
    """Compares a file's content with its entry.

    Raises:
        InputError: it is another one.
    """
    check_size(file, entry, len(data))
    found = hashlib.sha256(data).hexdigest()
    if found != entry.sha256:
        raise InputError(
            f"{file} has the checksum {found[:12]}..., its manifest says {entry.sha256[:12]!a}...: it is damaged "
            "or replaced",
            REMEDY,
        )
