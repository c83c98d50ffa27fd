"""Listing: all files below a folder in one fixed order, with memory for one folder at a time.

The order is that of the whole relative paths as strings. A folder counts as its name with a slash, so that walking
folder by folder gives the same order as sorting everything at once, which tens of millions of names would not allow.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pyarrow.fs as pafs

from coevo_ray.errors import InputError
from coevo_ray.store.location import Location

_UNFINISHED = ".tmp-"  # as Location writes files before they are whole


def walk(folder: Location) -> Iterator[str]:
    """Relative paths of all files below a folder, sorted, links followed; unfinished files are left out.

    Raises:
        InputError: a folder cannot be listed (links that go round in circles among them), or a name is not UTF-8.
    """
    yield from _walk(folder, "")


def _walk(folder: Location, prefix: str) -> Iterator[str]:
    for name in _sorted_names(folder):
        if name.endswith("/"):
            yield from _walk(folder.child(name[:-1]), prefix + name)
        elif _UNFINISHED not in name:
            yield prefix + name


def _sorted_names(folder: Location) -> list[str]:
    """Names in one folder; those of folders end in a slash."""
    try:
        names = list(_local_names(folder) if folder.is_local else _remote_names(folder))
    except OSError as error:
        raise InputError(f"cannot list {folder}: {error}", "check the path and your permission to read it") from error
    names.sort()
    return names


def _local_names(folder: Location) -> Iterator[str]:
    # os.scandir asks nothing about a file but its name and kind; pyarrow would also ask for size and time of each.
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
