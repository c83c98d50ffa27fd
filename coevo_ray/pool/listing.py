"""Listing of all files below a folder, in a fixed order, with memory for one folder at a time.

Files are ordered by relative path as a string. A folder sorts as its name with a slash, so that walking folder by
folder gives the order of a sort of all paths, for which tens of millions of names would be too many.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pyarrow.fs as pafs

from coevo_ray.errors import InputError
from coevo_ray.store.location import Location

_UNFINISHED = ".tmp-"  # in the names of files that Location has not finished writing


def walk(folder: Location) -> Iterator[str]:
    """Yields the relative paths of all files below a folder, sorted; follows links, skips unfinished files.

    Raises:
        InputError: a folder cannot be listed (circular links included), or a name is not UTF-8.
    """
    yield from _walk(folder, "")


def _walk(folder: Location, prefix: str) -> Iterator[str]:
    for name in _sorted_names(folder):
        if name.endswith("/"):
            yield from _walk(folder.child(name[:-1]), prefix + name)
        elif _UNFINISHED not in name:
            yield prefix + name


def _sorted_names(folder: Location) -> list[str]:
    """Returns the names in a folder; those of sub-folders end in a slash."""
    try:
        names = list(_local_names(folder) if folder.is_local else _remote_names(folder))
    except OSError as error:
        raise InputError(f"cannot list {folder}: {error}", "check the path and your permission to read it") from error
    names.sort()
    return names


def _local_names(folder: Location) -> Iterator[str]:
    # os.scandir reads only names and types; pyarrow would also query the size and time of each file.
    with os.scandir(folder.path) as entries:
        for entry in entries:
            if not (entry.name.isprintable() or _is_text(entry.name)):
                raise InputError(f"{folder} has a file whose name is not UTF-8: {entry.name!r}", "rename it")
            if entry.is_dir():
                yield entry.name + "/"
            elif entry.is_file():
                yield entry.name


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _remote_names(folder: Location) -> Iterator[str]:
    for info in folder.file_system.get_file_info(pafs.FileSelector(folder.path)):
        if info.type == pafs.FileType.Directory:
            yield info.base_name + "/"
        elif info.type == pafs.FileType.File:
            yield info.base_name
