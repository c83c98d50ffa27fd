"""The command dedup: duplicates of a pool, a file of the rows to drop, and a page of groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from coevo_ray._version import __version__
from coevo_ray.config import DedupConfig, SettingsLike
from coevo_ray.core.arrays import Int64Array
from coevo_ray.errors import UsageError
from coevo_ray.pipelines.dedup import find_duplicates
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.stages import pool_for
from coevo_ray.reporting import style
from coevo_ray.reporting.templates import page_template
from coevo_ray.reporting.tiles import Tile, showing_of, tiles_of
from coevo_ray.reporting.wording import count, decimal, integer, percent
from coevo_ray.reporting.write import Headline
from coevo_ray.store.csv_text import csv_text
from coevo_ray.store.location import ArtifactLike, Location, Place
from coevo_ray.store.row_table import RowTable

PAGE, DROPPED = "duplicates.html", "dropped.csv"
_ROWS = 12  # rows shown of a group


@dataclass(frozen=True)
class Member:
    """A row of a group: what is shown of it, and what becomes of it."""

    tile: Tile
    label: str
    held_out: bool
    kept: bool
    leak: bool
    similarity: float | None

    @property
    def fate(self) -> str:
        """Held out, kept or dropped, in words."""
        if self.held_out:
            return "held out"
        return ("kept" if self.kept else "dropped") + (", a leak" if self.leak else "")


@dataclass(frozen=True)
class Group:
    """A group as the page shows it: its leader's row_id, all rows that it has, and some of them."""

    leader: int
    rows: int
    members: tuple[Member, ...]


def dedup(
    pool: ArtifactLike,
    targets: ArtifactLike,
    out: Place,
    config: SettingsLike[DedupConfig] | None = None,
    groups: int = 60,
) -> RowTable:
    """Finds duplicates of a pool, and writes the rows to drop and a page of groups.

    Args:
        pool: the pool, or its folder.
        targets: its targets, or their folder.
        out: folder of the result.
        config: settings of the search, see `DedupConfig`.
        groups: maximum groups on the page: those with leaks first, then those of several labels, then the largest.

    Returns:
        The table of `find_duplicates`. Beside it are `duplicates.html`, and `dropped.csv` of `row_id`, `key`,
        `kept_row`, `kept_key` and `reason` (`copy`, or `leak` for training rows that are copies of held-out ones). It
        is meant for programs: keys that begin with = + - or @ are not escaped, so open it in a spreadsheet only as
        text.

    Raises:
        InputError, UsageError, StoppedError: as `find_duplicates`; no group is to be shown.
    """
    if groups < 1:
        raise UsageError(f"{groups} groups", "show 1 or more")
    opened = pool_for("dedup", pool)
    found = find_duplicates(opened, targets, out, config)
    table = found.scan(["row_id", "key", "group", "split", "label", "similarity", "kept", "leak", "kept_row"])
    place = Location.parse(out)
    place.child(DROPPED).write_bytes(dropped_file(table))
    place.child(PAGE).write_bytes(render_groups(opened, found, table, groups).encode())
    return found


def dropped_file(table: pa.Table) -> bytes:
    """The rows that are not kept, as CSV with a line of names; arguments as `find_duplicates` returns them.

    Keys stand as they are, without the apostrophes that `annotators.formulas` writes into files for people: the file is
    for programs that leave rows out by their key, and an escaped key would be no row's.
    """
    key_of = dict(zip(table.column("row_id").to_pylist(), table.column("key").to_pylist(), strict=True))
    rows: list[list[object]] = [["row_id", "key", "kept_row", "kept_key", "reason"]]
    columns = [table.column(name).to_pylist() for name in ("row_id", "key", "kept_row", "leak", "kept")]
    for row, key, stands, leak, kept in zip(*columns, strict=True):
        if not kept:
            rows.append([row, key, stands, key_of[stands], "leak" if leak else "copy"])
    return csv_text(rows).encode()


