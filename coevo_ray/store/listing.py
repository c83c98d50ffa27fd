"""Files of a folder with their sizes and times, for who looks at work from outside."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

import pyarrow.fs as pafs

from coevo_ray.store.failures import reading_failed
from coevo_ray.store.location import TEMPORARY, Location


@dataclass(frozen=True)
class FileFacts:
    """Size in bytes, and time of the last change, UTC."""

    size: int
    changed: datetime


def list_files(folder: Location) -> dict[str, FileFacts]:
    """Lists all files below a folder, leases among them, by their paths relative to it.

    Raises:
        InputError: the folder does not exist or cannot be listed.
        StoppedError: its store failed.
    """
    try:
        infos = folder.file_system.get_file_info(pafs.FileSelector(folder.path, recursive=True))
    except OSError as error:
        raise reading_failed(folder, error) from error
    skip = len(folder.path.rstrip("/")) + 1
    found = [info for info in infos if info.type == pafs.FileType.File and TEMPORARY not in info.path]
    return {info.path[skip:]: FileFacts(int(info.size), _in_utc(info.mtime)) for info in found}


def _in_utc(time: datetime | None) -> datetime:
    """The time that a store tells; the epoch where it tells none."""
    return datetime.fromtimestamp(0 if time is None else time.timestamp(), timezone.utc)
