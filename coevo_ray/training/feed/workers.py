"""Processes that make tensors of rows, for transforms that one core cannot keep up with.

Threads would share one interpreter: for small images and for transforms written in Python they gain next to nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
import weakref
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pyarrow as pa
import torch
import torch.multiprocessing  # teaches multiprocessing to pass tensors through shared memory

from coevo_ray.core.arrays import AnyArray, UInt64Array
from coevo_ray.errors import StoppedError, UsageError
from coevo_ray.training.feed.batch import share_new_tensors

_LOOK_EVERY_S = 1.0
# Shared memory costs a connection between the processes for each tensor; smaller ones are copied faster than that.
_SHARED_BYTES = 1 << 16
_COPIED_TYPES = (torch.int64, torch.float32, torch.uint8)
Packed = dict[str, torch.Tensor | AnyArray]
_transform: Any = None


class MakerProcesses:
    """Processes that call a feed's transform.

    They are started fresh rather than forked, because a training worker holds threads, locks and perhaps a GPU, and
    they end with the process that started them, however that ends.

    Args:
        transform: see `Feed`.
        count: number of processes.

    Raises:
        UsageError: the transform cannot be sent to another process.
    """

    def __init__(self, transform: Any, count: int) -> None:
        import ray.cloudpickle  # unlike pickle it can send lambdas and classes of the main script

        try:
            packed: bytes = ray.cloudpickle.dumps(transform)  # type: ignore[no-untyped-call]  # Ray leaves it untyped
        except Exception as error:  # what cannot be pickled raises almost anything
            raise UsageError(
                f"the transform cannot be sent to processes: {error}",
                "use workers=0, or open what it holds when called",
            ) from error
        self._pool = ProcessPoolExecutor(
            count, multiprocessing.get_context("spawn"), initializer=_start, initargs=(packed, os.getpid())
        )
        self._end = weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    def make(self, rows: pa.Table, seeds: UInt64Array) -> Future[Packed]:
        """Hands rows to the next free process.

        Raises:
            StoppedError: a process died.
        """
        try:
            return self._pool.submit(_make, rows, seeds)
        except BrokenProcessPool as error:
            raise _died() from error

    @staticmethod
    def result(future: Future[Packed]) -> dict[str, torch.Tensor]:
        """The tensors; waits for them.

        Raises:
            StoppedError: a process died.
            CoevoError: what the transform raised.
        """
        try:
            made = future.result()
        except BrokenProcessPool as error:
            raise _died() from error
        return {name: x if isinstance(x, torch.Tensor) else torch.from_numpy(x) for name, x in made.items()}

    def close(self) -> None:
        """Ends the processes."""
        self._end.detach()
        self._pool.shutdown(wait=True, cancel_futures=True)


def _died() -> StoppedError:
    return StoppedError(
        "a process that makes the feed's tensors died",
        "see its output above; if memory ran out, use fewer workers, a smaller batch or a smaller prefetch",
    )


def _start(packed: bytes, parent: int) -> None:
    global _transform
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training process ends it
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)  # there is a process for each core that was meant
    share_new_tensors()
    _transform = pickle.loads(packed)


def _end_with(parent: int) -> None:
    """A training process that is killed cannot end what it has started."""
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY_S)
    os._exit(1)


def _make(rows: pa.Table, seeds: UInt64Array) -> Packed:
    made: dict[str, torch.Tensor] = _transform(rows, seeds)
    return {name: tensor.numpy() if _is_small(tensor) else tensor for name, tensor in made.items()}


def _is_small(tensor: torch.Tensor) -> bool:
    return tensor.nbytes < _SHARED_BYTES and tensor.dtype in _COPIED_TYPES
