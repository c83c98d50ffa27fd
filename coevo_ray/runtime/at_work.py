"""What is at work: tasks and actors note what they begin and end, so that a stage that stops moving can name it.

Notes are kept by Ray's head in its key-value store, since a board that is an actor would cost every session a process.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import ray
from ray.experimental import internal_kv

_SPACE = b"coevo-ray"
_SHOWN = 3


@contextmanager
def at_work(what: str) -> Iterator[None]:
    """Notes, for the block, that this process does something, such as "shard 12 by efficientnet_lite:0".

    What is tried again has one note, of the latest attempt. Nothing that goes wrong with a note stops the work.
    """
    if not _there():
        yield
        return
    key = f"{_job()}/{what}".encode()
    note = {"begun": time.time(), "where": f"process {os.getpid()} on {socket.gethostname()}"}
    with suppress(Exception):
        internal_kv._internal_kv_put(key, json.dumps(note).encode(), overwrite=True, namespace=_SPACE)
    try:
        yield
    finally:
        with suppress(Exception):
            internal_kv._internal_kv_del(key, namespace=_SPACE)


def longest_at_work() -> list[str]:
    """What of this driver's work has been going on for longest, in words; none where it is not known."""
    if not _there():
        return []
    prefix, found = f"{_job()}/".encode(), []
    with suppress(Exception):
        for key in internal_kv._internal_kv_list(prefix, namespace=_SPACE):
            value = internal_kv._internal_kv_get(key, namespace=_SPACE)
            if value is not None:
                found.append((json.loads(value), key.removeprefix(prefix).decode()))
    found.sort(key=lambda each: each[0]["begun"])
    now = time.time()
    return [f"{what} since {now - note['begun']:.0f} s ({note['where']})" for note, what in found[:_SHOWN]]


def _there() -> bool:
    return ray.is_initialized() and bool(internal_kv._internal_kv_initialized())  # type: ignore[no-untyped-call]  # Ray's


def _job() -> str:
    return str(ray.get_runtime_context().get_job_id())
