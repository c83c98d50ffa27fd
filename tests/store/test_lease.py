from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from coevo_ray.errors import StoppedError, UsageError
from coevo_ray.store.lease import Holder, Lease, Waiting, take
from coevo_ray.store.lease_cells import Seen
from coevo_ray.store.process import Process, boot_clock
from tests.store.cells import Clock, MemoryCell

ELSEWHERE = Process("far", 7, "1", "another boot")


def hold(cell: MemoryCell, holder: Holder) -> Seen:
    """Writes a lease as another process would."""
    cell.there = None
    seen = cell.create(holder.to_bytes())
    assert seen is not None
    return seen


def waiting(clock: Clock) -> Waiting:
    return Waiting(clock, clock.sleep)


def test_a_lease_names_its_holder_and_is_given_back() -> None:
    cell = MemoryCell()
    lease = take(cell, "the pool")
    there = cell.read()
    assert there is not None and Holder.of(there.content) == lease.holder
    assert lease.holder.process == Process.current()
    lease.release()
    assert cell.read() is None


def test_a_second_writer_of_this_machine_is_refused_at_once() -> None:
    cell, clock = MemoryCell(), Clock()
    lease = take(cell, "the pool")
    with pytest.raises(UsageError) as caught:
        take(cell, "the pool", waiting=waiting(clock))
    assert clock.now == 0
    text = str(caught.value)
    process = lease.holder.process
    for part in ("the pool", f"process {process.pid} on {process.host}", lease.holder.since, "expires", "kill"):
        assert part in text


def test_the_lease_of_a_process_that_ended_here_is_taken_at_once() -> None:
    cell, clock = MemoryCell(), Clock()
    me = Process.current()
    hold(cell, Holder.new(60, replace(me, started=str(int(me.started) - 1))))
    lease = take(cell, "the pool", waiting=waiting(clock))
    assert clock.now == 0 and lease.renew()


def test_a_lease_that_a_running_process_of_this_machine_did_not_renew_is_taken() -> None:
    cell, clock = MemoryCell(), Clock()
    former = take(cell, "the pool", seconds=60)
    # As after a minute in which this process was suspended.
    late = replace(former.holder, clock=boot_clock() - 61)
    former.seen, former.holder = hold(cell, late), late
    take(cell, "the pool", waiting=waiting(clock))
    with pytest.raises(StoppedError, match="the lease on the pool is lost"):
        former.confirm()
    assert former.lost and not former.renew()


@pytest.mark.parametrize("years", [-30, 0, 30])
def test_a_lease_from_elsewhere_is_taken_after_its_time_whatever_the_clocks_say(years: int) -> None:
    cell, clock = MemoryCell(), Clock()
    holder = replace(Holder.new(45, ELSEWHERE), clock=years * 3e7, renewed=f"{2026 + years}-01-01T00:00:00+00:00")
    hold(cell, holder)
    lease = take(cell, "the pool", waiting=waiting(clock))
    assert 45 <= clock.now <= 47
    assert lease.renew()


def test_a_writer_elsewhere_that_renews_is_noticed() -> None:
    cell, clock = MemoryCell(), Clock()
    holder = Holder.new(45, ELSEWHERE)
    seen = hold(cell, holder)

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now > 8:
            cell.replace(holder.renewed_now().to_bytes(), seen)

    with pytest.raises(UsageError, match="process 7 on far"):
        take(cell, "the pool", waiting=Waiting(clock, sleep))
    assert clock.now < 12


def test_of_two_that_wait_for_a_lease_one_gets_it() -> None:
    cell, clock = MemoryCell(), Clock()
    hold(cell, Holder.new(45, ELSEWHERE))
    others: list[Lease] = []

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now >= 45 and not others:
            others.append(take(cell, "the pool", waiting=waiting(Clock()), process=replace(ELSEWHERE, pid=8)))

    with pytest.raises(UsageError, match="process 8 on far"):
        take(cell, "the pool", waiting=Waiting(clock, sleep))
    assert others[0].renew()


def damaged(**fields: object) -> bytes:
    return json.dumps({**json.loads(Holder.new(1, ELSEWHERE).to_bytes()), **fields}).encode()


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b'{"owner": "x"}', b"\xff"),
        *(damaged(seconds=1e12), damaged(seconds="x"), damaged(seconds=-1), damaged(clock=None), damaged(renewed="")),
        *(damaged(process={}), damaged(process={**asdict(ELSEWHERE), "pid": -1}), damaged(more=1)),
    ],
)
def test_a_damaged_lease_expires(content: bytes) -> None:
    cell, clock = MemoryCell(), Clock()
    cell.create(content)
    assert take(cell, "the pool", seconds=60, waiting=waiting(clock)).renew()
    assert 60 <= clock.now <= 62


