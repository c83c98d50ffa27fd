"""Copies to a device that overlap with its work: pinned memory, a stream of its own, no wait of the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SentTensors:
    """Tensors on their way to a device.

    Attributes:
        tensors: on the device; not to be read before `receive`.
        copied: recorded behind the copies; None where they are done.
    """

    tensors: list[torch.Tensor]
    copied: torch.cuda.Event | None

    def receive(self) -> list[torch.Tensor]:
        """The tensors, for work on the device's current stream, which waits for the copies; the host does not."""
        if self.copied is not None:
            stream = torch.cuda.current_stream(self.tensors[0].device)
            stream.wait_event(self.copied)
            for tensor in self.tensors:
                # The memory belongs to the copying stream: it must not be given out again before this one is done.
                tensor.record_stream(stream)
        return self.tensors


class DeviceCopies:
    """Sends tensors to a device: to a CUDA device beside its work, to any other one at once.

    PyTorch's allocators keep the pinned and the device memory of a copy from being used again before it is done.

    Args:
        device: where tensors go.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def send(self, tensors: Sequence[torch.Tensor]) -> SentTensors:
        """Begins to copy tensors, in the thread that calls.

        Args:
            tensors: one or more, in host memory; unless they are pinned they may change as soon as this returns.
        """
        if self._stream is None:
            return SentTensors([tensor.to(self.device) for tensor in tensors], None)
        pinned = [tensor.pin_memory() for tensor in tensors]
        with torch.cuda.stream(self._stream):
            moved = [tensor.to(self.device, non_blocking=True) for tensor in pinned]
            return SentTensors(moved, self._stream.record_event())
