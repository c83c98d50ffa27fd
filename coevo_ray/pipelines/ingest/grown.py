"""Sources that have grown since the pool was made: noticed by the number of files, and appended by their new keys."""

from __future__ import annotations

import dataclasses

import numpy as np

from coevo_ray.config import PoolConfig, Source
from coevo_ray.core.arrays import BoolArray, UInt64Array
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import CoevoError, UsageError
from coevo_ray.pipelines.ingest.append import Earlier
from coevo_ray.pipelines.ingest.passes import Checked, EarlierHashes, keys_of
from coevo_ray.pool.duplicates import among, hash_all
from coevo_ray.pool.entries import SourceShard, pack_names, pack_values, unpack_values
from coevo_ray.pool.image_folder import IMAGES
from coevo_ray.pool.samples import SCHEME
from coevo_ray.pool.sources import DATASET, distinguish, find_files, with_reading
from coevo_ray.pool.text_folder import TEXTS
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import Manifest

FILES = "source_files"  # in a pool's summary: URI of a source -> files of it that were read, and prefix of their keys

_FILES_ARE_SAMPLES = (IMAGES.name, TEXTS.name)


def growth(manifest: Manifest) -> list[str]:
    """Finds local sources of a finished pool whose number of files has changed; only names are read.

    A store is not listed for this: it may take minutes.
    """
    said = []
    counts: JsonObject = manifest.summary.get(FILES, {})
    for settings in manifest.config["sources"]:
        uri, before = settings["uri"], counts.get(settings["uri"], {}).get("files")
        if before is None or uri.startswith((SCHEME, DATASET)):
            continue
        try:
            if not Location.parse(uri).is_local:
                continue
            now = find_files(Source.model_validate(settings), manifest.config.get("shard_rows", 4096)).found.count
        except CoevoError:  # a finished pool does not need its source any more
            continue
        if now > before:
            said.append(f"{uri} has {now - before} files more than when the pool was made: --append takes them")
        elif now < before:
            said.append(f"{uri} has {before - now} files fewer than when the pool was made: the pool keeps their rows")
    return said


def told_apart(config: PoolConfig, earlier: Earlier, sources: list[list[SourceShard]]) -> list[SourceShard]:
    """Joins the shards of sources; those that the pool has get the prefix that their keys have there.

    Raises:
        UsageError: the pool does not say which prefix that is.
    """
    again, new = [], []
    counts: JsonObject = earlier.summary.get(FILES, {})
    for source, shards in zip(config.sources, sources, strict=True):
        if source.uri not in earlier.again:
            new.append(shards)
        elif source.uri in counts:
            again += with_reading(shards, prefix=counts[source.uri]["prefix"])
        elif earlier.alone(source.uri):
            again += shards
        else:
            raise UsageError(
                f"{source.uri} is in the pool, made by a version that did not record how its keys are distinguished",
                "append a folder with only the new files",
            )
    return [*again, *distinguish(new)]


@dataclasses.dataclass
class Known:
    """Rows that a pool has, by which the new ones of a source are told.

    Attributes:
        keys: uint64[N, 2], hashes of the pool's keys.
        met: entries of the sources that are in the pool.
    """

    keys: UInt64Array
    met: int = 0

    @classmethod
    def of(cls, earlier: EarlierHashes) -> Known:
        """The rows whose hashes these are."""
        return cls(np.concatenate([*earlier.keys, np.zeros((0, 2), np.uint64)]))

    def only_new(self, config: PoolConfig, shards: list[SourceShard]) -> list[SourceShard]:
        """Leaves out shards whose samples are all there, and of folders of files each file that is."""
        result = []
        others = {i: shard for i, shard in enumerate(shards) if shard.reading.format not in _FILES_ARE_SAMPLES}
        there = {i: among(keys, self.keys) for i, keys in keys_of(config, others).items()}
        for i, shard in enumerate(shards):
            if i not in there:
                new = self._new_files(shard)
                result += [new] if new is not None else []
            elif there[i].all():
                self.met += len(there[i])
            else:
                result.append(shard)
        return result

    def forget(self, checked: list[Checked]) -> None:
        """Takes entries that the pool has out of what was checked: they are neither usable nor rejects."""
        for found in checked:
            there = among(found.keys, self.keys)
            self.met += int(there.sum())
            found.usable &= ~there
            found.known = there
            keys = hash_all(reject.key.encode() for reject in found.rejects)
            rejects = zip(found.rejects, among(keys, self.keys).tolist(), strict=True)
            found.rejects = [reject for reject, is_there in rejects if not is_there]

    def _new_files(self, shard: SourceShard) -> SourceShard | None:
        names = shard.files
        new: BoolArray = ~among(hash_all((shard.reading.prefix + name).encode() for name in names), self.keys)
        self.met += int((~new).sum())
        if not new.any():
            return None
        kept = [name for name, is_new in zip(names, new.tolist(), strict=True) if is_new]
        labels = unpack_values(shard.labels) if shard.labels else []
        packed = (
            pack_values([label for label, is_new in zip(labels, new.tolist(), strict=True) if is_new])
            if labels
            else b""
        )
        return dataclasses.replace(shard, names=pack_names(kept), rows=len(kept), labels=packed)
