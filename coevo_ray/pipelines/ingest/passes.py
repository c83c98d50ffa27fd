"""The passes of ingest over shards: cut, check, keys, write. Each runs as tasks of Ray Data.

The inputs of a task travel in its own row: a closure would carry the whole listing to every task.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from coevo_ray.config import PoolConfig
from coevo_ray.core.arrays import BoolArray, Int8Array, UInt64Array
from coevo_ray.errors import InputError
from coevo_ray.pool.duplicates import as_hashes, digest_of, hash_all
from coevo_ray.pool.entries import Entry, Reading, SourceShard
from coevo_ray.pool.modality import Modality, Sample, find_modality
from coevo_ray.pool.pool import pool_schema
from coevo_ray.pool.rejects import Reject
from coevo_ray.pool.sources import cut, read_keys, read_shard
from coevo_ray.runtime.resources import Need
from coevo_ray.runtime.shards import Row, run_each
from coevo_ray.store.digests import digest
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import FileEntry
from coevo_ray.store.parts import Parts

_GROUP_BYTES = 4 << 20
_BATCH_ROWS = 256


# -- cut -------------------------------------------------------------------------------------------------------------


def cut_shards(config: PoolConfig, shards: list[SourceShard]) -> list[SourceShard]:
    """Replaces each tar and each table of lines by its parts; several are cut in tasks, a single one on the driver."""
    todo = [i for i, shard in enumerate(shards) if shard.rows < 0]
    rows = config.shard_rows

    def task(row: Row) -> Row:
        return {"rows": 1, "shard": row["shard"], "result": pickle.dumps(cut(pickle.loads(row["part"]), rows))}

    cuts: dict[int, list[SourceShard]] = {}
    if len(todo) == 1:
        cuts[todo[0]] = cut(shards[todo[0]], rows)
    else:
        parts = [(i, pickle.dumps(shards[i])) for i in todo]
        for row in _run(config, "look through files", parts, task, len(todo), unit="files"):
            cuts[row["shard"]] = pickle.loads(row["result"])
    return [part for i, shard in enumerate(shards) for part in cuts.get(i, [shard])]


# -- check -----------------------------------------------------------------------------------------------------------


@dataclass
class Checked:
    """Findings of the first pass in a shard: 17 bytes per row, 33 with content hashes.

    Attributes:
        shard: its index.
        usable: bool[n].
        keys: uint64[n, 2], hashes of the keys.
        contents: uint64[n, 2], hashes of bytes or texts; uint64[0, 2] where they are not compared.
        rejects: the entries that cannot be used.
        texts: labels that are texts, each once, of sources without class names.
        has_numbers: whether such a source has labels that are numbers.
        digest: of all entries' keys, samples and labels, in order.
        known: bool[n], entries that the pool has already; None where nobody asked.
    """

    shard: int
    usable: BoolArray
    keys: UInt64Array
    contents: UInt64Array
    rejects: list[Reject]
    texts: set[str] = field(default_factory=set)
    has_numbers: bool = False
    digest: str = ""
    known: BoolArray | None = None

    @property
    def new(self) -> int:
        """Number of its entries that the pool does not have."""
        return len(self.usable) - (0 if self.known is None else int(self.known.sum()))


def check_shards(config: PoolConfig, shards: list[SourceShard]) -> list[Checked]:
    """Reads and decodes every entry; finds truncated images."""

    def task(row: Row) -> Row:
        found = check_shard(row["shard"], pickle.loads(row["part"]), config)
        return {"rows": len(found.usable), "rejected": len(found.rejects), "result": pickle.dumps(found)}

    total = None if any(s.rows < 0 for s in shards) else sum(s.rows for s in shards)
    parts = [(i, pickle.dumps(shard)) for i, shard in enumerate(shards)]
    rows = _run(config, "check samples", parts, task, total)
    return sorted((pickle.loads(row["result"]) for row in rows), key=lambda c: c.shard)


def check_shard(index: int, shard: SourceShard, config: PoolConfig) -> Checked:
    """Checks one shard."""
    by_content = config.reject_duplicates == "content"
    modality = find_modality(shard.reading.modality)
    usable, keys, contents, rejects = [], [], [], []
    texts, has_numbers, whole = set[str](), False, hashlib.blake2b(digest_size=16)
    for entry in read_shard(shard):
        reason = entry.error or _problem(entry, modality, config)
        if reason:
            rejects.append(Reject(entry.key, "ingest", reason))
        elif not shard.reading.names:
            texts.add(entry.text)
            has_numbers |= entry.label is not None and not entry.text
        usable.append(not reason)
        keys.append(digest_of(entry.key.encode()))
        content = digest_of(entry.content)
        if by_content:
            contents.append(content)
        whole.update(keys[-1] + content + f"{entry.label} {entry.text}".encode())
        for vector in entry.features:
            whole.update(vector.tobytes())
    hashes = as_hashes(b"".join(keys)), as_hashes(b"".join(contents))
    return Checked(index, np.array(usable, bool), *hashes, rejects, texts - {""}, has_numbers, whole.hexdigest())


def _problem(entry: Entry, modality: Modality, config: PoolConfig) -> str:
    classes = config.classes
    if entry.label is not None and (entry.label < 0 or (classes is not None and entry.label >= classes)):
        return f"label outside the range: {entry.label}, need {f'0..{classes - 1}' if classes else '0 or more'}"
    if not config.verify or entry.sample is None:  # an entry without an error has a sample
        return ""
    return modality.verify(entry.sample)


# -- keys ------------------------------------------------------------------------------------------------------------


def keys_at(config: PoolConfig, shards: list[SourceShard], wanted: dict[int, list[int]]) -> dict[tuple[int, int], str]:
    """The keys of some entries: (shard, position in it) -> key. Only keys are read."""

    def task(row: Row) -> Row:
        shard, positions = pickle.loads(row["part"])
        keys = list(read_keys(shard))
        return {"rows": len(positions), "shard": row["shard"], "keys": [keys[i] for i in positions]}

    parts = [(i, pickle.dumps((shards[i], wanted[i]))) for i in sorted(wanted)]
    total = sum(map(len, wanted.values()))
    result = {}
    for row in _run(config, "name duplicates", parts, task, total):
        result.update({(row["shard"], i): key for i, key in zip(wanted[row["shard"]], row["keys"], strict=True)})
    return result


def keys_of(config: PoolConfig, shards: dict[int, SourceShard]) -> dict[int, UInt64Array]:
    """Hashes of all keys of some shards: index -> uint64[n, 2]. Only keys are read."""

    def task(row: Row) -> Row:
        keys = hash_all(key.encode() for key in read_keys(pickle.loads(row["part"])))
        return {"rows": len(keys), "shard": row["shard"], "keys": keys.tobytes()}

    parts = [(i, pickle.dumps(shard)) for i, shard in shards.items()]
    total = None if any(shard.rows < 0 for shard in shards.values()) else sum(s.rows for s in shards.values())
    rows = _run(config, "look for new samples", parts, task, total)
    return {row["shard"]: as_hashes(row["keys"]) for row in rows}


@dataclass(frozen=True)
class EarlierHashes:
    """Hashes of the rows of a pool, file by file.

    Attributes:
        keys: uint64[n_i, 2] for each file.
        contents: the same of bytes or texts; uint64[0, 2] where they are not compared.
    """

    keys: list[UInt64Array]
    contents: list[UInt64Array]


def hashes_of_pool(config: PoolConfig, location: Location, files: Sequence[FileEntry]) -> EarlierHashes:
    """Reads the hashes of a pool's rows; images are not read.

    Args:
        config: the pool's settings.
        location: the pool.
        files: its files of rows; nothing is started without any.
    """
    by_content = config.reject_duplicates == "content"

    def task(row: Row) -> Row:
        place = location.child(row["part"].decode())
        with pq.ParquetFile(place.path, filesystem=place.file_system) as file:
            table = file.read(columns=["key", "content"] if by_content else ["key"])
        keys = hash_all(key.encode() for key in table.column("key").to_pylist())
        contents = as_hashes(b"".join(table.column("content").to_pylist()) if by_content else b"")
        return {"rows": table.num_rows, "shard": row["shard"], "result": pickle.dumps((keys, contents))}

    found: dict[int, tuple[UInt64Array, UInt64Array]] = {}
    parts = [(i, file.path.encode()) for i, file in enumerate(files)]
    total = sum(file.rows for file in files)
    for row in _run(config, "read earlier keys", parts, task, total):
        found[row["shard"]] = pickle.loads(row["result"])
    return EarlierHashes([found[i][0] for i in range(len(files))], [found[i][1] for i in range(len(files))])


# -- write -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """A finished file.

    Attributes:
        file: its description.
        counts: label -> rows that have it.
    """

    file: FileEntry
    counts: dict[int, int]

    @property
    def largest_label(self) -> int:
        """The largest label in it; -1 without any."""
        return max(self.counts, default=-1)

    @property
    def labelled(self) -> int:
        """Rows that have a label."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class Rows:
    """A shard's rows of the pool.

    Attributes:
        name: of their file.
        usable: bool[entries of the shard].
        first_row_id: of the first.
        splits: int8[rows], 0 train, 1 test.
        entries: digest of the shard's entries (`Checked.digest`).
    """

    name: str
    usable: BoolArray
    first_row_id: int
    splits: Int8Array
    entries: str

    def digest(self, reading: Reading) -> str:
        """A digest of all that determines the file's content, but for the pool's settings."""
        arrays = [np.packbits(self.usable).tobytes().hex(), self.splits.tobytes().hex()]
        return digest([self.entries, self.first_row_id, *arrays, reading.names, reading.recode, reading.by_name])


