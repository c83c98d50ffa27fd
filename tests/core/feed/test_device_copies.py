"""Copies to a device: to the CPU at once, to a GPU behind its back and before it is read."""

from __future__ import annotations

import pytest
import torch

from coevo_ray.core.feed.device_copies import DeviceCopies


def test_without_a_gpu_tensors_are_there_at_once() -> None:
    tensors = [torch.arange(6).view(2, 3), torch.ones(2)]
    sent = DeviceCopies(torch.device("cpu")).send(tensors)
    assert sent.copied is None
    assert all(torch.equal(one, other) for one, other in zip(tensors, sent.receive(), strict=True))
    (elsewhere,) = DeviceCopies(torch.device("meta")).send(tensors[:1]).receive()
    assert (elsewhere.device.type, elsewhere.shape, elsewhere.dtype) == ("meta", (2, 3), torch.int64)


@pytest.mark.gpu
def test_a_gpu_reads_what_was_sent_on_whichever_stream() -> None:
    copies = DeviceCopies(torch.device("cuda"))
    host = torch.empty(4_000_000)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    found = []
    with torch.cuda.stream(stream):
        for number in range(20):
            host.fill_(number)
            sent = copies.send([host, host[:3].long()])
            host.fill_(-1)  # what is not pinned may change as soon as it is sent
            big, small = sent.receive()
            found.append((big.min(), big.max(), small))
            del sent, big  # its memory may be given out again while the stream is behind
    for number, (least, most, small) in enumerate(found):
        assert (float(least), float(most), small.tolist()) == (number, number, [number] * 3)
