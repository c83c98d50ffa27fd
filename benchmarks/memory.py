"""Memory of a process and all that it has started, sampled while it runs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_EVERY_S = 0.5
OWN_EVERY_S = 0.02


class Sampler:
    """Largest proportional set size (PSS) of this process and its descendants together.

    Shared pages count once over all processes, so that Ray's object store and PyTorch's libraries do too.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()  # what is shorter than an interval has one too

    def _run(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self._sample()

    def _sample(self) -> None:
        self.peak_bytes = max(self.peak_bytes, sum(_pss(pid) for pid in family(os.getpid())))


@contextmanager
def own_memory(named: Callable[[int, str], str]) -> Iterator[dict[str, int]]:
    """Largest memory of each kind of process while the block runs, less what others share (RssAnon), in bytes.

    Args:
        named: process, its command line -> its kind; "" for one that is not measured.

    Yields:
        Kind -> bytes, of the process of that kind that had most.
    """
    peaks: dict[str, int] = {}
    ended = threading.Event()

    def run() -> None:
        pids, again = set[int](), 0.0
        while not ended.wait(OWN_EVERY_S):
            if time.monotonic() > again:
                pids, again = family(os.getpid()), time.monotonic() + 0.5
            for pid in pids:
                if kind := named(pid, _command(pid)):
                    peaks[kind] = max(peaks.get(kind, 0), anonymous(pid))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def anonymous(pid: int) -> int:
    """Memory of a process that no other shares, in bytes; 0 for one that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:"))


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def family(root: int) -> set[int]:
    """A process and its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text()
            except OSError:  # it has ended
                continue
            parents[int(entry.name)] = int(status.rpartition(")")[2].split()[1])
    family, more = set(), {root}
    while more:
        family |= more
        more = {pid for pid, parent in parents.items() if parent in more} - family
    return family


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
