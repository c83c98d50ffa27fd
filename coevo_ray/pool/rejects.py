"""Rejected rows: counted, listed with key, stage and reason, never silently dropped (docs/design.md#rejects)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from coevo_ray.errors import InputError
from coevo_ray.pool.unread import FETCH_LFS, LFS
from coevo_ray.store.data_files import write_table
from coevo_ray.store.digests import digest
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import MANIFEST, FileEntry, load_manifest

REJECTS = "rejects.parquet"
_PART = re.compile(r"rejects-\d{6,}\.parquet")


@dataclass(frozen=True)
class Reject:
    """A row that was left out.

    Attributes:
        key: the user's own id, or the row_id as text if the key is not available.
        stage: stage that rejected it ("ingest", "encode").
        reason: one line.
    """

    key: str
    stage: str
    reason: str


def count_reasons(rejects: Iterable[Reject]) -> dict[str, int]:
    """Counts rejected rows by kind of reason (the text before a colon or bracket), most common first."""
    return dict(Counter(_kind(r.reason) for r in rejects).most_common())


def commonest(rejects: list[Reject]) -> str:
    """Describes the three most common kinds of reasons, each with its first row, for messages."""
    first: dict[str, Reject] = {}
    for reject in rejects:
        first.setdefault(_kind(reject.reason), reject)
    counts = list(count_reasons(rejects).items())[:3]
    return "; ".join(f"{count} x {kind} (key {first[kind].key}: {first[kind].reason})" for kind, count in counts)


def _kind(reason: str) -> str:
    return reason.split(":")[0].split(" (")[0]


def check_share(rejects: list[Reject], rows: int, limit: float, what: str) -> None:
    """Ends the job when too many rows were rejected.

    Args:
        rejects: the rejected rows.
        rows: number of rows examined, rejected ones included.
        limit: `max_reject_fraction`.
        what: the artifact's location, for the message.

    Raises:
        InputError: the share is over the limit; the message has the most common reasons and first keys.
    """
    if rows == 0 or len(rejects) / rows <= limit:
        return
    raise InputError(
        f"{what}: {len(rejects)} of {rows} rows were rejected, more than max_reject_fraction {limit}: "
        f"{commonest(rejects)}",
        f"{remedy_for(rejects)}; or accept these rejects with a higher max_reject_fraction",
    )


_OR_LEFT_OUT = "; a column of feature_columns may also be left out"
# Beginning of a reason, as a pattern -> what helps; the first that fits.
_REMEDIES = (
    ("duplicate key", "if they are other samples, give their keys a --key-prefix; otherwise leave that source out"),
    ("duplicate content", "leave the second copies out, or set reject_duplicates: key"),
    ("HEIC image", "pip install 'coevo-ray[heif]', which reads them"),
    (LFS, FETCH_LFS),
    ("not an image", "take these files out of the source, or name the format or the column of images"),
    ("empty", "fetch these files again, or take them out"),
    ("truncated", "fetch these images again, or take them out"),
    ("too large", "scale these images down, or take them out"),
    (
        "only a path in column",
        "put the images' bytes into the column (datasets: embed_table_storage), or the files there",
    ),
    ("[0-9]+ images in column", "give one image per row: a list holds several"),
    ("no image bytes in column", "name the column of encoded images: --image-column; for texts --text-column"),
    ("text that is not UTF-8", "convert the files: iconv -f WINDOWS-1252 (or their encoding) -t UTF-8 FILE > NEW"),
    ("no text in column", "name the column of texts: --text-column"),
    ("no image among its files", "name the extension of images: --image-column; a key ends at a file name's first dot"),
    (r"[0-9]+ fields, the header names", "quote texts that hold the delimiter, or convert the file to Parquet"),
    ("no JSON", "write one JSON object a line: jq -c '.' FILE > NEW.jsonl, or '.[]' for an array"),
    (r"no file [.]", "name the extension of samples: --image-column or --text-column"),
    ("label outside the range", "raise or leave out classes, or fix the labels"),
    ("label", "fix the labels, name another --label-column, or null for none"),
    ("no key", "name another --key-column, or none"),
    ("no vector", f"fill the column{_OR_LEFT_OUT}"),
    ("wrong length in column", f"give vectors of one length{_OR_LEFT_OUT}"),
    (
        "values that are not finite",
        f"take out rows with NaN or infinity, and scale values that float32 does not hold (3.4e38){_OR_LEFT_OUT}",
    ),
    ("zero vector", "take these rows out: a vector of zeros has no direction, and often stands for a missing one"),
    ("unreadable file", "check the permissions, and that the source no longer changes"),
)


def remedy_for(rejects: list[Reject]) -> str:
    """The remedy for the commonest kind of rejects."""
    kind = next(iter(count_reasons(rejects)), "")
    return next((remedy for start, remedy in _REMEDIES if re.match(start, kind)), "fix the source")


def write_rejects(folder: Location, rejects: Iterable[Reject], part: int = 0) -> list[FileEntry]:
    """Writes the rejects table, ordered by stage and key; writes no file without rejects.

    Args:
        folder: the artifact's folder.
        rejects: the rejected rows.
        part: 0 for the initial ingest, n for the n-th append, or from `content_part`; each has its own file.

    Raises:
        StoppedError: the store refused.
    """
    rows = sorted(rejects, key=lambda r: (r.stage, r.key, r.reason))
    if not rows:
        return []
    columns = {name: [getattr(r, name) for r in rows] for name in ("key", "stage", "reason")}
    entry = write_table(folder, _name(part), pa.table(columns))
    return [FileEntry(entry.path, 0, entry.bytes, entry.sha256)]  # not counted among the artifact's own rows


def content_part(rejects: Iterable[Reject]) -> int:
    """A part for a file that is named after its content, so that it replaces no other file."""
    rows = sorted((r.stage, r.key, r.reason) for r in rejects)
    return int(digest(rows)[:12], 16)


def read_rejects(folder: Location) -> list[Reject]:
    """Reads the rejects of a finished artifact, in the order of its parts."""
    import pyarrow.parquet as pq

    if not folder.exists():
        return []
    names = {name for name in folder.files() if name == REJECTS or _PART.fullmatch(name)}
    if folder.child(MANIFEST).is_file():  # an append that was cut off may have left a part that does not count
        names &= {file.path for file in load_manifest(folder).files}
    files = [folder.child(name) for name in sorted(names, key=lambda name: (name != REJECTS, name))]
    tables = [pq.read_table(file.path, filesystem=file.file_system) for file in files]
    return [Reject(**row) for table in tables for row in table.to_pylist()]


def _name(part: int) -> str:
    return f"rejects-{part:06d}.parquet" if part else REJECTS
