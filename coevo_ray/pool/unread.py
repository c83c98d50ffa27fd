"""Files that no format reads, and what to do with them: archives, other tables, links to nothing, Git LFS pointers."""

from __future__ import annotations

from collections.abc import Iterable

from coevo_ray.errors import InputError
from coevo_ray.store.location import Location

LFS = "Git LFS pointer"
_LFS_START = b"version https://git-lfs.github.com/spec/"
_LFS_MOST = 1024  # bytes; the specification's limit
FETCH_LFS = "fetch the files themselves: git lfs pull"
FETCH_LINKED = "fetch the files that they name (git annex get, dvc pull), or copy the folder with its files: cp -rL"
_UNPACK = "unpack {}, and give the folder"
# Endings -> what to do with such files; {} stands for the endings.
_REMEDIES: tuple[tuple[tuple[str, ...], str], ...] = (
    ((".zip", ".7z", ".rar", ".bz2", ".xz", ".zst", ".lz4"), _UNPACK),
    ((".gz",), "unpack {} (gunzip; tars may stay .tar.gz)"),
    ((".json",), "write {} as JSON Lines, an object a line: jq -c '.[]' FILE.json > FILE.jsonl"),
    ((".arrow", ".feather"), "write {} as Parquet: datasets.load_from_disk(FOLDER).to_parquet(FILE)"),
    ((".npz", ".h5", ".hdf5", ".mat", ".pt", ".pth", ".pkl"), "write arrays of {} as .npy: numpy.save(FILE, array)"),
    ((".xlsx", ".xls", ".ods"), "save {} as CSV (UTF-8)"),
    ((".npy",), "make a pool of vectors of {} with format: npy (--format npy)"),
    ((".csv", ".tsv", ".jsonl", ".ndjson"), "name the column of texts of {} with text_column (--text-column)"),
    ((".txt",), "make a pool of texts of {} with format: texts (--format texts)"),
    ((".pdf", ".doc", ".docx", ".html", ".htm", ".epub", ".md", ".rst"), "save {} as plain texts: NAME.txt in UTF-8"),
)


def is_lfs_pointer(data: bytes) -> bool:
    """Tests whether a file's content is the pointer that Git LFS keeps in its place."""
    return len(data) <= _LFS_MOST and data.startswith(_LFS_START)


def refuse_lfs_pointer(place: Location) -> None:
    """Refuses a file of which only Git LFS's note is there; says nothing of files that cannot be read.

    Raises:
        InputError: it is such a note.
    """
    try:
        pointer = place.size() <= _LFS_MOST and is_lfs_pointer(place.read_bytes())
    except InputError:
        return
    if pointer:
        raise InputError(f"{place} is a {LFS}, not the file", FETCH_LFS)


def remedy_for_unread(endings: Iterable[str], links: int) -> str:
    """The remedy for a source in which nothing is read.

    Args:
        endings: of its files, in lower case.
        links: number of its links to nothing.

    Returns:
        What to do with them; empty where nothing is known of such files.
    """
    have, found = set(endings), [FETCH_LINKED] if links else []
    if ".npy" in have:
        have -= {".txt"}  # keys and labels of matrices
    for known, remedy in _REMEDIES:
        if these := sorted(have & set(known)):
            found.append(remedy.format(", ".join(these)))
    return "; ".join(found)
