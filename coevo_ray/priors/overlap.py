"""Forward passes batch by batch; on a CUDA device one computes while the next one's inputs are copied."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from coevo_ray.core.arrays import AnyArray, Float32Array
from coevo_ray.core.feed.device_copies import DeviceCopies

Forward = Callable[[torch.Tensor], torch.Tensor]
# Waits for a forward pass: its features, and the seconds that the device took.
_Result = Callable[[], tuple[Float32Array, float]]


class Overlap:
    """Runs forward passes on a device.

    On a CUDA device two batches are under way: the second is copied, and its pass queued, while the first is computed.
    The host waits for the first before it begins a third, so at most two batches hold memory.

    Args:
        device: where inputs are computed.
    """

    def __init__(self, device: torch.device) -> None:
        self._copies = DeviceCopies(device)
        self._on_gpu = device.type == "cuda"

    def run(self, parts: Iterable[AnyArray], forward: Forward) -> Iterator[tuple[Float32Array, float]]:
        """Computes batch after batch.

        Args:
            parts: inputs of each batch, [b, ...] of one type.
            forward: inputs on the device -> features float32[b, dim] there; on a CUDA device called one batch ahead of
                the results.

        Yields:
            Features float32[b, dim] of each batch, in order, and the seconds of its forward pass.
        """
        under_way: deque[_Result] = deque()
        for part in parts:
            if len(under_way) == (2 if self._on_gpu else 1):
                yield under_way.popleft()()
            under_way.append(self._begun(part, forward))
        while under_way:
            yield under_way.popleft()()

    def _begun(self, part: AnyArray, forward: Forward) -> _Result:
        (inputs,) = self._copies.send([_host_tensor(part, pinned=self._on_gpu)]).receive()
        return _queued(inputs, forward) if self._on_gpu else _computed(inputs, forward)


def _host_tensor(array: AnyArray, *, pinned: bool) -> torch.Tensor:
    """A tensor of an array's values; without a copy where the array is writeable and contiguous, and not pinned."""
    if not pinned:
        # PyTorch warns of read-only memory and refuses negative strides.
        return torch.from_numpy(np.require(array, requirements=["C_CONTIGUOUS", "WRITEABLE"]))
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    host = torch.empty(array.shape, dtype=dtype, pin_memory=True)
    np.copyto(host.numpy(), array)
    return host


def _computed(inputs: torch.Tensor, forward: Forward) -> _Result:
    started = time.perf_counter()
    features: Float32Array = forward(inputs).cpu().numpy()
    seconds = time.perf_counter() - started
    return lambda: (features, seconds)


def _queued(inputs: torch.Tensor, forward: Forward) -> _Result:
    """Queues a pass on the device's current stream, and the copy of its features to pinned memory behind it."""
    stream = torch.cuda.current_stream(inputs.device)
    event: Callable[..., torch.cuda.Event] = torch.cuda.Event  # torch leaves its arguments untyped
    started = event(enable_timing=True)
    # A blocking wait leaves the core to the threads that decode.
    done = event(enable_timing=True, blocking=True)
    started.record(stream)
    features = forward(inputs)
    host = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
    host.copy_(features, non_blocking=True)
    done.record(stream)

    def result() -> tuple[Float32Array, float]:
        done.synchronize()
        return host.numpy(), started.elapsed_time(done) / 1000

    return result