def test_a_deleted_lease_is_lost() -> None:
    cell = MemoryCell()
    lease = take(cell, "the pool")
    cell.there = None
    with pytest.raises(StoppedError, match="deleted"):
        lease.confirm()
    lease.release()
    assert cell.read() is None


def test_a_renewal_whose_answer_was_lost_is_known_again() -> None:
    class Flaky(MemoryCell):
        def replace(self, content: bytes, seen: Seen) -> Seen | None:
            super().replace(content, seen)
            return None  # a client that tried again is told that the first try was somebody else

    cell = Flaky()
    lease = take(cell, "the pool")
    assert lease.renew()
    assert lease.seen == cell.read()


def test_a_store_that_fails_stops_the_work_and_loses_nothing() -> None:
    class Broken(MemoryCell):
        broken = True

        def replace(self, content: bytes, seen: Seen) -> Seen | None:
            if self.broken:
                raise OSError("no route to host")
            return super().replace(content, seen)

    cell = Broken()
    lease = take(cell, "the pool")
    with pytest.raises(StoppedError, match="no route to host"):
        lease.confirm()
    cell.broken = False
    lease.confirm()


def test_a_store_without_locks_tells_afterwards_that_another_one_took_over() -> None:
    cell, clock = MemoryCell(), Clock()
    late = take(cell, "the pool", seconds=60)
    with pytest.raises(StoppedError, match="the lease on the pool is lost"), late.committing():
        expired = replace(late.holder, clock=boot_clock() - 61)
        hold(cell, expired)
        take(cell, "the pool", waiting=waiting(clock))
    assert late.lost
    with pytest.raises(StoppedError), late.committing():
        raise AssertionError("it went on")


class Writers(RuleBasedStateMachine):
    """Three writers on machines of their own, whose steps and delays come in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = MemoryCell()
        self.time = 0.0
        self.leases: dict[int, Lease] = {}
        self.renewed: dict[int, float] = {}
        self.manifests: list[int] = []

    @rule(who=st.integers(1, 3), passes=st.booleans())
    def take(self, who: int, passes: bool) -> None:
        """A writer comes; while it looks, the others stand still."""
        if who in self.leases:
            return
        clock = Clock()
        try:
            lease = take(self.cell, "here", 10, waiting(clock), replace(ELSEWHERE, pid=who))
        except UsageError:
            raise AssertionError("nobody renewed") from None
        finally:
            self.time += clock.now
        for other, at in self.renewed.items():
            # A lease renewed within its time is still held. Sums of this test's times are rounded.
            assert other not in self.leases or self.leases[other].lost or self.time - at >= 10 - 1e-9
        self.leases[who], self.renewed[who] = lease, self.time

    @rule(who=st.integers(1, 3))
    def come_while_the_holder_works(self, who: int) -> None:
        """A writer comes while whoever holds the lease renews it."""
        holders = [one for one in self.leases.values() if one.seen == self.cell.read()]
        if who in self.leases or not holders:
            return
        clock = Clock()

        def sleep(seconds: float) -> None:
            clock.sleep(seconds)
            holders[0].renew()

        with pytest.raises(UsageError):
            take(self.cell, "here", 10, Waiting(clock, sleep), replace(ELSEWHERE, pid=who))

    @rule(who=st.integers(1, 3))
    def renew(self, who: int) -> None:
        if who in self.leases and self.leases[who].renew():
            self.renewed[who] = self.time

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds: float) -> None:
        self.time += seconds

    @rule(who=st.integers(1, 3))
    def finish(self, who: int) -> None:
        """The manifest is written only by whoever has the lease at that moment."""
        if who not in self.leases:
            return
        lease = self.leases.pop(who)
        try:
            lease.confirm()
        except StoppedError:
            return
        there = self.cell.read()
        assert there is not None
        now = Holder.of(there.content)
        assert now is not None and now.process.pid == who
        lease.release()
        assert self.cell.read() is None

    @rule(who=st.integers(1, 3))
    def die(self, who: int) -> None:
        self.leases.pop(who, None)

    @invariant()
    def at_most_one_is_right(self) -> None:
        there = self.cell.read()
        assert sum(lease.seen == there for lease in self.leases.values()) <= 1


TestWriters = Writers.TestCase
TestWriters.settings = settings(max_examples=60, stateful_step_count=25, derandomize=True, deadline=None)
