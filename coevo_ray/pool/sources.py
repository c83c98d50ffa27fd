"""Sources: the registry of their formats, and how they are cut into shards that do not depend on parallelism.

Listing a source reads names, footers and headers only; workers read the content shard by shard. The driver keeps a few
compressed bytes per file name of an image folder.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from coevo_ray.config import Source
from coevo_ray.core.arrays import UInt64Array
from coevo_ray.errors import CoevoError, InputError, UsageError
from coevo_ray.pool.entries import Entry, Format, FoundFiles, ListedSource, Reading, SourceShard
from coevo_ray.pool.image_folder import IMAGES
from coevo_ray.pool.line_tables import CSV, JSONL
from coevo_ray.pool.listing import (
    ARTIFACTS,
    DEVICES,
    HIDDEN,
    LINKS,
    PassedOver,
    artifact_kind,
    is_of_the_system,
    walk_data,
)
from coevo_ray.pool.npy_source import NPY
from coevo_ray.pool.parquet_source import HUGGINGFACE, PARQUET
from coevo_ray.pool.tar_source import WEBDATASET
from coevo_ray.pool.text_folder import TEXTS
from coevo_ray.pool.unread import FETCH_LINKED, refuse_lfs_pointer, remedy_for_unread
from coevo_ray.store.location import Location

__all__ = [
    "DATASET",
    "FORMATS",
    "Entry",
    "ListedSource",
    "SourceFiles",
    "SourceShard",
    "check_source",
    "cut",
    "distinguish",
    "find_files",
    "list_source",
    "placed",
    "read_keys",
    "read_shard",
    "same_classes",
]

# In the order in which `auto` prefers them.
_ALL = (IMAGES, PARQUET, HUGGINGFACE, WEBDATASET, NPY, CSV, JSONL, TEXTS)
FORMATS: dict[str, Format] = {made.name: made for made in _ALL}
_LOOKED_AT = 3  # files of a source that cannot be read, to find out why
DATASET = "dataset:"  # stands for a Ray Dataset that is handed over in Python


def placed(source: Source, known: Collection[str] = ()) -> Source:
    """The source with an absolute path, which means the same in every process and working directory.

    Args:
        source: as the user gave it.
        known: paths that stay as they are: pools of version 0.1.0 have those that were given.
    """
    from coevo_ray.pool.samples import SCHEME

    if source.uri in known or source.uri.startswith((SCHEME, DATASET)):
        return source
    return Source(**{**source.model_dump(exclude_unset=True), "uri": Location.parse(source.uri).uri})


def list_source(source: Source, shard_rows: int) -> ListedSource:
    """Cuts a source into shards of at most `shard_rows` entries; tars, CSV and JSON Lines are left whole for `cut`.

    Raises:
        InputError: the path does not exist, or holds nothing of the wanted format; a column is missing.
        UsageError: the store cannot be opened, a setting does not fit the format, or folders allow two readings.
    """
    files = find_files(source, shard_rows)
    _refuse_artifact(files)
    source = source.model_copy(update={"uri": files.found.uri})  # workers are started elsewhere
    try:
        shards = files.chosen.shards(source, files.found, shard_rows)
    except (InputError, UsageError) as error:
        raise _explained(error, files) from None
    left_out = {**files.passed.counts, **files.endings}
    return ListedSource(shards, files.found.count, left_out, [*files.found.said, *_in_words(files)])


@dataclass(frozen=True)
class SourceFiles:
    """The files of a source, by name alone.

    Attributes:
        chosen: the format that reads them.
        found: those that it reads.
        passed: hidden names and artifacts.
        endings: ending -> files that are not read; a file without one counts as "no ending".
    """

    chosen: Format
    found: FoundFiles
    passed: PassedOver
    endings: Counter[str]


def find_files(source: Source, shard_rows: int) -> SourceFiles:
    """Scans the names of a source once; each file goes to the first format that holds it.

    Raises:
        InputError: the path does not exist, or a folder cannot be listed.
        UsageError: the store cannot be opened.
    """
    location = Location.parse(source.uri)
    if not location.exists():
        raise InputError(f"source {source.uri} does not exist", "check the path (relative ones start where you are)")
    considered = [FORMATS[source.format]] if source.format != "auto" else [*FORMATS.values()]
    found = {made.name: FoundFiles(location.uri, location, shard_rows) for made in considered}
    passed, endings, seen = PassedOver(), Counter[str](), 0
    taking = [made for made in considered if made.takes(source)]
    for name in [location.name] if location.is_file() else walk_data(location, passed):
        seen += 1
        holder = next((made for made in taking if made.holds(name)), None)
        if holder is not None:
            found[holder.name].add(name)
            found[holder.name].guessed += holder.guesses(name)
            continue
        describing = next((made for made in taking if made.describes(name)), None)
        if describing is not None:
            found[describing.name].metadata.append(name)
        else:
            endings[_ending(name)] += 1
    for files in found.values():
        files.close()
        files.seen = seen
    # A source without a file of any format gets the error of the first one.
    sure = (made for made in considered if found[made.name].count > found[made.name].guessed)
    chosen = next(sure, None) or next((made for made in considered if found[made.name].runs), considered[0])
    for name in (n for made in considered if made is not chosen for n in _all_names(found[made.name])):
        if chosen.describes(name):  # a table that images do not need, but may have
            found[chosen.name].metadata.append(name)
        else:
            endings[_ending(name)] += 1
    return SourceFiles(chosen, found[chosen.name], passed, endings)


def _refuse_artifact(files: SourceFiles) -> None:
    """Refuses the tables of an artifact, of which class names, keys and splits would be lost."""
    location = files.found.location
    kind = artifact_kind(location) if files.chosen is PARQUET and files.found.count and location.is_folder() else ""
    if kind:
        raise UsageError(
            f"source {files.found.uri} is a folder of coevo-ray ({kind}), and no source",
            "give the sources that it was made of; commands take a pool as it is, and coevo-ray retrieve --copy-to "
            "copies samples of one to files that ingest reads; where --out is the source itself, choose another folder",
        )


def _all_names(files: FoundFiles) -> list[str]:
    return [*files.names, *files.metadata]


def _explained(error: CoevoError, files: SourceFiles) -> CoevoError:
    """The error of a format that found nothing of its own, with what can be done with the files that are there."""
    found = files.found
    if found.count:
        for name in islice(found.names, _LOOKED_AT):
            refuse_lfs_pointer(found.location if found.location.is_file() else found.location.child(name))
        return error
    remedy = remedy_for_unread(files.endings, files.passed.counts[LINKS])
    if not remedy:
        return error
    counts = files.passed.counts[LINKS]
    there = [*([f"{counts} x {LINKS}"] if counts else []), *_counted(files.endings)]
    return type(error)(f"{error.cause}; it has {', '.join(there)}", remedy)


def _counted(endings: Counter[str]) -> list[str]:
    return [f"{count} x {ending}" for ending, count in endings.most_common(8)]


def _ending(name: str) -> str:
    base = name.rpartition("/")[2].lower()
    return "." + base.rpartition(".")[2] if "." in base else "no ending"


def _in_words(files: SourceFiles) -> list[str]:
    """Lists what was left out, a line each, but for what operating systems leave behind."""
    passed, said = files.passed, []
    if passed.counts[ARTIFACTS]:
        said.append(f"passed over {passed.counts[ARTIFACTS]} artifacts of coevo-ray (first: {passed.first[ARTIFACTS]})")
    hidden = passed.first.get(HIDDEN, "").rstrip("/").rpartition("/")[2]
    if hidden and not is_of_the_system(hidden):
        count = passed.counts[HIDDEN]
        said.append(f"passed over {count} files and folders with hidden names (first: {passed.first[HIDDEN]})")
    if passed.counts[LINKS]:
        said.append(f"passed over {passed.counts[LINKS]} {LINKS} (first: {passed.first[LINKS]}): {FETCH_LINKED}")
    if passed.counts[DEVICES]:
        said.append(f"passed over {passed.counts[DEVICES]} {DEVICES} (first: {passed.first[DEVICES]})")
    if files.endings:
        said.append(f"files that are not read: {', '.join(_counted(files.endings))}")
    return said


def cut(shard: SourceShard, shard_rows: int) -> list[SourceShard]:
    """Cuts a shard that `list_source` left whole; returns other shards unchanged.

    Raises:
        InputError: a tar is damaged or cut off.
    """
    return FORMATS[shard.reading.format].cut(shard, shard_rows) if shard.rows < 0 else [shard]


def read_shard(shard: SourceShard) -> Iterator[Entry]:
    """Yields the entries of a shard, in order; unreadable files become entries with an error.

    Raises:
        InputError: a Parquet file, one of its columns' types, or a tar cannot be read.
    """
    return FORMATS[shard.reading.format].read(shard)


def read_keys(shard: SourceShard) -> Iterator[str]:
    """Yields the keys of a shard's entries, in order, without reading images, texts or vectors.

    Raises:
        InputError: as for `read_shard`.
    """
    return FORMATS[shard.reading.format].read_keys(shard)


def distinguish(sources: list[list[SourceShard]]) -> list[SourceShard]:
    """Joins the shards of several sources; keys get a prefix if file names occur in more than one source.

    The prefix is the shortest tail of the sources' paths that differs: `train/cat/1.png`, `test/cat/1.png`. Sources
    with a prefix of their own or with the user's keys are left unchanged.
    """
    clashing = [i for i, shards in enumerate(sources) if shards and _named_by_file(shards[0].reading)]
    if len(clashing) < 2 or not _overlap([sources[i] for i in clashing]):
        return [shard for shards in sources for shard in shards]
    paths = {i: _folder_parts(sources[i]) for i in clashing}
    deepest = max((len(parts) for parts in paths.values()), default=0)
    # A source given twice keeps equal keys: ingest rejects the second occurrence.
    distinct = len(set(map(tuple, paths.values())))
    tails = range(1, deepest)
    depth = next((d for d in tails if len({tuple(p[-d:]) for p in paths.values()}) == distinct), deepest)
    result = []
    for i, shards in enumerate(sources):
        prefix = "".join(f"{part}/" for part in paths[i][-depth:]) if i in paths else None
        result += shards if prefix is None else with_reading(shards, prefix=prefix)
    return result


def same_classes(
    sources: list[list[SourceShard]], known: tuple[str, ...] = ()
) -> tuple[list[list[SourceShard]], tuple[str, ...]]:
    """Numbers the classes of all sources as the source with most classes does; sources may lack some.

    Args:
        sources: the shards of each source.
        known: fixed class names, those of a pool that is appended to; empty to choose.

    Returns:
        The sources with common labels, and the class names.

    Raises:
        InputError: a source has a class that is not among them.
    """
    own = [shards[0].classes if shards else () for shards in sources]
    names = known or max(own, key=len, default=())
    result = []
    for shards, classes in zip(sources, own, strict=True):
        only = sorted(set(classes) - set(names))
        if only:
            raise InputError(
                f"{'the pool has' if known else 'sources have'} different classes: {only[:4]} are not among "
                f"{list(names)[:8]}",
                "give one source all class sub-folders, with an image in each, or use Parquet with labels"
                if not known
                else "a pool's classes are fixed: make a new pool of all sources",
            )
        recode = tuple(names.index(name) for name in classes) if classes != names else ()
        result.append(with_reading(shards, recode=recode))
    return result, names


def with_reading(shards: list[SourceShard], **changes: object) -> list[SourceShard]:
    """Returns the shards of one source with a changed, shared `Reading`."""
    if not shards:
        return []
    # `changes` holds fields of the reading by name, whose types differ.
    reading = replace(shards[0].reading, **changes)  # type: ignore[arg-type]
    return [replace(shard, reading=reading) for shard in shards]


def _named_by_file(reading: Reading) -> bool:
    return not reading.prefix and reading.key_column is None


def _overlap(sources: list[list[SourceShard]]) -> bool:
    """Tests whether a file name occurs in more than one source; by hash, since there may be millions."""
    hashes = [np.unique(np.concatenate([_name_hashes(shard) for shard in shards])) for shards in sources]
    together = np.sort(np.concatenate(hashes))
    return bool((together[1:] == together[:-1]).any())


def _name_hashes(shard: SourceShard) -> UInt64Array:
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in dict.fromkeys(shard.files))
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def _folder_parts(shards: list[SourceShard]) -> list[str]:
    location = Location.parse(shards[0].reading.uri)
    parts = location.path.strip("/").split("/")
    return parts[:-1] if location.is_file() else parts


def check_source(source: Source) -> None:
    """Checks that a source exists; cheap, done before any work.

    Raises:
        InputError: the source does not exist.
        UsageError: the sample is unknown, lacks its package or holds other samples, the store cannot be opened, or a
            dataset was named but not passed.
    """
    from coevo_ray.pool.samples import SCHEME, check_sample

    if source.uri.startswith(SCHEME):
        check_sample(source)
    elif source.uri.startswith(DATASET):
        raise UsageError(
            f"source {source.uri} refers to a Ray Dataset", "call coevo_ray.ingest(config, out, dataset=...) in Python"
        )
    elif not Location.parse(source.uri).exists():
        raise InputError(f"source {source.uri} does not exist", "check the path (relative ones start where you are)")
