"""The journal of a service: events are written before they are applied, and replayed after a crash."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from coevo_ray.core.arrays import ArrayMapping, Arrays
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError
from coevo_ray.store.journal import Journal, Record
from coevo_ray.store.location import Location
from coevo_ray.telemetry import JOURNAL_SECONDS, record

# Applies a record to the state; called when it was written, and again when it is replayed.
Handler = Callable[[Record], object]
_SNAPSHOT = "snapshot"


class EventLog:
    """Journal of one service's state.

    Args:
        location: folder of the journal.
        save: the whole state, as fields and arrays, for a snapshot.
        restore: takes over what `save` gave.
        handlers: event -> what applies it.
    """

    def __init__(
        self,
        location: Location,
        save: Callable[[], tuple[JsonObject, Arrays]],
        restore: Handler,
        handlers: Mapping[str, Handler],
    ) -> None:
        self._journal = Journal(location)
        self._save = save
        self._handlers = {_SNAPSHOT: restore, **handlers}

    @property
    def location(self) -> Location:
        """Folder of the journal."""
        return self._journal.location

    def replay(self) -> None:
        """Applies all records, from the latest snapshot on.

        Raises:
            InputError: the journal is damaged, an event is unknown, or a record does not fit the state.
        """
        for written in self._journal.replay():
            if written.event not in self._handlers:
                raise InputError(
                    f"unknown journal event {written.event!r}", "it was written by a newer version: upgrade"
                )
            self._handlers[written.event](written)

    def append(self, event: str, fields: Mapping[str, Any], arrays: ArrayMapping | None = None) -> Record:
        """Writes an event, which is not applied yet.

        Raises:
            StoppedError: the store refused, or another process writes here too; the event must not be acknowledged.
        """
        started = time.perf_counter()
        written = self._journal.append(event, fields, arrays)
        record(JOURNAL_SECONDS, time.perf_counter() - started, event=event)
        return written

    def snapshot(self) -> None:
        """Writes the whole state and drops older records.

        Raises:
            StoppedError: the store refused; the older records stay.
        """
        self._journal.snapshot(*self._save())

    def snapshot_due(self) -> bool:
        """True if replay would take longer than reading a snapshot."""
        return self._journal.snapshot_due()
