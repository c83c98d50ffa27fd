"""Requirements on contributions that are merged, and the numbering of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pipelines.encode.contribution import Contribution, projection_of
from coevo_ray.store.digests import digest

GROUP_ROWS = 4096  # of a row group of targets
_LEAST_FILES, _MOST_FILE_ROWS = 8, 65_536


@dataclass(frozen=True)
class Group:
    """The contributions over one pool.

    Attributes:
        pool: identity of the pool.
        contributions: their positions.
        rows: rows of the pool.
        first_row_id: row_id of its first row in the targets.
    """

    pool: str
    contributions: tuple[int, ...]
    rows: int
    first_row_id: int

    @property
    def file_rows(self) -> int:
        """Row_ids of one of its target files: whole row groups, and some files for the cores to share."""
        rows = -(-self.rows // _LEAST_FILES // GROUP_ROWS) * GROUP_ROWS
        return max(GROUP_ROWS, min(_MOST_FILE_ROWS, rows))

    def made_of(self, tables: Sequence[Contribution], maps: Sequence[str]) -> str:
        """A hash of all inputs of its target files; `maps` are hashes."""
        inputs = [[k, tables[k].manifest.identity, maps[k]] for k in self.contributions]
        return digest([inputs, self.first_row_id, self.file_rows])

    def names(self, made_of: str) -> list[str]:
        """Names of its target files: their hash, and a number."""
        files = -(-self.rows // self.file_rows)
        return [f"targets-{self.first_row_id:012d}-{made_of[:12]}-{i:06d}.parquet" for i in range(files)]


def prior_label(table: Contribution) -> str:
    """Name of a contribution's prior, with the input size where one was chosen."""
    prior: JsonObject = table.manifest.config["prior"]
    return str(prior["name"]) if prior["input_size"] is None else f"{prior['name']}@{prior['input_size']}"


def check_together(tables: Sequence[Contribution]) -> None:
    """Refuses contributions that cannot be aligned to one space.

    Raises:
        InputError: there are none or too many, or they differ in dimension or in the shared set.
    """
    if not tables:
        raise InputError("no contributions to merge", "give the folder of each participant's contribution")
    if len(tables) > 256:
        raise InputError(f"{len(tables)} contributions, 256 are the most", "merge them in groups")
    first = tables[0]
    for table in tables[1:]:
        random = all(projection_of(t.manifest.config) == "random" for t in (table, first))
        if random and table.manifest.config["dim"] != first.manifest.config["dim"]:
            raise InputError(
                f"contributions differ in dim: {first.manifest.config['dim']} at {first.location}, "
                f"{table.manifest.config['dim']} at {table.location}",
                "encode them with the same --dim",
            )
        if _shared(table) != _shared(first):
            raise InputError(
                f"contributions differ in their shared set: {_shared(first)} at {first.location}, "
                f"{_shared(table)} at {table.location}",
                "encode them with the same shared pool (--shared FOLDER), or the same pool, --shared and seed",
            )


@dataclass(frozen=True)
class _Shared:
    """The shared set: all rows of a pool, or a number or share of them drawn by a seed."""

    pool: str
    rows: float | None = None
    seed: int | None = None
    like: bool = False

    def __str__(self) -> str:
        if self.like:
            return f"none, but the space {self.pool[:12]}"
        pool = f"pool {self.pool[:12]}"
        return f"all of {pool}" if self.rows is None else f"shared {self.rows:g}, seed {self.seed} of {pool}"


def _shared(table: Contribution) -> _Shared:
    manifest = table.manifest
    if "like" in manifest.inputs:
        return _Shared(manifest.inputs["like"], like=True)
    if "shared" in manifest.inputs:
        return _Shared(manifest.inputs["shared"])
    return _Shared(manifest.inputs["pool"], manifest.config["shared"], manifest.config["seed"])


def group_by_pool(tables: Sequence[Contribution], allow_overlap: bool) -> list[Group]:
    """Numbers the rows of all pools, and refuses rows that several contributions hold.

    Args:
        tables: contributions.
        allow_overlap: accept such rows.

    Returns:
        One group for each pool, in the order of their first contributions.

    Raises:
        InputError: rows overlap: the same rows of one pool, or the same content in several pools.
    """
    if not allow_overlap:
        _check_overlap(tables)
    pools: dict[str, list[int]] = {}
    for place, table in enumerate(tables):
        pools.setdefault(table.manifest.inputs["pool"], []).append(place)
    groups, start = [], 0
    for pool, places in pools.items():
        rows = int(tables[places[0]].manifest.summary["pool_rows"])
        groups.append(Group(pool, tuple(places), rows, start))
        start += rows
    return groups


def _check_overlap(tables: Sequence[Contribution]) -> None:
    for first, second in combinations(tables, 2):
        one_pool = first.manifest.inputs["pool"] == second.manifest.inputs["pool"]
        if one_pool and _disjoint(first, second):
            continue
        column = "row_id" if one_pool else "sample"
        common = np.intersect1d(*(t.own_rows([column]).column(column).to_numpy() for t in (first, second)))
        if len(common):
            what = f"rows of the same pool, such as row_id {common[0]}" if one_pool else "samples with the same content"
            raise InputError(
                f"{first.location} and {second.location} overlap: both hold {len(common)} {what}",
                "assign each row to one participant (--part), or keep the first one's with --allow-overlap",
            )


def _disjoint(first: Contribution, second: Contribution) -> bool:
    """Tests for different parts of one assignment, which share no row by construction, or those that are meant to."""
    one, other = first.manifest.config, second.manifest.config
    same = all(one.get(name) == other.get(name) for name in ("seed", "weights", "assign", "coverage"))
    settled = first.manifest.summary.get("weights") == second.manifest.summary.get("weights")
    return same and settled and bool(one["index"] != other["index"])


def find_reference(tables: Sequence[Contribution], reference: str | None) -> int | None:
    """Position of the named reference; None leaves the choice to uniformity.

    Raises:
        UsageError: it is not among the contributions, or several have this name.
    """
    if reference is None:
        return None
    labels = [prior_label(t) for t in tables]
    names = [t.manifest.config["prior"]["name"] for t in tables]
    found = [i for i in range(len(tables)) if reference in (labels[i], names[i], str(i))]
    if len(found) != 1:
        problem = f"is the name of several of {labels}" if found else f"is not among the contributions {labels}"
        raise UsageError(f"reference {reference!r} {problem}", f"name one by its place, 0 to {len(tables) - 1}")
    return found[0]
