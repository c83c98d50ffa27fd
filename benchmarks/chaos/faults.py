"""Faults of the store, in every process of a cluster: each tenth write fails, all are slow, or the disk is full.

Failing and slow writes come from a library that is loaded before all others (`faulty_store.c`, so that it needs a
compiler and Linux): the system calls themselves fail, whoever makes them. A full disk is a small tmpfs (it needs root).
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.chaos.check import Undisturbed
from benchmarks.chaos.cluster import Command, LocalCluster
from benchmarks.chaos.trial import Outcome, Place, differences
from benchmarks.chaos.workloads import Workload

_SOURCE = Path(__file__).with_name("faulty_store.c")
_FORM = "4I"  # as in the source
_EVERY, _DELAY_US = 10, 50_000
_FULL_BYTES, _ENOUGH_BYTES = 48 << 10, 64 << 20
_FAULTY_ATTEMPTS, _ATTEMPTS = 2, 5
_LIMIT_S = 900.0
FAULTS = ("tenth_write_fails", "slow_writes", "full_disk")


class FaultyStore:
    """Makes writes below one folder fail or slow, for the processes that have its environment.

    Args:
        folder: for the library and its control.
        store: the folder whose writes are struck.
    """

    def __init__(self, folder: Path, store: Path) -> None:
        library, control = folder / "faulty_store.so", folder / "faulty_store.control"
        subprocess.run(
            ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl"], check=True, capture_output=True
        )
        control.write_bytes(bytes(struct.calcsize(_FORM)))
        with control.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), 0)
        self.environment = {
            "LD_PRELOAD": str(library),
            "COEVO_RAY_CHAOS_CONTROL": str(control),
            "COEVO_RAY_CHAOS_STORE": f"{store}/",  # not the log beside it that begins with its name
        }

    def set(self, every: int = 0, delay_us: int = 0) -> None:
        """Each such write fails, after so long; nothing for a sound store."""
        struct.pack_into("2I", self._control, 0, every, delay_us)

    def counts(self) -> tuple[int, int]:
        """Writes that were looked at so far, and those that failed."""
        _, _, writes, failed = struct.unpack_from(_FORM, self._control)
        return int(writes), int(failed)


def possible() -> list[str]:
    """The faults that can be made here."""
    compiled = list(FAULTS[:2]) if shutil.which("cc") and Path("/proc/self/fd").is_dir() else []
    return [*compiled, *(FAULTS[2:] if os.geteuid() == 0 and shutil.which("mount") else ())]


def run_fault(
    cluster: LocalCluster, place: Place, store: FaultyStore, workload: Workload, fault: str, known: Undisturbed
) -> Outcome:
    """Runs a command on a store with a fault, which is mended in the end; checks what is left.

    Args:
        cluster: whose processes have the store's environment.
        place: where.
        store: below which the result lies.
        workload: the command.
        fault: one of `FAULTS`.
        known: what undisturbed runs have in common.
    """
    outcome, started = Outcome(workload.name, [fault]), time.monotonic()
    before = store.counts()
    with _disk(place.out("faulty"), fault == "full_disk") as folder:
        out = folder  # as deep as the undisturbed run's, since artifacts name each other by relative paths
        for attempt in range(_ATTEMPTS):
            if attempt == _FAULTY_ATTEMPTS:
                _mend(store, folder, fault)
            log = place.folder / f"faulty-{attempt}.log"
            command = cluster.command([*workload.arguments(place.inputs), "--out", str(out), "--json"], log)
            if attempt == 0:
                _strike(store, command, workload, place.notes, out, fault)
            code = command.wait(_LIMIT_S)
            outcome.codes += [] if code is None else [code]
            if code not in (0, 4):
                outcome.lost.append(f"exit code {code}: {command.said()}")
            if code == 0 or outcome.lost:
                break
        else:
            outcome.lost.append(f"given {_ATTEMPTS} times it was not done: {command.said()}")
        _mend(store, folder, fault)
        outcome.lost += [] if outcome.lost else differences(out, known)
    writes, failed = (now - then for now, then in zip(store.counts(), before, strict=True))
    outcome.missed = [] if fault == "full_disk" or failed or (fault == "slow_writes" and writes) else [fault]
    outcome.seconds = round(time.monotonic() - started, 1)
    return outcome


def _strike(store: FaultyStore, command: Command, workload: Workload, notes: Path, out: Path, fault: str) -> None:
    """Begins the fault once the work has begun; a full disk is small from the beginning."""
    while command.running and workload.progress(notes, out) < workload.stride[0]:
        time.sleep(0.01)
    if fault == "tenth_write_fails":
        store.set(every=_EVERY)
    if fault == "slow_writes":
        store.set(delay_us=_DELAY_US)


def _mend(store: FaultyStore, folder: Path, fault: str) -> None:
    store.set()
    if fault == "full_disk":
        subprocess.run(["mount", "-o", f"remount,size={_ENOUGH_BYTES}", str(folder)], check=True)


@contextmanager
def _disk(folder: Path, small: bool) -> Iterator[Path]:
    """The folder, on a small disk of its own if asked for."""
    folder.mkdir()
    if not small:
        yield folder
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_FULL_BYTES}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
