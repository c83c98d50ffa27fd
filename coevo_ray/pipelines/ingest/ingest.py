"""Ingest: sources -> pool, in two passes of Ray Data.

The first pass reads and decodes every entry, which is the only way to find truncated images. The second pass writes,
and knows how many rows each shard keeps: row_ids are dense and do not depend on parallelism. Between the passes the
driver holds hashes and packed names, never samples.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
import ray

from coevo_ray.config import PoolConfig, SettingsLike, Source, as_settings, read_section
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pipelines.ingest.append import Earlier, at_places, begin_append, content, end_append
from coevo_ray.pipelines.ingest.classes import name_classes
from coevo_ray.pipelines.ingest.duplicates import reject_duplicates
from coevo_ray.pipelines.ingest.from_dataset import discard_spool, list_dataset
from coevo_ray.pipelines.ingest.grown import FILES, Known, growth, told_apart
from coevo_ray.pipelines.ingest.passes import (
    Checked,
    Rows,
    Written,
    check_shards,
    cut_shards,
    hashes_of_pool,
    write_shards,
)
from coevo_ray.pool.entries import ListedSource, SourceShard
from coevo_ray.pool.pool import TEST, TRAIN, Pool
from coevo_ray.pool.rejects import Reject, check_share, commonest, count_reasons, write_rejects
from coevo_ray.pool.samples import SCHEME, materialise_sample
from coevo_ray.pool.sources import DATASET, check_source, list_source, same_classes
from coevo_ray.pool.splits import assign_splits
from coevo_ray.pool.stages import require_stages
from coevo_ray.progress import say
from coevo_ray.runtime.session import ray_session
from coevo_ray.store.artifact import SCRATCH, begin, begun_config, finish, is_begun
from coevo_ray.store.location import Location, Place
from coevo_ray.store.manifest import load_manifest
from coevo_ray.store.writing import writing

_MOST_CLASSES = 10_000  # of which a manifest tells the rows
_SHOWN_CLASSES = 8
_SHOWN_NAME = 60
# Fewer rows of each class than these, and more classes, are labels that nothing can be learned from.
_ROWS_OF_A_CLASS, _FEW_CLASSES = 2, 20
_FORCED = {"train": TRAIN, "test": TEST, None: -1}


def ingest(
    config: SettingsLike[PoolConfig],
    out: Place,
    *,
    dataset: ray.data.Dataset | None = None,
    append: bool = False,
) -> Pool:
    """Makes a pool, continues an unfinished one, returns a finished one, or appends to it.

    A Ray Dataset is the source `dataset:NAME`, whose columns are named like those of Parquet; without `sources` it is
    `dataset:` with the default columns. It runs once, its rows are kept beside the pool until the pool is finished, and
    row_ids follow the order in which it yields rows with `preserve_order`. Row_ids are independent of parallelism if
    this order is (files, `from_items`, a sort by key, but no shuffle without a seed). Without `key_column` keys are
    positions in the dataset. A finished pool is returned without reading the dataset: another dataset needs another
    NAME.

    An append leaves earlier rows, their row_ids, splits and files unchanged; rows whose key (or content, with
    `reject_duplicates: content`) the pool has are rejected. Settings other than `sources` are inherited from the pool.
    Until the append is finished, readers see the former pool. For sources already in the pool, only samples with new
    keys are appended.

    Args:
        config: sources of samples; a dict, or a YAML file.
        out: folder of the pool.
        dataset: rows for the source whose URI begins with `dataset:`.
        append: add the sources to the finished pool at `out`.

    Raises:
        InputError: a source is missing, empty or unreadable, too many rows were rejected, or appended samples do not
            fit the pool.
        UsageError: the settings are wrong, or differ from those of the existing pool.
        StoppedError: the store refused; run it again to continue.
    """
    started = time.monotonic()
    location = Location.parse(out)
    if not isinstance(config, PoolConfig):  # appending inherits what they leave out, so they stay a dict
        config = read_section(config, "pool") if isinstance(config, str | os.PathLike) else dict(config)
    if dataset is not None and isinstance(config, dict) and "sources" not in config:
        config = {**config, "sources": [DATASET]}
    with writing(location, at_once=append and is_begun(location)):
        begun = begin_append(config, location) if append else _begin(config, location)
        if begun is None:
            _say_made(location)
            return Pool(location)
        settings, earlier = begun
        require_stages(["ingest"], settings.modality, "the source")
        sources = _list(settings, location, dataset)  # finds a missing source before Ray starts
        with ray_session(writes=[location], sources=_places(settings)):
            _make(settings, location, earlier, sources, started)
    return Pool(location)


def _places(config: PoolConfig) -> list[Location]:
    """The sources that lie somewhere."""
    return [Location.parse(source.uri) for source in config.sources if not source.uri.startswith((SCHEME, DATASET))]


def _begin(config: PoolConfig | JsonObject, location: Location) -> tuple[PoolConfig, Earlier] | None:
    settings = at_places(as_settings(PoolConfig, config, "pool"), begun_config(location))
    return None if begin(location, "pool", content(settings), {}) is not None else (settings, Earlier())


def _say_made(location: Location) -> None:
    manifest = load_manifest(location, "pool")
    say(f"{location} already exists, made {manifest.created}")
    for line in growth(manifest):
        say(line)


def _make(
    config: PoolConfig, location: Location, earlier: Earlier, sources: list[ListedSource], started: float
) -> None:
    listed, names = same_classes([source.shards for source in sources], earlier.class_names)
    shards = cut_shards(config, told_apart(config, earlier, listed))
    _check_alike(shards, earlier, names)
    earlier_hashes = hashes_of_pool(config, location, earlier.files)
    known = Known.of(earlier_hashes) if earlier.again else None
    if known is not None:
        shards = known.only_new(config, shards)
    checked = check_shards(config, shards)
    shards, names = name_classes(shards, checked, names, bool(earlier.class_names), config.classes)
    _check_alike(shards, earlier, names)
    if known is not None:
        known.forget(checked)
        say(f"{known.met} samples of {', '.join(sorted(earlier.again))} are in the pool already")
    rejects = reject_duplicates(config, location, earlier_hashes, shards, checked)
    rejects += [r for c in checked for r in c.rejects]
    rejects = earlier.without_known(rejects, location)
    entries = sum(c.new for c in checked)
    check_share(rejects, entries, config.max_reject_fraction, str(location))
    if not any(c.usable.any() for c in checked):
        if known is None:
            raise _nothing_usable(entries, rejects, earlier)
        say(f"{location}: nothing was appended{f'; {commonest(rejects)}' if rejects else ''}")
        end_append(location)
        return
    rows = _rows(config, shards, checked, earlier)
    written = write_shards(config, location, shards, rows)
    part = len(earlier.parts)
    files = [w.file for w in written] + write_rejects(location, rejects, part)
    summary = _summary(config, earlier, shards, written, rejects, rows)
    summary |= _of_sources(config, earlier, sources, shards, names, written)
    summary["bytes"] = earlier.summary.get("bytes", 0) + sum(f.bytes for f in files)
    summary["seconds"] = round(time.monotonic() - started, 3)
    made = content(config)
    if earlier.manifest is not None:
        files += earlier.manifest.files
        new = [source for source in made["sources"] if source["uri"] not in earlier.again]
        made["sources"] = [*earlier.manifest.config["sources"], *new]
    finish(location, "pool", made, {}, files, summary)
    end_append(location)
    discard_spool(location)
    _say_labels(summary)


def _nothing_usable(entries: int, rejects: list[Reject], earlier: Earlier) -> InputError:
    return InputError(
        f"none of {entries} entries could be used: {commonest(rejects)}",
        "are these samples in the pool already?" if earlier.rows else "is this a source of images, texts or vectors?",
    )


def _of_sources(
    config: PoolConfig,
    earlier: Earlier,
    sources: list[ListedSource],
    shards: list[SourceShard],
    names: tuple[str, ...],
    written: list[Written],
) -> JsonObject:
    """Class names, rows of each class, what was left out, and the files and key prefix of each source."""
    left_out: Counter[str] = Counter(earlier.summary.get("left_out", {}))
    files = dict(earlier.summary.get(FILES, {}))
    prefixes = {shard.reading.uri: shard.reading.prefix for shard in shards}
    for source, listed in zip(config.sources, sources, strict=True):
        # A source that is there keeps its prefix, also where none of its samples is new.
        read_as = listed.shards[0].reading.uri if listed.shards else source.uri
        prefix = files.get(source.uri, {}).get("prefix", prefixes.get(read_as, ""))
        files[source.uri] = {"files": listed.files, "prefix": prefix}
        left_out.update(listed.left_out if source.uri not in earlier.again else {})
    counts = Counter({int(label): rows for label, rows in earlier.summary.get("class_rows", {}).items()})
    for part in written:
        counts.update(part.counts)
    known = earlier.manifest is None or "class_rows" in earlier.summary
    rows = {str(label): counts[label] for label in sorted(counts)} if known and len(counts) <= _MOST_CLASSES else {}
    return {"class_names": list(names), "class_rows": rows, "left_out": dict(left_out), FILES: files}


def _say_labels(summary: JsonObject) -> None:
    say(_of_labels(summary))
    for warning in (_too_many_classes(summary), _far_apart(summary), _alike(summary["class_names"])):
        if warning:
            say(warning, level=logging.WARNING)


def _of_labels(summary: JsonObject) -> str:
    """Classes with their rows, and rows without a label, in a line."""
    names, rows = summary["class_names"], summary["class_rows"]
    largest = sorted(rows, key=lambda label: (-rows[label], int(label)))[:_SHOWN_CLASSES]
    shown = ", ".join(f"{names[int(label)][:_SHOWN_NAME] if names else label}: {rows[label]}" for label in largest)
    more = f", and {len(rows) - len(largest)} more" if len(rows) > len(largest) else ""
    splits = f"{summary['train_rows']} rows to train on, {summary['test_rows']} held out"
    unlabelled = summary["rows"] - summary["labelled"]
    if not summary["labelled"]:
        return f"no labels; {splits}"
    return f"{len(rows)} classes ({shown}{more}); {unlabelled} rows without a label; {splits}"


def _too_many_classes(summary: JsonObject) -> str:
    """Cause and remedy where labels are hardly classes: sentences, ids, numbers that mean something else; else ""."""
    labelled, classes = summary["labelled"], len(summary["class_rows"]) or summary["classes"]
    if classes < _FEW_CLASSES or classes * _ROWS_OF_A_CLASS <= labelled:
        return ""
    names = summary["class_names"]
    such = f", such as {names[0][:_SHOWN_NAME]!r}" if names else ""
    return (
        f"{classes} classes for {labelled} labelled rows{such}: labels that hardly repeat are no classes but sentences "
        "or ids; name the column of classes with --label-column, or leave labels out with label_column: null"
    )


def _far_apart(summary: JsonObject) -> str:
    """Cause and remedy where numbers of classes leave nearly all numbers below them out; else ""."""
    classes, have = summary["classes"], len(summary["class_rows"])
    if not have or summary["class_names"] or classes <= max(_MOST_CLASSES, _ROWS_OF_A_CLASS * have):
        return ""
    return (
        f"labels run up to {classes - 1:,}, and {have:,} of these numbers occur: each number below is a class too; if "
        "they are ids, name another --label-column, or write names as texts, which become classes"
    )


def _alike(names: Sequence[str]) -> str:
    """Cause and remedy where names of classes differ in case alone; else ""."""
    spellings: dict[str, str] = {}
    alike = [
        (spellings[name.casefold()], name) for name in names if spellings.setdefault(name.casefold(), name) != name
    ]
    if not alike:
        return ""
    first, second = (name[:_SHOWN_NAME] for name in alike[0])
    return (
        f"{len(alike)} classes differ from another one in case alone, such as {first!r} and {second!r}: they are "
        "different classes; if one is meant, rename it in the source and ingest it again"
    )


def _summary(
    config: PoolConfig,
    earlier: Earlier,
    shards: list[SourceShard],
    written: list[Written],
    rejects: list[Reject],
    rows: dict[int, Rows],
) -> JsonObject:
    """Figures of the whole pool, earlier rows included."""
    before, reading = earlier.summary, shards[0].reading
    new = sum(w.file.rows for w in written)
    held_out = sum(int((part.splits == TEST).sum()) for part in rows.values())
    reasons = dict(before.get("reject_reasons", {}))
    for reason, count in count_reasons(rejects).items():
        reasons[reason] = reasons.get(reason, 0) + count
    largest = max(w.largest_label for w in written)
    part = {"sources": [s.uri for s in config.sources], "first_row_id": earlier.rows, "rows": new}
    return {
        "rows": earlier.rows + new,
        "train_rows": before.get("train_rows", 0) + new - held_out,
        "test_rows": before.get("test_rows", 0) + held_out,
        "modality": reading.modality,
        "features": dict(reading.features),
        "rejected": before.get("rejected", 0) + len(rejects),
        "reject_reasons": reasons,
        "classes": config.classes or max(before.get("classes", 0), largest + 1),
        "labelled": before.get("labelled", 0) + sum(w.labelled for w in written),
        "parts": [*earlier.parts, part],
    }


def _list(config: PoolConfig, location: Location, dataset: ray.data.Dataset | None) -> list[ListedSource]:
    wanted = [source.uri for source in config.sources if source.uri.startswith(DATASET)]
    if dataset is not None and len(wanted) != 1:
        raise UsageError(
            f"a dataset was passed, and {len(wanted)} of the sources refer to one",
            "name one source dataset:NAME, or leave sources out",
        )
    for source in config.sources:
        if dataset is None or source.uri not in wanted:
            check_source(source)
    sources: list[ListedSource] = []
    for source in config.sources:
        name = source.uri
        if name.startswith(SCHEME):
            # Samples are written once beside the pool, then treated like a user's own files.
            folder = materialise_sample(source, location.child(SCRATCH.rstrip("/")))
            source = Source(**{**source.model_dump(exclude_unset=True), "uri": folder.uri})
        if dataset is not None and name in wanted:
            shards = list_dataset(config, source, dataset, location)
            sources.append(ListedSource(shards, len(shards), {}, []))
        else:
            sources.append(list_source(source, config.shard_rows))
        for line in sources[-1].said:
            say(f"{name}: {line}")
    return sources


def _check_alike(shards: list[SourceShard], earlier: Earlier, names: tuple[str, ...]) -> None:
    """Checks that all rows have the same columns.

    Raises:
        InputError: there are no rows, or vectors have different dimensions.
    """
    if all(s.rows == 0 for s in shards) and not earlier.again:
        raise InputError("the sources hold no rows", "give a source with at least one sample")
    if not shards:
        return
    first = shards[0].reading
    for shard in shards:
        if shard.reading.features != first.features:
            raise InputError(
                f"{first.uri} has vectors {dict(first.features)}, {shard.reading.uri} {dict(shard.reading.features)}",
                "a pool needs one dimension of each",
            )
    earlier.check(first, names)


def _rows(config: PoolConfig, shards: list[SourceShard], checked: list[Checked], earlier: Earlier) -> dict[int, Rows]:
    """Shard -> its rows of the pool; shards without a usable entry are left out."""
    counts = [int(c.usable.sum()) for c in checked]
    forced = np.repeat(np.array([_FORCED[s.split] for s in shards], dtype=np.int8), counts)
    splits = assign_splits(forced, earlier.rows, config.test_fraction, config.seed)
    if not earlier.rows and not (splits == TRAIN).any():
        raise InputError(
            f"all {len(splits)} rows are held out", "lower test_fraction, add rows, or set split: train on a source"
        )
    ends = np.cumsum(counts)
    result = {}
    for i, (count, end) in enumerate(zip(counts, ends.tolist(), strict=True)):
        if count:
            name = f"rows-{earlier.next_file + i:06d}.parquet"
            first = earlier.rows + end - count
            result[i] = Rows(name, checked[i].usable, first, splits[end - count : end], checked[i].digest)
    return result
