"""Leases: one process at a time writes an artifact (docs/design.md#leases).

The file `_lease.json` in the artifact's folder says who writes there. A thread renews it while the work goes on. A
lease that was not renewed for its whole time is taken over, and its former holder notices before it writes a manifest.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any, Literal

from coevo_ray.errors import StoppedError, UsageError
from coevo_ray.progress import say
from coevo_ray.store.lease_cells import RELEASED, Cell, Seen
from coevo_ray.store.process import Process, boot_clock

SECONDS = 60.0
_RENEWALS = 6  # within the time of a lease: a slow store may miss some
_LONGEST_S = 3600.0
_LOOK_S = 1.0
_ATTEMPTS = 20

State = Literal["held", "free", "unknown"]


@dataclass(frozen=True)
class Holder:
    """The content of a lease.

    Attributes:
        owner: random name of the lease.
        process: who holds it.
        seconds: how long it lasts after a renewal.
        since: when it was taken, UTC, for people.
        renewed: when it was last renewed, UTC, for people.
        clock: `boot_clock` at that time.
        count: of renewals, so that no two contents are the same.
    """

    owner: str
    process: Process
    seconds: float
    since: str
    renewed: str
    clock: float
    count: int = 0

    @classmethod
    def new(cls, seconds: float, process: Process | None = None) -> Holder:
        """A lease that this process takes now."""
        now = _now()
        return cls(uuid.uuid4().hex, process or Process.current(), seconds, now, now, boot_clock())

    def renewed_now(self) -> Holder:
        """The same with a fresh time."""
        return replace(self, renewed=_now(), clock=boot_clock(), count=self.count + 1)

    def to_bytes(self) -> bytes:
        """Its content as a file."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()

    @classmethod
    def of(cls, content: bytes) -> Holder | None:
        """The lease in a file; None where a crash has damaged it."""
        try:
            fields: dict[str, Any] = json.loads(content)
            seconds, clock = float(fields["seconds"]), float(fields["clock"])
            process = Process(**{**fields["process"], "pid": int(fields["process"]["pid"])})
            holder = cls(**{**fields, "process": process, "seconds": seconds, "clock": clock})
            datetime.fromisoformat(holder.renewed)
        except (ValueError, TypeError, KeyError):
            return None
        return holder if 0 < seconds <= _LONGEST_S and process.pid > 0 else None

    def state(self) -> State:
        """Judges the lease without waiting; clocks of two machines are never compared."""
        if not self.process.is_near():
            return "unknown"
        if self.process.has_ended():
            return "free"
        return "held" if 0 <= boot_clock() - self.clock <= self.seconds else "free"

    def described(self) -> str:
        """Describes the holder, since when and until when."""
        expires = (datetime.fromisoformat(self.renewed) + timedelta(seconds=self.seconds)).isoformat(timespec="seconds")
        who = f"process {self.process.pid} on {self.process.host}"
        return f"{who} writes there since {self.since} (its lease expires {expires} unless it is renewed)"


