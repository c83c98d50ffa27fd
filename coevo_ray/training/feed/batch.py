"""What a feed hands out, and how it gets ahead of who takes it."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import pyarrow as pa
import torch

from coevo_ray.core.arrays import Int64Array, UInt64Array

Tensors = dict[str, torch.Tensor]
Transform = Callable[[pa.Table, UInt64Array], Tensors]
Item = TypeVar("Item")
_END = object()
_shared = False


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch.

    Attributes:
        tensors: what the transform made of the rows, first dimension rows; also `batch[name]`.
        row_ids: int64[rows].
        weights: float32[rows]; 0 for padding, which repeats a row so that all ranks have equal shapes.
        offset: global samples of the epoch that are done after this batch.
        global_rows: real rows of the global batch; dividing the weighted sum of losses by it, times the number
            of workers, makes DDP's mean gradient independent of that number.
    """

    tensors: Tensors
    row_ids: Int64Array
    weights: torch.Tensor
    offset: int
    global_rows: int

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]


def share_new_tensors() -> None:
    """From now on `new_tensor` takes shared memory: called in processes that make tensors for others."""
    global _shared
    _shared = True


def new_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """An uninitialised tensor for a batch; where another process will have it, in memory that needs no copy."""
    if not _shared:
        return torch.empty(shape, dtype=dtype)
    # As torch's own collate does in a DataLoader's workers.
    new_shared = torch.UntypedStorage._new_shared
    storage = new_shared(math.prod(shape) * dtype.itemsize, device="cpu")  # type: ignore[no-untyped-call]  # torch leaves it so
    return torch.empty(0, dtype=dtype).set_(storage).view(shape)


def ahead(items: Iterator[Item], depth: int) -> Iterator[Item]:
    """Makes items in a thread, at most `depth` ahead of what was taken; ends the thread when the taker stops early."""
    ready: queue.Queue[object] = queue.Queue()
    room = threading.Semaphore(depth)
    stop = threading.Event()

    def work() -> None:
        try:
            while True:
                room.acquire()
                if stop.is_set():
                    break
                ready.put(next(items, _END))
        except BaseException as error:  # noqa: BLE001 - handed to the taker, who raises it
            ready.put(error)
        finally:
            # Generators end what they have begun, and in the thread that ran them.
            getattr(items, "close", lambda: None)()

    thread = threading.Thread(target=work, daemon=True, name="coevo-feed")
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item  # type: ignore[misc]  # the queue holds items, errors and the end
            room.release()
            del item
    finally:
        stop.set()
        room.release()
        thread.join()


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Batches as they come, with their tensors on a device.

    For a GPU a thread copies the next batch from pinned memory on a stream of its own while the present one is used.
    """
    if device.type == "cpu":
        return batches
    if device.type != "cuda":
        return (_moved(batch, device) for batch in batches)
    return _arrived(ahead(_copied(batches, device), 1), device)


def _moved(batch: Batch, device: torch.device) -> Batch:
    tensors = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.tensors.items()}
    return replace(batch, tensors=tensors, weights=batch.weights.to(device, non_blocking=True))


def _copied(batches: Iterator[Batch], device: torch.device) -> Iterator[tuple[Batch, torch.cuda.Event]]:
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    for batch in batches:
        pinned = {name: tensor.pin_memory() for name, tensor in batch.tensors.items()}
        with torch.cuda.stream(stream):
            moved = _moved(replace(batch, tensors=pinned, weights=batch.weights.pin_memory()), device)
            copied = stream.record_event()
        yield moved, copied


def _arrived(copies: Iterator[tuple[Batch, torch.cuda.Event]], device: torch.device) -> Iterator[Batch]:
    for batch, copied in copies:
        stream = torch.cuda.current_stream(device)
        stream.wait_event(copied)
        for tensor in (batch.weights, *batch.tensors.values()):
            # The memory belongs to the copying stream: it must not be given out again before this one is done with it.
            tensor.record_stream(stream)
        yield batch