def write_shards(
    config: PoolConfig, location: Location, shards: list[SourceShard], rows: dict[int, Rows]
) -> list[Written]:
    """Writes one file per shard; files of an interrupted attempt are kept where they were made of the same entries."""
    there = set(location.files())

    def task(row: Row) -> Row:
        shard, part, begun = pickle.loads(row["part"])
        # Files of entries that changed since the interrupted attempt, and files of others, are written again.
        written = (_described(location, shard, part) if begun else None) or write_shard(config, location, shard, part)
        return {"rows": written.file.rows, "result": pickle.dumps(written)}

    parts = [(i, pickle.dumps((shards[i], part, part.name in there))) for i, part in rows.items()]
    total = sum(len(part.splits) for part in rows.values())
    results = _run(config, "write pool", parts, task, total)
    return sorted((pickle.loads(row["result"]) for row in results), key=lambda w: w.file.path)


def write_shard(config: PoolConfig, location: Location, shard: SourceShard, rows: Rows) -> Written:
    """Writes the file of one shard."""
    reading = shard.reading
    schema = pool_schema(reading.modality, dict(reading.features), config.reject_duplicates == "content")
    batches, batch, position = [], [], 0
    for entry in _usable(shard, rows):
        batch.append(entry)
        if len(batch) == _BATCH_ROWS:  # converted to Arrow in batches, so that few bytes exist twice
            batches.append(_batch(config, batch, reading.modality, schema, rows, position))
            position, batch = position + len(batch), []
    batches.append(_batch(config, batch, reading.modality, schema, rows, position))
    table = pa.Table.from_batches(batches, schema)
    mean_bytes = max(1, table.column(reading.modality).nbytes // max(1, table.num_rows))
    group = int(np.clip(_GROUP_BYTES // mean_bytes, 16, 512))
    file = Parts(location, rows.digest(reading)).write_table(rows.name, table, group_rows=group)
    return Written(file, _count_labels(table))


def _usable(shard: SourceShard, rows: Rows) -> Iterator[Entry]:
    count = 0
    for count, entry in enumerate(read_shard(shard), 1):
        if count <= len(rows.usable) and rows.usable[count - 1]:
            if entry.error:
                raise InputError(
                    f"{entry.key} changed while it was ingested: {entry.error}",
                    "run it again when the source no longer changes",
                )
            yield entry
    if count != len(rows.usable):
        raise InputError(
            f"{shard.files[0]} of {shard.reading.uri} changed while it was ingested: "
            f"{count} entries, {len(rows.usable)} before",
            "run it again when the source no longer changes",
        )


def _batch(
    config: PoolConfig, entries: list[Entry], modality: str, schema: pa.Schema, rows: Rows, start: int
) -> pa.RecordBatch:
    low, high = rows.first_row_id + start, rows.first_row_id + start + len(entries)
    columns: dict[str, object] = {
        "row_id": pa.array(np.arange(low, high)),
        "key": [e.key for e in entries],
        "label": [e.label for e in entries],
        "split": pa.array(rows.splits[start : start + len(entries)]),
    }
    if find_modality(modality).type is not None:  # else it is the first of the vectors
        columns[modality] = [_limited(e.sample, modality, config.max_side) for e in entries]
    if "content" in schema.names:
        columns["content"] = [digest_of(e.content) for e in entries]
    for place, name in enumerate(n for n in schema.names if pa.types.is_fixed_size_list(schema.field(n).type)):
        kind = schema.field(name).type
        matrix = np.concatenate([e.features[place] for e in entries] or [np.zeros(0, np.float32)])
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(matrix), kind.list_size).cast(kind)
    arrays = [
        column if isinstance(column := columns[name], pa.Array) else pa.array(column, schema.field(name).type)
        for name in schema.names
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _limited(sample: Sample | None, modality: str, max_side: int | None) -> Sample | None:
    limit = find_modality(modality).limit_side
    return sample if sample is None or max_side is None or limit is None else limit(sample, max_side)


def _described(location: Location, shard: SourceShard, part: Rows) -> Written | None:
    """A file of an earlier attempt; None where it was made of other entries than are wanted now, or is damaged."""
    found = Parts(location, part.digest(shard.reading)).table(part.name)
    return None if found is None else Written(found[1], _count_labels(found[0]))


def _count_labels(table: pa.Table) -> dict[int, int]:
    labels, counts = np.unique(table.column("label").drop_null().to_numpy(), return_counts=True)
    return dict(zip(labels.tolist(), counts.tolist(), strict=True))


def _run(
    config: PoolConfig,
    title: str,
    parts: list[tuple[int, bytes]],
    task: Callable[[Row], Row],
    total: int | None,
    unit: str = "rows",
) -> Iterator[Row]:
    """Runs one Ray task for each (shard, part); see `run_shards`."""
    need = Need("reading task", config.compute.reader_cpus)
    items = [{"shard": shard, "part": part} for shard, part in parts]
    return run_each(title, items, task, need=need, total=total, unit=unit)