@dataclass(frozen=True)
class Waiting:
    """The way to wait for a lease of another machine, whose clock says nothing here.

    Attributes:
        clock: seconds, monotonic.
        sleep: waits for so many seconds.
    """

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(eq=False)
class Lease:
    """A lease that this process holds. Made by `take`; safe to use in threads.

    Attributes:
        cell: its file.
        place: the folder, for messages.
        holder: its content.
        seen: what the file held last.
        lost: whether somebody else has it, or it was deleted.
        made_by: pid of the process that took it.
    """

    cell: Cell
    place: str
    holder: Holder
    seen: Seen
    lost: bool = False
    made_by: int = field(default_factory=os.getpid)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)

    def renew(self) -> bool:
        """Renews it; False once it is lost.

        Raises:
            OSError: the store failed, which changes nothing.
        """
        with self._lock:
            if self.lost or self._ended.is_set():
                return not self.lost
            fresh = self.holder.renewed_now()
            seen = self.cell.replace(fresh.to_bytes(), self.seen)
            if seen is None:
                seen = self._written_after_all()
            self.lost = seen is None
            if seen is not None:
                self.seen, self.holder = seen, fresh
            return not self.lost

    def _written_after_all(self) -> Seen | None:
        """The file, if a renewal wrote it whose answer did not come back."""
        there = self.cell.read()
        return there if there is not None and _is_of(there, self.holder) else None

    def confirm(self) -> None:
        """Renews it now.

        Raises:
            StoppedError: it is lost, or the store failed.
        """
        try:
            kept = self.renew()
        except OSError as error:
            raise self._not_renewed(error) from error
        if not kept:
            self.refuse()

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Renews it for a block that makes results seen, and checks after the block that it was held all the time.

        Where its store has locks nobody takes it over within the block, even while this process is suspended there.

        Raises:
            StoppedError: it was lost before the block, which is not entered then, or within it; or the store failed.
        """
        self.confirm()
        with self._lock, ExitStack() as stack:
            try:
                self.lost = not stack.enter_context(self.cell.kept(self.seen))
            except OSError as error:
                raise self._not_renewed(error) from error
            if not self.lost:
                yield
        try:
            there = None if self.lost else self.cell.read()
        except OSError as error:
            raise self._not_renewed(error) from error
        if there is None or not _is_of(there, self.holder):
            self.lost = True
            self.refuse()

    def _not_renewed(self, error: OSError) -> StoppedError:
        return StoppedError(
            f"cannot renew the lease on {self.place}: {error}",
            "restore the store, then run the same command again: finished parts are kept",
        )

    def is_overdue(self) -> bool:
        """Tests if it went without renewal for its whole time, so that another may hold it; asks no store."""
        return boot_clock() - self.holder.clock > self.holder.seconds

    def refuse(self) -> None:
        """Says that it is lost.

        Raises:
            StoppedError: always.
        """
        raise StoppedError(
            f"the lease on {self.place} is lost: this process did not renew it for {self.holder.seconds:g} s (it was "
            "suspended, or the store did not answer) and another process took over, or it was deleted",
            "let the other process finish, then run the same command again: finished parts are kept",
        )

    def keep(self) -> None:
        """Renews it in a thread until it is released or lost."""
        threading.Thread(target=self._keep, name=f"lease on {self.place}", daemon=True).start()

    def _keep(self) -> None:
        while not self._ended.wait(self.holder.seconds / _RENEWALS):
            try:
                if not self.renew():
                    return
            except OSError:
                continue  # whoever needs the lease asks again, and is told

    def release(self) -> None:
        """Releases it; if the store fails now, it expires later."""
        self._ended.set()
        if os.getpid() != self.made_by:
            return  # a fork has a copy of this object, and not the lease
        with self._lock:
            try:
                if not self.lost:
                    self.cell.remove(self.seen)
            except OSError:
                pass


def take(
    cell: Cell,
    place: str,
    seconds: float = SECONDS,
    waiting: Waiting | None = None,
    process: Process | None = None,
) -> Lease:
    """Takes a lease, or takes it over from a holder that is gone.

    A process of this machine is known to have ended, and its lease is taken at once. That of another machine is taken
    once it did not change for its whole time, by the clock of this one.

    Args:
        cell: file of the lease.
        place: its folder, for messages.
        seconds: how long the new lease lasts after a renewal.
        waiting: how to wait.
        process: who takes it; None for this one.

    Raises:
        UsageError: somebody holds it.
        OSError: the store failed.
    """
    waiting, holder = waiting or Waiting(), Holder.new(seconds, process)
    watched: _Watched | None = None
    for _ in range(_ATTEMPTS + int(_LONGEST_S / _LOOK_S)):
        seen = cell.create(holder.to_bytes())
        if seen is not None:
            return Lease(cell, place, holder, seen)
        there = cell.read()
        if there is None:
            continue  # released just now
        if _is_of(there, holder):
            return Lease(cell, place, holder, there)  # the answer of an earlier try was lost
        if watched is not None and there.content != watched.seen.content:
            raise _refusal(place, there)
        watched = watched or _Watched(there, waiting.clock(), seconds)
        if watched.is_free(waiting, place):
            try:
                seen = cell.replace(holder.to_bytes(), there)
            except BlockingIOError as error:  # its holder was suspended while it wrote a manifest, and will end that
                raise _refusal(place, there) from error
            if seen is not None:
                return Lease(cell, place, holder, seen)
            watched = None
    raise _refusal(place, cell.read())


def _is_of(seen: Seen, holder: Holder) -> bool:
    there = Holder.of(seen.content)
    return there is not None and there.owner == holder.owner


class _Watched:
    """A lease of somebody else, watched until it changes or expires."""

    def __init__(self, seen: Seen, started: float, seconds: float) -> None:
        self.seen, self.started, self.said = seen, started, False
        self.holder = Holder.of(seen.content)
        self.seconds = seconds if self.holder is None else self.holder.seconds

    def is_free(self, waiting: Waiting, place: str) -> bool:
        """Tests whether it may be taken over; waits for a moment if that is not clear yet.

        Raises:
            UsageError: it is held.
        """
        if self.seen.content == RELEASED:
            return True
        state = "unknown" if self.holder is None else self.holder.state()
        if state == "held":
            raise _refusal(place, self.seen)
        left = self.started + self.seconds - waiting.clock()
        if state == "free" or left <= 0:
            return True
        if not self.said:
            self.said = True
            who = "a damaged lease" if self.holder is None else self.holder.described()
            say(f"{place}: {who}; checking for up to {self.seconds:g} s whether it is still active")
        waiting.sleep(min(_LOOK_S, left))
        return False


def _refusal(place: str, seen: Seen | None) -> UsageError:
    holder = None if seen is None else Holder.of(seen.content)
    who = "other processes write there, one after another" if holder is None else holder.described()
    stop = "" if holder is None else f", or stop it (kill {holder.process.pid} on {holder.process.host})"
    seconds = SECONDS if holder is None else holder.seconds
    return UsageError(
        f"{place} is being written: {who}",
        f"wait until it is done{stop}, then run the command again; the lease of a process that died is taken over at "
        f"once on its own machine, after {seconds:g} s on others",
    )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
