"""The rows of a gate's service: those that it was opened with, and those that arrive (DESIGN 5.4, 5.6)."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from coevo_ray.actors.offered import Offered
from coevo_ray.core.arrays import Arrays, BoolArray, Float16Array, Float32Array, Int64Array
from coevo_ray.errors import InputError
from coevo_ray.store.journal import Journal, Record

if TYPE_CHECKING:
    # Not at run time: a ledger alone should not load the gate's libraries, which take half a gigabyte.
    from coevo_ray.core.gate.gate import AnnotationGate
    from coevo_ray.core.gate.online import OnlineGate

_TIMED_OFFERS = 10_000


class ArrivalService(ABC):
    """Names the rows of a gate, and takes in those that arrive.

    Args:
        journal: where changes are kept.
        gate: a fresh gate, or None for a run without annotation.
        row_ids: int64[n], the row_id of each row of the gate's graph, increasing.
        online: makes the gate ready for arriving rows, when the first come; None where it takes none.
    """

    def __init__(
        self,
        journal: Journal,
        gate: AnnotationGate | None,
        row_ids: Int64Array | None,
        online: Callable[[AnnotationGate], OnlineGate] | None,
    ) -> None:
        self.gate = gate
        self._journal = journal
        self._row_ids = np.zeros(0, dtype=np.int64) if row_ids is None else row_ids
        self._make_online = online
        self._online: OnlineGate | None = None
        self._offered = Offered()
        self._offer_seconds: deque[float] = deque(maxlen=_TIMED_OFFERS)

    @abstractmethod
    def snapshot(self) -> None:
        """Writes the whole state and drops older records."""

    def offer(self, row_ids: Int64Array, features: Float16Array, probabilities: Float32Array) -> Arrays:
        """Decides on arriving rows, and takes them into the gate and its graph; a row that came before keeps its word.

        Args:
            row_ids: int64[b], each once, none of the gate's first rows.
            features: float16[b, d], in the space of the gate's targets.
            probabilities: float32[b, C], the model's.

        Returns:
            `row_id`, and arrays of `core.gate_online.Decisions`, in the order given.

        Raises:
            InputError: shapes do not fit, a row comes twice or is of the gate's pool, or the gate has no predictions.
            StoppedError: the journal cannot be written; offer them again.
        """
        started = time.perf_counter()
        new = self._offered.new(row_ids)
        known = self._find(row_ids[new])[1]
        if known.any():
            raise InputError(
                f"{int(known.sum())} of {len(row_ids)} offered rows are the gate's already, first "
                f"{row_ids[new][known][:3].tolist()}",
                "offer rows with row_ids of their own",
            )
        if new.any():
            part = np.ascontiguousarray(features[new])
            decisions = self._get_online().decide(part, probabilities[new])
            arrays: Arrays = {"row_ids": row_ids[new], "features": part, **decisions.arrays()}
            self._take_offer(self._journal.append("offer", {}, arrays))
            if self._journal.snapshot_due():
                self.snapshot()
        self._offer_seconds.append(time.perf_counter() - started)
        return {"row_id": row_ids, **self._offered.decisions(row_ids)}

    def fresh_ids(self, count: int) -> Int64Array:
        """row_ids that no row has, int64[count]."""
        last = int(self._row_ids.max(initial=-1))
        return np.arange(count, dtype=np.int64) + max(last, self._offered.last_id) + 1

    def offered(self) -> Arrays:
        """Arriving rows that were taken in: `row_id` int64[m] and `features` float16[m, d], by row."""
        return self._offered.taken()

    def _get_online(self) -> OnlineGate:
        if self._online is None:
            if self._make_online is None:
                raise InputError("this gate takes no arriving rows", "open it with its targets")
            self._online = self._make_online(self._gate())
        return self._online

    def _take_offer(self, record: Record) -> None:
        from coevo_ray.core.gate.online import Decisions

        arrays = dict(record.arrays)
        row_ids, features = arrays.pop("row_ids"), arrays.pop("features")
        decisions = Decisions(**arrays)
        self._get_online().accept(features, decisions)
        self._offered.add(row_ids, features, decisions.arrays(), decisions.usable, first=len(self._row_ids))

    def _offer_times(self) -> dict[str, float] | None:
        """Median and 99th percentile of the latest offers' milliseconds, journal included."""
        if not self._offer_seconds:
            return None
        p50, p99 = np.percentile(np.array(self._offer_seconds) * 1e3, [50, 99])
        return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "batches": len(self._offer_seconds)}

    def _restore_offers(self, columns: Arrays) -> None:
        """Rows join the graph again; what the gate knows of them comes with its own state."""
        if not columns or len(columns["row_id"]) == 0:
            return
        self._offered = Offered()
        self._get_online().rejoin(columns["features"][columns["taken"]])
        decisions = {name: columns[name] for name in ("action", "reason", "gain", "label", "confidence")}
        self._offered.add(columns["row_id"], columns["features"], decisions, columns["taken"], first=len(self._row_ids))

    # -- rows ----------------------------------------------------------------------------------------------------

    def _positions(self, row_ids: Int64Array) -> Int64Array:
        positions, known = self._find(row_ids)
        if not known.all():
            unknown = row_ids[~known]
            raise InputError(
                f"{len(unknown)} rows are not the gate's, first {unknown[:3].tolist()}", "check the row_ids"
            )
        return positions

    def _names(self, positions: Int64Array) -> Int64Array:
        """The row_ids of rows of the gate."""
        if len(self._offered) == 0:
            return self._row_ids[positions]
        return np.concatenate([self._row_ids, self._offered.taken_ids()])[positions]

    def _find(self, row_ids: Int64Array) -> tuple[Int64Array, BoolArray]:
        """Positions of rows, and which there are."""
        positions = np.searchsorted(self._row_ids, row_ids).astype(np.int64)
        inside = positions < len(self._row_ids)
        positions = np.where(inside, positions, 0)
        known: BoolArray = inside & (self._row_ids[positions] == row_ids)
        arrived = self._offered.positions(row_ids[~known])
        positions[~known] = np.maximum(arrived, 0)
        known[~known] = arrived >= 0
        return positions, known

    def _gate(self) -> AnnotationGate:
        if self.gate is None:
            raise InputError("this run has no annotation gate", "start it with a gate stage")
        return self.gate
