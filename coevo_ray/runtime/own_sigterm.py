"""Keeps a process's own handler of SIGTERM in place while Ray starts in it."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ray._private import ray_constants

_CONSTANT = "RAY_DISABLE_FAILURE_SIGNAL_HANDLER"
_STRUCT_BYTES = 1024  # more than any system's sigaction takes
_EVERY_S = 0.002


@contextmanager
def own_sigterm() -> Iterator[None]:
    """Keeps the handler within the block, if this is the main thread and it has one of Python's.

    Ray's native start installs a handler that writes a stack trace and aborts the process. Newer versions of Ray read a
    constant first. With others the handler is put back again and again: Python can set handlers in its main thread
    alone, which is in Ray's start, and a blocked signal would be blocked in the processes that it starts, too.
    """
    if threading.current_thread() is not threading.main_thread() or not callable(signal.getsignal(signal.SIGTERM)):
        yield
    elif hasattr(ray_constants, _CONSTANT):
        before = getattr(ray_constants, _CONSTANT)
        setattr(ray_constants, _CONSTANT, True)
        try:
            yield
        finally:
            setattr(ray_constants, _CONSTANT, before)
    else:
        with _held():
            yield


@contextmanager
def _held() -> Iterator[None]:
    library, own, over = ctypes.CDLL(None), ctypes.create_string_buffer(_STRUCT_BYTES), threading.Event()
    library.sigaction(signal.SIGTERM.value, None, own)

    def hold() -> None:
        while not over.wait(_EVERY_S):
            library.sigaction(signal.SIGTERM.value, own, None)

    holder = threading.Thread(target=hold, name="coevo-sigterm", daemon=True)
    holder.start()
    try:
        yield
    finally:
        over.set()
        holder.join()
