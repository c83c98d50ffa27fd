"""Where this process stands in Ray Train: its rank, how many there are, and its device."""

from __future__ import annotations

import ray.train
import ray.train.torch
import torch


def worker_place() -> tuple[int, int]:
    """Rank and number of Ray Train's workers; (0, 1) in a process that is none of them."""
    context = _context()
    return (0, 1) if context is None else (context.get_world_rank(), context.get_world_size())


def worker_device() -> torch.device:
    """The device that Ray Train gave to this worker; the CPU in a process that is none of them."""
    if _context() is None:
        return torch.device("cpu")
    device: torch.device = ray.train.torch.get_device()
    return device


def _context() -> ray.train.TrainContext | None:
    try:
        return ray.train.get_context()
    except RuntimeError:  # what Ray Train says outside of a training function
        return None
