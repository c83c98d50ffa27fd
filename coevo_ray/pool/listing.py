"""Listing of all files below a folder, in a fixed order, with memory for one folder at a time.

Files are ordered by relative path as a string. A folder sorts as its name with a slash, so that walking folder by
folder gives the order of a sort of all paths, for which tens of millions of names would be too many.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import pyarrow.fs as pafs

from coevo_ray.errors import InputError
from coevo_ray.store.failures import is_of_a_store, reading_failed
from coevo_ray.store.location import Location

_UNFINISHED = ".tmp-"  # in the names of files that Location has not finished writing
HIDDEN, ARTIFACTS = "hidden", "artifacts of coevo-ray"
LINKS, DEVICES = "links to nothing", "pipes and devices"
_SYSTEM = {".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}  # of Windows and macOS, in lower case
# Cameras name photographs in Adobe's colour space `_DSC0001.JPG`, `_MG_1234.CR2`: they are no hidden files.
_PHOTOGRAPH = re.compile(r"_[A-Z0-9]{2,4}_?[0-9]{4,}[.]")
_MANIFESTS = frozenset({"manifest.json", "_started.json"})
_OF_AN_ARTIFACT = {"kind", "config", "inputs"}
_SHOWN = 40


@dataclass
class PassedOver:
    """Files and folders that a listing left out because they are no data.

    Attributes:
        counts: reason -> how many: files and folders with hidden names, folders that are artifacts of this package,
            links to files that are not there, pipes and devices.
        first: reason -> the first of them.
    """

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        """Counts a file or folder."""
        self.counts[reason] += 1
        self.first.setdefault(reason, name)


def walk(folder: Location) -> Iterator[str]:
    """Yields the relative paths of all files below a folder, sorted; follows links, skips unfinished files.

    Raises:
        InputError: a folder cannot be listed (circular links included), or a name is not UTF-8.
    """
    yield from _walk(folder, "", None)


def walk_data(folder: Location, passed: PassedOver) -> Iterator[str]:
    """As `walk`, without what is no data: hidden names, and folders that are artifacts of this package.

    Links to files that are not there, pipes and devices, of which there is nothing to read, are counted.

    Hidden are names that begin with a dot or an underscore (checkpoints of notebooks, logs of Delta and Spark, what
    macOS puts beside files, but not the photographs that cameras name `_DSC0001.JPG`), and files of the system.

    Args:
        folder: taken as it is, whatever its own name.
        passed: counts what is left out.

    Raises:
        InputError: as in `walk`.
    """
    yield from _walk(folder, "", passed)


def _walk(folder: Location, prefix: str, passed: PassedOver | None) -> Iterator[str]:
    names, others = _sorted_names(folder)
    if passed is not None and prefix and artifact_kind(folder, names):
        passed.add(ARTIFACTS, prefix)
        return
    if passed is not None:
        for name, reason in others:
            passed.add(HIDDEN if is_hidden(name) else reason, prefix + name)
    for name in names:
        if passed is not None and is_hidden(name):
            passed.add(HIDDEN, prefix + name)
        elif name.endswith("/"):
            yield from _walk(folder.child(name[:-1]), prefix + name, passed)
        elif _UNFINISHED not in name:
            yield prefix + name


def is_hidden(name: str) -> bool:
    """Tests whether a file or folder of this name is never data."""
    if name[0] == "_":
        return _PHOTOGRAPH.match(name) is None
    return name[0] == "." or is_of_the_system(name)


def is_of_the_system(name: str) -> bool:
    """Tests whether an operating system leaves files or folders of this name (without a slash) among data."""
    return name.lower() in _SYSTEM or name.startswith(("._", "__MACOSX"))


def artifact_kind(folder: Location, names: Collection[str] = _MANIFESTS) -> str:
    """The kind of the finished or begun artifact that a folder holds, by what its manifest says; empty for others.

    Args:
        folder: the folder.
        names: of its files.
    """
    for name in _MANIFESTS.intersection(names):
        try:
            content = folder.child(name).read_json()
        except InputError:
            continue
        if isinstance(content, dict) and content.keys() >= _OF_AN_ARTIFACT:
            return str(content["kind"])[:_SHOWN]
    return ""


def _sorted_names(folder: Location) -> tuple[list[str], list[tuple[str, str]]]:
    """Returns the names in a folder, those of sub-folders with a slash; and what is neither, with the reason."""
    others: list[tuple[str, str]] = []
    try:
        names = list(_local_names(folder, others) if folder.is_local else _remote_names(folder))
    except OSError as error:
        if is_of_a_store(error):
            raise reading_failed(folder, error) from error
        raise InputError(f"cannot list {folder}: {error}", "check the path and your permission to read it") from error
    names.sort()
    return names, sorted(others)


def _local_names(folder: Location, others: list[tuple[str, str]]) -> Iterator[str]:
    # os.scandir reads only names and types; pyarrow would also query the size and time of each file.
    with os.scandir(folder.path) as entries:
        for entry in entries:
            if not (entry.name.isprintable() or _is_text(entry.name)):
                raise InputError(f"{folder} has a file whose name is not UTF-8: {entry.name!r}", "rename it")
            if entry.is_dir():
                yield entry.name + "/"
            elif entry.is_file():
                yield entry.name
            else:
                others.append((entry.name, LINKS if entry.is_symlink() else DEVICES))


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
