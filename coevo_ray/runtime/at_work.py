"""The work in progress: tasks and actors record what they begin and end, so that a stalled stage can name it.

Ray Data repeats a task whose process died without end. Where a library ends its process on some row (a fault in native
code, an exception that it does not catch), that is for ever. A process that dies leaves its note, which counts them.

Notes are kept by Ray's head in its key-value store, since a board that is an actor would cost every session a process.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.experimental import internal_kv

from coevo_ray.errors import StoppedError

_SPACE = b"coevo-ray"
_SHOWN = 3
_BEAT_S, _GONE_S = 10.0, 60.0  # a note that is not renewed is of a process that ended
# A node that fails takes its processes with it, some tasks several times; after so many it is the work itself.
MOST_DEATHS = 10
_LOCK = threading.Lock()
_OPEN: dict[bytes, dict[str, object]] = {}  # notes of this process
_RENEWING = threading.Event()  # a thread does


@contextmanager
def at_work(what: str) -> Iterator[None]:
    """Notes, for the block, that this process does something, such as "shard 12 by efficientnet_lite:0".

    What is tried again has one note, of the latest attempt. Nothing that goes wrong with a note stops the work.

    Raises:
        StoppedError: the process of this task died with this work `MOST_DEATHS` times.
    """
    if not _there():
        yield
        return
    key = f"{_job()}/{what}".encode()
    task, place = _task(), f"process {os.getpid()} on {socket.gethostname()}"
    former = _get(key)
    deaths = former.get("deaths", 0) + 1 if task and former.get("task") == task else 0
    if deaths >= MOST_DEATHS:
        raise StoppedError(
            f"{what}: the process died {deaths} times with it, last {former.get('where')}",
            "something in it ends the process, or takes more memory than there is: look for the last lines of such a "
            "worker in Ray's logs; take a file out that is damaged, or give the stage fewer rows at a time",
        )
    note: dict[str, object] = {"begun": time.time(), "where": place, "task": task, "deaths": deaths}
    with _LOCK:
        _OPEN[key] = note
        if not _RENEWING.is_set():
            _RENEWING.set()
            threading.Thread(target=_renew, name="coevo-at-work", daemon=True).start()
        _put(key, note)
    try:
        yield
    finally:
        with _LOCK:
            _OPEN.pop(key, None)
            with suppress(Exception):
                internal_kv._internal_kv_del(key, namespace=_SPACE)


def longest_at_work() -> list[str]:
    """This driver's longest running work, in words; none if unknown."""
    if not _there():
        return []
    now, found = time.time(), []
    with suppress(Exception):
        for key in _keys():
            note = _get(key)
            if now - note.get("seen", 0.0) < _GONE_S:
                found.append((note, key.decode().partition("/")[2]))
    found.sort(key=lambda each: float(each[0]["begun"]))
    return [f"{what} since {now - note['begun']:.0f} s ({note['where']})" for note, what in found[:_SHOWN]]


def forget_work() -> None:
    """Takes away the notes of this driver's work, whose processes are about to be ended."""
    if _there():
        with suppress(Exception):
            for key in _keys():
                internal_kv._internal_kv_del(key, namespace=_SPACE)


def _renew() -> None:
    """Renews the notes of this process until there are none."""
    while True:
        time.sleep(_BEAT_S)
        with _LOCK:
            if not _OPEN:
                _RENEWING.clear()
                return
            for key, note in _OPEN.items():
                _put(key, note)


def _get(key: bytes) -> dict[str, Any]:
    """A note; an empty one if there is none."""
    with suppress(Exception):
        value = internal_kv._internal_kv_get(key, namespace=_SPACE)
        return {} if value is None else dict(json.loads(value))
    return {}


def _task() -> str | None:
    """Ray's name for the task of this thread, the same for each attempt; None outside of tasks."""
    with suppress(Exception):
        found = ray.get_runtime_context().get_task_id()
        return None if found is None else str(found)
    return None


def _put(key: bytes, note: dict[str, object]) -> None:
    with suppress(Exception):
        value = json.dumps({**note, "seen": time.time()}).encode()
        internal_kv._internal_kv_put(key, value, overwrite=True, namespace=_SPACE)


def _keys() -> list[bytes]:
    found: list[bytes] = internal_kv._internal_kv_list(f"{_job()}/".encode(), namespace=_SPACE)
    return found


def _there() -> bool:
    return ray.is_initialized() and bool(internal_kv._internal_kv_initialized())  # type: ignore[no-untyped-call]  # untyped


def _job() -> str:
    return str(ray.get_runtime_context().get_job_id())
