"""Rows of a gate by name: those that it was opened with, and those that arrive later (arXiv 2506.08070, online)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from coevo_ray.actors.offered import Offered
from coevo_ray.core.arrays import Arrays, BoolArray, Float16Array, Float32Array, Int64Array
from coevo_ray.errors import InputError
from coevo_ray.store.journal import Record

if TYPE_CHECKING:
    # Not at run time: the growing index loads torch, which commands that only look at a gate do without.
    from coevo_ray.core.gate.gate import AnnotationGate
    from coevo_ray.core.gate.online import OnlineGate

MakeOnline = Callable[["AnnotationGate"], "OnlineGate"]
_TIMED_OFFERS = 10_000


class Arrivals:
    """Maps row_ids to positions of a gate's graph, and takes in rows that arrive.

    Args:
        gate: the gate.
        row_ids: int64[n], the row_id at each position that the gate was opened with, increasing.
        make_online: prepares the gate for arriving rows when the first come; None where it takes none.
    """

    def __init__(self, gate: AnnotationGate, row_ids: Int64Array, make_online: MakeOnline | None) -> None:
        self._gate, self._row_ids, self._make_online = gate, row_ids, make_online
        self._online: OnlineGate | None = None
        self._offered = Offered()
        self._seconds: deque[float] = deque(maxlen=_TIMED_OFFERS)

    def __len__(self) -> int:
        """Rows that arrived, unusable ones included."""
        return len(self._offered)

    # -- names ---------------------------------------------------------------------------------------------------

    def names(self, positions: Int64Array) -> Int64Array:
        """row_ids at positions, int64[n]."""
        return self.all_names()[positions]

    def all_names(self) -> Int64Array:
        """row_ids at all positions, int64[N]; not to be changed."""
        if len(self._offered) == 0:
            return self._row_ids
        return np.concatenate([self._row_ids, self._offered.taken_ids()])

    def positions(self, row_ids: Int64Array) -> Int64Array:
        """Positions of rows, int64[n].

        Raises:
            InputError: a row is not the gate's.
        """
        positions, found = self.find(row_ids)
        if not found.all():
            unknown = row_ids[~found]
            raise InputError(
                f"{len(unknown)} rows are not the gate's, first {unknown[:3].tolist()}", "check the row_ids"
            )
        return positions

    def find(self, row_ids: Int64Array) -> tuple[Int64Array, BoolArray]:
        """Positions of rows, int64[n], and which rows are the gate's, bool[n]."""
        positions = np.searchsorted(self._row_ids, row_ids).astype(np.int64)
        inside = positions < len(self._row_ids)
        positions = np.where(inside, positions, 0)
        found: BoolArray = inside & (self._row_ids[positions] == row_ids)
        arrived = self._offered.positions(row_ids[~found])
        positions[~found] = np.maximum(arrived, 0)
        found[~found] = arrived >= 0
        return positions, found

    def fresh_ids(self, count: int) -> Int64Array:
        """row_ids that no row has, int64[count]."""
        last = int(self._row_ids.max(initial=-1))
        return np.arange(count, dtype=np.int64) + max(last, self._offered.last_id) + 1

    # -- arriving rows -------------------------------------------------------------------------------------------

    def new(self, row_ids: Int64Array) -> BoolArray:
        """Tests which offered rows are new, bool[b].

        Raises:
            InputError: a row comes twice, or is one that the gate was opened with.
        """
        new = self._offered.new(row_ids)
        own = self.find(row_ids[new])[1]
        if own.any():
            raise InputError(
                f"{int(own.sum())} of {len(row_ids)} offered rows are the gate's already, first "
                f"{row_ids[new][own][:3].tolist()}",
                "offer rows with row_ids of their own",
            )
        return new

    def decide(self, row_ids: Int64Array, features: Float16Array, probabilities: Float32Array) -> Arrays:
        """Decides on new rows, without taking them in; the arrays of an `offer` event.

        Raises:
            InputError: shapes do not fit, the gate takes no arriving rows, or has no predictions.
        """
        part = np.ascontiguousarray(features)
        decisions = self._get_online().decide(part, probabilities)
        return {"row_ids": row_ids, "features": part, **decisions.arrays()}

    def take(self, record: Record) -> None:
        """Takes the rows of an `offer` event into the gate and its graph."""
        from coevo_ray.core.gate.online import Decisions

        arrays = dict(record.arrays)
        row_ids, features = arrays.pop("row_ids"), arrays.pop("features")
        decisions = Decisions(**arrays)
        self._get_online().accept(features, decisions)
        self._offered.add(row_ids, features, decisions.arrays(), decisions.usable, first=len(self._row_ids))

    def decisions(self, row_ids: Int64Array) -> Arrays:
        """Decisions about rows that came: `row_id` and the arrays of `core.gate.online.Decisions`, as given."""
        return {"row_id": row_ids, **self._offered.decisions(row_ids)}

    def taken(self) -> Arrays:
        """Rows that joined the gate: `row_id` int64[m] and `features` float16[m, d], by position."""
        return self._offered.taken()

    def _get_online(self) -> OnlineGate:
        if self._online is None:
            if self._make_online is None:
                raise InputError("this gate takes no arriving rows", "open it with its targets")
            self._online = self._make_online(self._gate)
        return self._online

    # -- state and figures ---------------------------------------------------------------------------------------

    def note_time(self, started: float) -> None:
        """Notes the duration of an offer that began at `started`, of `time.perf_counter`."""
        self._seconds.append(time.perf_counter() - started)

    def times(self) -> dict[str, float] | None:
        """Median and 99th percentile of the latest offers in milliseconds, journal included; None before the first."""
        if not self._seconds:
            return None
        p50, p99 = np.percentile(np.array(self._seconds) * 1e3, [50, 99])
        return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "batches": len(self._seconds)}

    def columns(self) -> Arrays:
        """All columns of the rows that came, for a snapshot."""
        return self._offered.columns()

    def restore(self, columns: Arrays) -> None:
        """Lets rows join the graph again; the gate's own state tells what it knows of them."""
        if not columns or len(columns["row_id"]) == 0:
            return
        self._offered = Offered()
        self._get_online().rejoin(columns["features"][columns["taken"]])
        decisions = {name: columns[name] for name in ("action", "reason", "gain", "label", "confidence")}
        self._offered.add(columns["row_id"], columns["features"], decisions, columns["taken"], first=len(self._row_ids))
