"""Batches, and how they are made ahead of the training loop and brought to its device."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import pyarrow as pa
import torch

from coevo_ray.core.arrays import Int64Array, UInt64Array
from coevo_ray.core.feed.device_copies import DeviceCopies, SentTensors

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
        texts: the rows' texts, of a feed of texts without a tokenizer; else None.
    """

    tensors: Tensors
    row_ids: Int64Array
    weights: torch.Tensor
    offset: int
    global_rows: int
    texts: list[str] | None = None

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]


def share_new_tensors() -> None:
    """From now on `new_tensor` takes shared memory: called in processes that make tensors for others."""
    global _shared
    _shared = True


def new_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Allocates an uninitialised tensor for a batch; in shared memory in a process that makes tensors for others.

    Otherwise the tensor would be copied, once it is full, when it is sent to the other process.
    """
    tensor = torch.empty(shape, dtype=dtype)
    if _shared:
        tensor.share_memory_()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return tensor


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
    """Batches as they come, with their tensors on a device; for a GPU each is copied while the one before is used."""
    if device.type == "cpu":
        return batches
    return _received(ahead(_sent(batches, DeviceCopies(device)), 1))


def _sent(batches: Iterator[Batch], copies: DeviceCopies) -> Iterator[tuple[Batch, SentTensors]]:
    for batch in batches:
        yield batch, copies.send([batch.weights, *batch.tensors.values()])


def _received(sent: Iterator[tuple[Batch, SentTensors]]) -> Iterator[Batch]:
    for batch, on_the_way in sent:
        weights, *tensors = on_the_way.receive()
        yield replace(batch, weights=weights, tensors=dict(zip(batch.tensors, tensors, strict=True)))


def network_input(batch: Batch, column: str, device: torch.device) -> torch.Tensor:
    """Takes a batch's samples to a device, in the layout that networks are fastest in.

    Args:
        batch: with the samples as `column`.
        column: name of the tensor.
        device: of the network.
    """
    return laid_out(batch[column].to(device, non_blocking=True))


def laid_out(samples: torch.Tensor) -> torch.Tensor:
    """Images channels last, the layout that convolutions are fastest in; other samples as they are."""
    return samples.contiguous(memory_format=torch.channels_last) if samples.dim() == 4 else samples


def joined(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Samples of two batches as one; tokens, which are as wide as their batch needs, get -1 behind the shorter ones."""
    if not first.is_floating_point() and first.dim() == 2:
        widest = max(first.shape[1], second.shape[1])
        first, second = (
            torch.nn.functional.pad(tokens, (0, widest - tokens.shape[1]), value=-1) for tokens in (first, second)
        )
    return torch.cat([first, second])
