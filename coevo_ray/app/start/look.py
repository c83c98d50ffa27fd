"""Inspects a source without making anything: number and kind of samples, classes, splits, and a few samples."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from coevo_ray.config import Source
from coevo_ray.config.pool import IMAGE, SAMPLE_SETTINGS, VECTOR
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.entries import Entry, SourceShard
from coevo_ray.pool.guess import guess_columns
from coevo_ray.pool.images import ImageError, verify_image
from coevo_ray.pool.samples import SCHEME
from coevo_ray.pool.sources import cut, list_source, placed, read_shard

_SHARD_ROWS = 4096
_SHARDS_READ, _ROWS_READ = 8, 32  # of the sample: from how many places, and from each
_NAMES_SHOWN = 6


@dataclass(frozen=True)
class Found:
    """A source, looked at.

    Attributes:
        source: its settings, `uri` among them.
        modality: of its samples.
        rows: entries, usable or not.
        files: that are read.
        classes: names; empty where there are none, or they show only once all labels are read.
        splits: split -> rows of it; None for rows that ingest may assign.
        sample: some entries.
        said: what was left out, and why; lines.
        dim: of vectors; None for other samples.
    """

    source: JsonObject
    modality: str
    rows: int
    files: int
    classes: tuple[str, ...]
    splits: dict[str | None, int]
    sample: list[Entry] = field(repr=False)
    said: list[str]
    dim: int | None = None

    @property
    def usable(self) -> list[Entry]:
        """Those of the sample that ingest would take."""
        return [entry for entry in self.sample if not entry.error and entry.sample is not None]

    @property
    def labelled(self) -> float:
        """Share of the sample that has a label."""
        have = [entry for entry in self.usable if entry.label is not None or entry.text]
        return len(have) / len(self.usable) if self.usable else 0.0

    @property
    def class_names(self) -> list[str]:
        """The classes, or those that the sample's labels name."""
        if self.classes:
            return [*self.classes]
        seen = {entry.text or str(entry.label) for entry in self.usable if entry.text or entry.label is not None}
        return sorted(seen)

    @property
    def side(self) -> int | None:
        """Median of the images' shorter sides, in pixels; None for other samples."""
        if self.modality != IMAGE:
            return None
        sides = []
        for entry in self.usable:
            with suppress(ImageError):  # ingest will reject it, and say so
                sides.append(min(verify_image(entry.content)))
        return int(np.median(sides)) if sides else None

    def lines(self) -> list[str]:
        """The findings, for people."""
        plural = SAMPLE_SETTINGS[self.modality].plural
        said = [f"{self.rows:,} {plural} in {self.files:,} file{'' if self.files == 1 else 's'}{self._columns()}"]
        names = self.class_names
        if names and self.labelled:
            shown = ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
            count = f"{len(names)} classes" if self.classes else f"at least {len(names)} classes"
            share = "" if self.labelled == 1 else f"; about {self.labelled:.0%} of the rows have one"
            said.append(f"{count}: {shown}{share}")
        else:
            said.append("no labels")
        fixed = {name: rows for name, rows in self.splits.items() if name is not None}
        if fixed:
            said.append("splits: " + ", ".join(f"{rows:,} {name}" for name, rows in sorted(fixed.items())))
        bad = [entry for entry in self.sample if entry.error]
        if bad:
            said.append(f"{len(bad)} of {len(self.sample)} rows that were tried cannot be used, as: {bad[0].error}")
        return said + self.said

    def _columns(self) -> str:
        named = [
            f"{name.partition('_')[0]}: {value}" for name, value in self.source.items() if name.endswith("_column")
        ]
        return f" (columns {', '.join(named)})" if named else ""


def look(uri: str, given: JsonObject) -> Found:
    """Inspects a source.

    Args:
        uri: a folder or file, local or on a store, or `sample:NAME`.
        given: settings of `Source` that the user gave.

    Raises:
        InputError: it is not there, holds nothing that is read, no sample of it can be used, or it is not clear which
            column holds the samples.
        UsageError: the store cannot be opened, or folders allow two readings.
    """
    if uri.startswith(SCHEME):
        raise UsageError(f"{uri} is a sample", "coevo-ray demo runs the whole loop on it; give your own data")
    settings = guess_columns(uri, given)
    source = placed(Source(uri=uri, **settings))
    listed = list_source(source, _SHARD_ROWS)
    shards = [part for shard in listed.shards for part in cut(shard, _SHARD_ROWS)]
    sample = _sample(shards)
    if not any(not entry.error for entry in sample):
        why = sample[0].error if sample else "it is empty"
        raise InputError(f"{uri}: none of the {len(sample)} sampled rows can be used: {why}", "check the data")
    splits: dict[str | None, int] = {}
    for shard in shards:
        splits[shard.split] = splits.get(shard.split, 0) + shard.rows
    return Found(
        source={"uri": source.uri, **settings},
        modality=shards[0].reading.modality,
        rows=sum(splits.values()),
        files=listed.files,
        classes=shards[0].classes,
        splits=splits,
        sample=sample,
        said=listed.said,
        dim=dict(shards[0].reading.features).get(VECTOR),
    )


def _sample(shards: Sequence[SourceShard]) -> list[Entry]:
    """The first rows of shards that lie evenly apart."""
    places = np.unique(np.linspace(0, len(shards) - 1, _SHARDS_READ).astype(int)) if shards else []
    return [entry for place in places for entry in islice(read_shard(shards[place]), _ROWS_READ)]
