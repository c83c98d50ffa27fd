"""Transfer to a CUDA device while it computes: pinned buffers, a separate stream for copies, no wait per batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle

import numpy as np
import torch

from coevo_ray.core.arrays import AnyArray, Float32Array
from coevo_ray.priors.base import Prior

_SLOTS = 2


class _Slot:
    """Buffers of one batch, and the events after which they are free."""

    def __init__(self, prior: Prior, rows: int, device: torch.device) -> None:
        dtype = torch.from_numpy(np.empty(0, prior.input.dtype)).dtype
        self.host = torch.empty((rows, *prior.input.shape), dtype=dtype, pin_memory=True)
        self.inputs = torch.empty_like(self.host, device=device)
        self.features = torch.empty((rows, prior.info.dim), pin_memory=True)
        # PyTorch leaves events and streams untyped.
        self.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.started = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        # A blocking wait leaves the core to decoding.
        self.done = torch.cuda.Event(  # type: ignore[no-untyped-call]
            enable_timing=True, blocking=True
        )
        self.rows = 0


class Overlap:
    """Two alternating slots: while one is computed, the other is filled and sent.

    The host waits for a slot's `done` before it fills the slot again, so that neither its pinned nor its device memory
    is overwritten in use, and record_stream is not needed.

    Args:
        prior: the model.
        rows: the most rows of a batch.
        device: a CUDA device.
    """

    def __init__(self, prior: Prior, rows: int, device: torch.device) -> None:
        self._compute = torch.cuda.current_stream(device)
        self._copy = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._slots = [_Slot(prior, rows, device) for _ in range(_SLOTS)]
        # The compute stream may still use the slots' device memory.
        self._copy.wait_stream(self._compute)

    def run(
        self, parts: Iterable[AnyArray], forward: Callable[[torch.Tensor], torch.Tensor]
    ) -> Iterator[tuple[Float32Array, float]]:
        """Computes batch after batch.

        Args:
            parts: inputs of each batch.
            forward: inputs on the device -> features float32[b, dim] on it; called one batch ahead of the results.

        Yields:
            Features of each batch, in order and valid until the next is requested, and seconds of its forward pass.
        """
        under_way: deque[_Slot] = deque()
        try:
            for part, slot in zip(parts, cycle(self._slots), strict=False):
                if len(under_way) == len(self._slots):
                    yield _result(under_way.popleft())
                self._send(slot, part)
                self._start(slot, forward)
                under_way.append(slot)
            while under_way:
                yield _result(under_way.popleft())
        finally:
            self.wait()

    def wait(self) -> None:
        """Waits until the slots are out of use, also after an error."""
        self._copy.synchronize()
        self._compute.synchronize()

    def _send(self, slot: _Slot, part: AnyArray) -> None:
        slot.rows = len(part)
        np.copyto(slot.host.numpy()[: slot.rows], part)
        with torch.cuda.stream(self._copy):
            slot.inputs[: slot.rows].copy_(slot.host[: slot.rows], non_blocking=True)
            slot.copied.record(self._copy)

    def _start(self, slot: _Slot, forward: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._compute.wait_event(slot.copied)
        slot.started.record(self._compute)
        features = forward(slot.inputs[: slot.rows])
        slot.features[: slot.rows].copy_(features, non_blocking=True)
        slot.done.record(self._compute)


def _result(slot: _Slot) -> tuple[Float32Array, float]:
    slot.done.synchronize()
    return slot.features[: slot.rows].numpy(), slot.started.elapsed_time(slot.done) / 1000
