"""Classes of a pool whose labels are texts: known only when all sources have been read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from coevo_ray.errors import InputError
from coevo_ray.pipelines.ingest.passes import Checked
from coevo_ray.pool.entries import Reading, SourceShard
from coevo_ray.pool.labels import is_whole

_MOST_NAMES = 65_536  # a column with more different texts holds captions or ids
# So does one in which nearly every row has its own; of few rows nobody can tell.
_OWN_SHARE, _FEWEST_ROWS = 0.9, 100
_SHOWN = 60


def name_classes(
    shards: list[SourceShard],
    checked: Sequence[Checked],
    names: tuple[str, ...],
    fixed: bool,
    stated: int | None = None,
) -> tuple[list[SourceShard], tuple[str, ...]]:
    """Numbers the classes of sources whose labels are texts and not all whole numbers.

    Args:
        shards: of all sources, as they were checked.
        checked: findings of each shard.
        names: class names of the other sources, or empty.
        fixed: whether the pool that is appended to has those names.
        stated: number of classes that the user says there are; then texts are classes also where they hardly repeat.

    Returns:
        The shards, which read such labels by name now, and the class names.

    Raises:
        InputError: texts and numbers are mixed, names are too many, nearly every row has its own, or some are not
            among those that there are.
    """
    texts: dict[Reading, set[str]] = {}
    numbers: set[Reading] = set()
    for shard, found in zip(shards, checked, strict=True):
        texts.setdefault(shard.reading, set()).update(found.texts)
        if found.has_numbers:
            numbers.add(shard.reading)
    named = {reading for reading, found in texts.items() if not all(map(is_whole, found))}
    if not named:
        return shards, names
    wanted = set[str]().union(*(texts[reading] for reading in named))
    _check(named, numbers, wanted, names, fixed)
    if not names and stated is None:
        _check_repeat(named, shards, checked, wanted)
    names = names or tuple(sorted(wanted))
    changed = {reading: replace(reading, names=names, by_name=True) for reading in named}
    return [replace(shard, reading=changed.get(shard.reading, shard.reading)) for shard in shards], names


def _check_repeat(named: set[Reading], shards: list[SourceShard], checked: Sequence[Checked], wanted: set[str]) -> None:
    """Refuses sentences and ids: nothing is learned from classes of one row, and annotators would list them all."""
    rows = sum(int(found.usable.sum()) for shard, found in zip(shards, checked, strict=True) if shard.reading in named)
    if rows >= _FEWEST_ROWS and len(wanted) > _OWN_SHARE * rows:
        place, column = _first_column(named)
        raise InputError(
            f"column {column!r} of {place} has {len(wanted)} different texts in {rows} rows, such as "
            f"{min(wanted)[:_SHOWN]!r}: nearly every row has its own, so these look like sentences or ids, not classes",
            "name the column of classes with --label-column, or leave labels out with label_column: null; "
            f"if they are classes, confirm it with classes: {len(wanted)}",
        )


def _first_column(named: set[Reading]) -> tuple[str, str]:
    """The first source whose labels are texts, and its column of labels."""
    first = min(reading.uri for reading in named)
    return first, next(reading.label_column or "label" for reading in named if reading.uri == first)


def _check(named: set[Reading], numbers: set[Reading], wanted: set[str], names: tuple[str, ...], fixed: bool) -> None:
    first, column = _first_column(named)
    if len(wanted) > _MOST_NAMES:
        raise InputError(
            f"column {column!r} of {first} has {len(wanted)} different texts, need {_MOST_NAMES} or fewer classes",
            "is it a caption or an id? name another --label-column, or null for none",
        )
    other = sorted(wanted - set(names))
    if names and other:
        whose = "the pool has" if fixed else "other sources have"
        raise InputError(
            f"{first}: labels {other[:4]} are not classes; {whose} {list(names)[:8]}",
            "a pool's classes are fixed: make a new pool of all sources" if fixed else "use the same names everywhere",
        )
    if numbers:
        place = min(reading.uri for reading in numbers)
        raise InputError(
            f"labels are names such as {sorted(wanted)[:3]} in {first}, and numbers in {place}",
            "write all labels as names, or all as numbers",
        )
