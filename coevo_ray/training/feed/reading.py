"""Reads the rows of a plan's steps window by window, so that a rank reads each of its row groups once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from coevo_ray.core.arrays import Int32Array
from coevo_ray.core.feed.epoch_plan import EpochPlan, RankBatch
from coevo_ray.store.row_table import RowTable


@dataclass(frozen=True)
class Work:
    """A step and its rows.

    Attributes:
        step: one rank's part of a global batch.
        rows: a table in the order of `step.row_ids`.
    """

    step: RankBatch
    rows: pa.Table


@dataclass(frozen=True)
class Window:
    """Steps whose rows have been read. Iterating takes each step's rows out of the table."""

    steps: list[RankBatch]
    rows: pa.Table

    def __iter__(self) -> Iterator[Work]:
        row_ids = self.rows.column("row_id").to_numpy()
        order = np.argsort(row_ids)
        for step in self.steps:
            yield Work(step, self.rows.take(order[np.searchsorted(row_ids, step.row_ids, sorter=order)]))


def read_windows(table: RowTable, columns: list[str], plan: EpochPlan, steps: Iterator[RankBatch]) -> Iterator[Window]:
    """Reads the rows of one rank's steps.

    A step at the end of a window needs rows of the next one too: its rows of this window wait for them, so that no row
    group is read again.

    Args:
        table: to read from.
        columns: names of the columns.
        plan: the plan that the steps are of.
        steps: one rank's steps, in order.

    Raises:
        InputError: a row or a column is not there.
    """
    waiting: list[tuple[RankBatch, Int32Array]] = []  # with the windows of their rows
    held: list[pa.Table] = []
    window = -1

    def read() -> Window:
        nonlocal waiting, held
        wanted = [step.row_ids[windows == window] for step, windows in waiting]
        rows = table.read(np.unique(np.concatenate(wanted)), columns)
        rows = pa.concat_tables([*held, rows]).combine_chunks() if held else rows
        ready = [step for step, windows in waiting if windows.max() <= window]
        waiting = waiting[len(ready) :]
        open_ids = [step.row_ids[windows <= window] for step, windows in waiting]
        held = [rows.filter(np.isin(rows.column("row_id").to_numpy(), np.concatenate(open_ids)))] if open_ids else []
        return Window(ready, rows)

    for step in steps:
        windows = plan.window_of(step.row_ids)
        while waiting and windows.min() > window:
            yield read()
            window = _next(waiting, window, default=int(windows.min()))
        if not waiting:
            window = int(windows.min())
        waiting.append((step, windows))
    while waiting:
        yield read()
        window = _next(waiting, window, default=window)


def _next(waiting: list[tuple[RankBatch, Int32Array]], window: int, default: int) -> int:
    """The first window after this one that a waiting step needs."""
    later = [int(windows[windows > window].min()) for _, windows in waiting]
    return min(later, default=default)