def render_groups(pool: Pool, found: RowTable, table: pa.Table, most: int) -> str:
    """The page as text: it needs no network.

    Args:
        pool: has the rows.
        found: the artifact, for its summary.
        table: its rows.
        most: groups shown.
    """
    template = page_template("duplicates.html.j2", decimal=decimal, rows=lambda n: count(n, "row"))
    shown = chosen_groups(table, most)
    return template.render(
        groups=_groups(pool, table, shown),
        showing=showing_of(pool.modality),
        pool=str(pool.location),
        version=__version__,
        css=style.page_css(),
        headlines=_headlines(found),
        order=_order(len(shown), int(found.summary["groups"])),
        dropped=DROPPED,
    )


def chosen_groups(table: pa.Table, most: int) -> list[int]:
    """Leaders of the groups to show: with leaks first, then of several labels, then the largest; ties by row."""
    group = table.column("group").to_numpy()
    leaders, member, rows = np.unique(group, return_inverse=True, return_counts=True)
    leaks = np.bincount(member, table.column("leak").to_numpy(zero_copy_only=False), len(leaders)) > 0
    label = table.column("label").to_numpy()
    named = label >= 0
    kinds = np.unique(np.stack([member[named], label[named]]), axis=1)[0] if named.any() else member[:0]
    several = np.bincount(kinds, minlength=len(leaders)) > 1
    order = np.lexsort((leaders, -rows, ~several, ~leaks))[:most]
    return [int(leader) for leader in leaders[order]]


def _groups(pool: Pool, table: pa.Table, leaders: list[int]) -> list[Group]:
    columns = {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names if name != "key"}
    names = tuple(pool.manifest.summary.get("class_names") or ())
    places: dict[int, Int64Array] = {}
    for leader in leaders:
        inside = np.flatnonzero(columns["group"] == leader)
        # Held-out and kept rows come first, so that what is dropped stands beside what it is dropped for.
        ranked = inside[
            np.lexsort((columns["row_id"][inside], ~columns["kept"][inside], columns["split"][inside] == 0))
        ]
        places[leader] = ranked[:_ROWS]
    wanted = np.unique(np.concatenate([columns["row_id"][p] for p in places.values()])) if places else np.zeros(0, int)
    tiles = dict(tiles_of(pool, wanted.astype(np.int64)))
    made = []
    for leader in leaders:
        members = []
        for p in places[leader].tolist():
            label, similarity = int(columns["label"][p]), float(columns["similarity"][p])
            members.append(
                Member(
                    tiles[int(columns["row_id"][p])],
                    "no label" if label < 0 else names[label] if label < len(names) else str(label),
                    bool(columns["split"][p] != 0),
                    bool(columns["kept"][p]),
                    bool(columns["leak"][p]),
                    None if np.isnan(similarity) else similarity,
                )
            )
        made.append(Group(leader, int((columns["group"] == leader).sum()), tuple(members)))
    return made


def _headlines(found: RowTable) -> list[Headline]:
    figures = found.summary
    rows = int(figures["rows"])
    share = percent(int(figures["dropped"]) / rows, 1) if rows else "0 %"
    return [
        Headline(
            "Copies",
            integer(figures["duplicates"]),
            f"rows of {integer(rows)} are in {integer(figures['groups'])} groups.",
        ),
        Headline("To leave out", integer(figures["dropped"]), f"rows, {share} of all."),
        Headline(
            "Leaks",
            integer(figures["leaks"]),
            f"training rows are copies of {integer(figures['held_out_with_leaks'])} held-out ones.",
        ),
        Headline("Labels", integer(figures["groups_with_several_labels"]), "groups with more than one label."),
    ]


def _order(shown: int, groups: int) -> str:
    if groups == 0:
        return "No row is a copy of another one."
    of = f"{integer(shown)} of {integer(groups)} groups" if shown < groups else "All groups"
    return f"{of}: those with leaks first, then those of several labels, then the largest."
